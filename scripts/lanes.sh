# How pytest divides many tests into three lanes (pytest-xdist). Sourced by the other scripts:
#
#     troth_lanes "$@"    →  sets the array LANES: empty where an argument names tests, for who names them wants to see them one
#                            by one, and to be able to stop in them (`-n 3 --dist loadgroup` divides them as well)
#
# Half of the tests wait most of the time: for processes that are killed and start again, for leases that lapse, for what a peer must
# not say. (A test of kill -9 computes for 13 of its 37 seconds, one of `troth conform` for 13 of 78.) So three lanes keep two cores
# busy. tests/conftest.py says which tests stay together. One lane: `-n 0`.

troth_lanes() {
  local argument
  LANES=(-n 3 --dist loadgroup --no-loadscope-reorder)
  for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then LANES=(); fi
  done
}
