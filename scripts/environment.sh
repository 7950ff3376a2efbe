# Makes a virtual environment with this project in it. Sourced by the other scripts:
#
#     troth_environment NAME EXTRAS [GROUP]    →  sets PYTHON to ROOT/.venv-NAME/bin/python
#
# The environment is made anew when pyproject.toml, this file, the Python or the clone's place changed. No root needed.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
# Machines of continuous integration set it. Thousands of processes start in a run, and each would compile all sources again, and
# pytest would rewrite each test again: half of the time that a daemon takes to start.
unset PYTHONDONTWRITEBYTECODE

troth_say() { printf '%s\n' "$*" >&2; }

# The first Python that is new enough; the floor is 3.11.
troth_base_python() {
  local candidate
  for candidate in ${TROTH_PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return 0
    fi
  done
  troth_say "troth: no Python 3.11 or newer was found. Install it (Debian 12: apt install python3 python3-venv)," \
    "or name one in TROTH_PYTHON."
  return 1
}

# `python -m venv`, or the same with the pip of the base Python where the distribution has split ensurepip off.
troth_make_venv() {
  local base="$1" directory="$2"
  if "$base" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    "$base" -m venv "$directory"
  elif "$base" -c 'import venv, pip' >/dev/null 2>&1; then
    "$base" -m venv --without-pip "$directory" &&
      "$base" -m pip --python "$directory/bin/python" install --quiet pip
  else
    troth_say "troth: $base cannot make a virtual environment: its venv module is missing." \
      "Install it (Debian: apt install python3-venv), or name another Python in TROTH_PYTHON."
    return 1
  fi
}

# From here to troth_unlock one process at a time, where flock is: two that run at once would build into the same directory.
troth_lock() {
  exec 9>"$1"
  if command -v flock >/dev/null 2>&1; then flock 9; fi
}

troth_unlock() { exec 9>&-; }

troth_install() {
  local extras="$1" group="$2"
  # Dependency groups need a younger pip than Python 3.11 brings.
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' &&
    (cd "$ROOT" && "$PYTHON" -m pip install --quiet --disable-pip-version-check \
      --editable ".[$extras]" ${group:+--group "$group"})
}

troth_environment() {
  local name="$1" extras="$2" group="${3:-}" base directory stamp
  base="$(troth_base_python)" || return 1
  directory="$ROOT/.venv-$name"
  stamp="$({
    cat "$ROOT/pyproject.toml" "$ROOT/scripts/environment.sh"
    "$base" -VV
    printf '%s\n' "$base" "$ROOT" "$extras" "$group"
  } | cksum)"
  PYTHON="$directory/bin/python"
  mkdir -p "$ROOT/var"
  troth_lock "$ROOT/var/venv-$name.lock"
  if [ "$(cat "$directory/troth-stamp" 2>/dev/null)" != "$stamp" ] || ! "$PYTHON" -c '' >/dev/null 2>&1; then
    troth_say "troth: making ${directory##*/} (once; a minute or so)"
    rm -rf "$directory"
    if ! { troth_make_venv "$base" "$directory" && troth_install "$extras" "$group"; }; then
      troth_say "troth: could not make $directory; see above. A package index must be reachable the first time."
      return 1
    fi
    printf '%s\n' "$stamp" >"$directory/troth-stamp"
  fi
  troth_unlock
}

# The environment of everything that developers do; scripts/floors makes the same one of the oldest versions, scripts/newest of the
# newest Python.
TEST_EXTRAS="sqlite,coordinator,postgres,asyncpg,mariadb,sqlalchemy,redis,pki,oidc,metrics,otlp,console,fast"
troth_test_environment() { troth_environment test "$TEST_EXTRAS" dev; }
