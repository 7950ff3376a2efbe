"""The level `cell` of the simulator: nodes that share shards, services that run in slots, and one store on paper.

Whole production cores of both roles, with the processes, banks, clients and checkers of the level `core`; shares, directories and
the shard of a key are those of production too (`coordinator.cell.sharing`, `troth.cell`). On paper are the store, by the rules of
`troth.log.owned` (a claim is one moment, and so is the landing of an append), and the shells of a node and of a service's process.
"""
