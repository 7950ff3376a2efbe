# How pytest divides many tests into two lanes (pytest-xdist). Sourced by the other scripts:
#
#     troth_lanes "$@"    →  sets the array LANES: empty where an argument names tests, for who names them wants to see them one
#                            by one, and to be able to stop in them (`-n 2 --dist loadgroup` divides them as well)
#
# Half of the tests wait for processes most of the time, so that two cores are busy with two lanes. tests/conftest.py says which
# tests stay together. One lane: `-n 0`.

troth_lanes() {
  local argument
  LANES=(-n 2 --dist loadgroup --no-loadscope-reorder)
  for argument in "$@"; do
    if [ -e "${argument%%::*}" ]; then LANES=(); fi
  done
}
