"""The level `locks` of the simulator: many transactions on few keys, some of which they find while they run.

Production cores as at the level `core`. Read locks are held, and it is recorded who read and changed what, in which order. So it is
seen from outside whether what was committed could have happened one after the other, over all services (`history`). Whoever waits
is watched (`waits`): nobody waits in a circle, and without faults nobody waits for long.
"""
