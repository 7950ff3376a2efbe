# Brings database servers for tests and the benchmark, without root. Sourced by the other scripts, after environment.sh:
#
#     troth_postgres      →  exports TEST_POSTGRES_BIN, the directory of PostgreSQL 15's programs
#     troth_pgbouncer     →  exports TEST_PGBOUNCER_BIN, that of its pooling proxy
#     troth_promtool      →  exports TEST_PROMTOOL_BIN, that of Prometheus's promtool; empty where it cannot be had
#     troth_chromium      →  exports TEST_CHROMIUM_BIN, that of Chromium; empty where it cannot be had
#     troth_mariadb       →  exports TEST_MARIADB_BIN, the directory of MariaDB's server
#     troth_mysql         →  exports TEST_MYSQL_BIN, that of MySQL's server; empty where it cannot be had
#     troth_redis         →  exports TEST_REDIS_BIN, that of Redis
#     troth_seata         →  exports TEST_SEATA_JARS, the directory of Seata's server/ and client/, for the benchmark alone
#     troth_servers       →  all of the tests', and TEST_SERVERS_DIRECTORY in continuous integration
#
# A server that the distribution has installed is used as it is. Otherwise Debian's packages are fetched and unpacked into
# .servers/ of this clone; nothing is installed, nothing is started. Tests start private instances of what stands there
# (participant_sdk.testing.postgres, .mariadb and .mysql), on directories and sockets of their own, and stop them by pid.

TROTH_SERVERS="$ROOT/.servers"

# Fetches Debian packages, with those that they need, and unpacks them into a directory:
#
#     troth_unpack_debian "" DIRECTORY PACKAGE…       of this machine's Debian, and what this machine has is not fetched again
#     troth_unpack_debian SUITE DIRECTORY PACKAGE…    of another Debian, down to its C library: nothing of this machine fits them;
#                                                     from where this machine has its own
troth_unpack_debian() {
  local suite="$1" directory="$2" apt="$2.apt" archive package
  shift 2
  command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || return 1
  rm -rf "$apt"
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  local options=(-qq -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=)
  if [ -n "$suite" ]; then
    archive="$(apt-get indextargets --format '$(REPO_URI)' | awk '!/security/ && !found { print; found = 1 }')"
    printf '%s\n' "Types: deb" "URIs: $archive" "Suites: $suite" "Components: main" \
      "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" >"$apt/suite.sources"
    : >"$apt/status"
    options+=(-o "Dir::Etc::sourcelist=$apt/suite.sources" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::status=$apt/status")
  fi
  apt-get "${options[@]}" update >&2 &&
    apt-get "${options[@]}" -y --download-only --reinstall --no-install-recommends install "$@" >&2 || return 1
  rm -rf "$directory.new"
  mkdir -p "$directory.new"
  for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$directory.new" || return 1
  done
  rm -rf "$apt" "$directory"
  mv "$directory.new" "$directory"
}

# The programs of a server: in the first directory that has them, or unpacked.
troth_server() {
  local name="$1" program="$2" installed="$3" unpacked="$4"
  shift 4
  if [ -x "$installed/$program" ]; then
    printf '%s\n' "$installed"
    return 0
  fi
  mkdir -p "$TROTH_SERVERS"
  troth_lock "$TROTH_SERVERS/$name.lock"
  if [ ! -x "$TROTH_SERVERS/$name/$unpacked/$program" ]; then
    troth_say "troth: fetching $name (once; some 20 MB)"
    troth_unpack_debian "" "$TROTH_SERVERS/$name" "$@" || {
      troth_say "troth: could not fetch $name. Install it (Debian: apt install $*), or name its programs' directory in the environment."
      return 1
    }
  fi
  troth_unlock
  printf '%s\n' "$TROTH_SERVERS/$name/$unpacked"
}

troth_postgres() {
  TEST_POSTGRES_BIN="${TEST_POSTGRES_BIN:-$(troth_server postgresql-15 postgres /usr/lib/postgresql/15/bin usr/lib/postgresql/15/bin \
    postgresql-15 postgresql-client-15)}" || return 1
  export TEST_POSTGRES_BIN
}

troth_pgbouncer() {
  TEST_PGBOUNCER_BIN="${TEST_PGBOUNCER_BIN:-$(troth_server pgbouncer pgbouncer /usr/sbin usr/sbin pgbouncer)}" || return 1
  export TEST_PGBOUNCER_BIN
}

troth_mariadb() {
  TEST_MARIADB_BIN="${TEST_MARIADB_BIN:-$(troth_server mariadb mariadbd /usr/sbin usr/sbin mariadb-server-core mariadb-common)}" || return 1
  export TEST_MARIADB_BIN
}

# MySQL is in Debian's unstable suite alone. Tests that want it are left out where it cannot be had.
troth_mysql() {
  TEST_MYSQL_BIN="${TEST_MYSQL_BIN:-$(troth_mysql_unpacked)}" || TEST_MYSQL_BIN=
  export TEST_MYSQL_BIN
}

# Its server with that suite's libraries, down to the C library, and a program that starts it with these: 150 MB, when what is not
# for the server is gone.
troth_mysql_unpacked() {
  local directory="$TROTH_SERVERS/mysql" libraries
  # MariaDB has a program of this name too.
  if [ -x /usr/sbin/mysqld ] && [[ "$(/usr/sbin/mysqld --no-defaults --version 2>/dev/null)" != *MariaDB* ]]; then
    printf '%s\n' /usr/sbin
    return 0
  fi
  mkdir -p "$TROTH_SERVERS"
  troth_lock "$directory.lock"
  if [ ! -x "$directory/bin/mysqld" ]; then
    troth_say "troth: fetching MySQL of Debian's sid (once; some 60 MB)"
    troth_unpack_debian sid "$directory" mysql-server-core || {
      troth_say "troth: MySQL could not be had: what is tested with it is left out"
      return 1
    }
    libraries="$(dirname "$(find "$directory"/usr/lib/*-linux-gnu -name libc.so.6)")"
    rm -rf "$directory"/{etc,var} "$directory"/usr/{bin,include,libexec} "$directory"/usr/lib/mysql/plugin \
      "$libraries"/{perl*,gconv,libperl*,ossl-modules,engines-*,sasl2,krb5} "$directory"/usr/share/{perl*,doc,man,locale,bash-completion,lintian}
    mkdir "$directory/bin"
    cat >"$directory/bin/mysqld" <<'STARTS'
#!/bin/sh
# Starts the server that was unpacked here with the libraries that were unpacked with it: this machine's may be older.
here="$(dirname "$(dirname "$(readlink -f "$0")")")/usr"
for libraries in "$here"/lib/*-linux-gnu; do :; done
for loader in "$libraries"/ld-linux-*.so.*; do :; done
exec "$loader" --library-path "$libraries" "$here/sbin/mysqld" "$@" "--basedir=$here" "--lc-messages-dir=$here/share/mysql" \
  "--character-sets-dir=$here/share/mysql/charsets"
STARTS
    chmod +x "$directory/bin/mysqld"
  fi
  troth_unlock
  printf '%s\n' "$directory/bin"
}

troth_redis() {
  TEST_REDIS_BIN="${TEST_REDIS_BIN:-$(troth_server redis redis-server /usr/bin usr/bin redis-server)}" || return 1
  export TEST_REDIS_BIN
}

# A peer that the benchmark measures beside Troth, from a Maven repository: some 200 MB with all that it brings.
troth_seata() {
  TEST_SEATA_JARS="${TEST_SEATA_JARS:-$(troth_seata_jars)}" || return 1
  export TEST_SEATA_JARS
}

# Where they are: fetched, if they are not there yet.
troth_seata_jars() {
  local part
  mkdir -p "$TROTH_SERVERS"
  troth_lock "$TROTH_SERVERS/seata.lock"
  if [ ! -d "$TROTH_SERVERS/seata" ]; then
    if ! command -v mvn >/dev/null 2>&1; then
      troth_say "troth: Seata wants Maven and a JDK. Install them (Debian: apt install maven default-jdk-headless)."
      return 1
    fi
    troth_say "troth: fetching Seata (once; some 200 MB)"
    rm -rf "$TROTH_SERVERS/seata.new"
    for part in server client; do
      mvn --batch-mode --quiet --file "$ROOT/bench/peers/java/$part.xml" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        "-DoutputDirectory=$TROTH_SERVERS/seata.new/$part" -DincludeScope=runtime >&2 || {
        troth_say "troth: could not fetch Seata. It comes from a Maven repository."
        return 1
      }
    done
    mv "$TROTH_SERVERS/seata.new" "$TROTH_SERVERS/seata"
  fi
  troth_unlock
  printf '%s\n' "$TROTH_SERVERS/seata"
}

# Checks alert rules. Tests that want it are left out where it cannot be had.
troth_promtool() {
  TEST_PROMTOOL_BIN="${TEST_PROMTOOL_BIN:-$(troth_server prometheus promtool /usr/bin usr/bin prometheus)}" || TEST_PROMTOOL_BIN=
  export TEST_PROMTOOL_BIN
}

# Looks at the console as people do: some 100 MB with its libraries. Tests that want it are left out where it cannot be had.
troth_chromium() {
  TEST_CHROMIUM_BIN="${TEST_CHROMIUM_BIN:-$(troth_server chromium chromium /usr/lib/chromium usr/lib/chromium chromium)}" || TEST_CHROMIUM_BIN=
  export TEST_CHROMIUM_BIN
}

# All of them. What is not there yet is fetched side by side: most of that is waiting for the archive.
troth_servers() {
  local one
  for one in postgres pgbouncer mariadb mysql redis promtool chromium; do ("troth_$one") & done
  wait
  troth_in_memory
  troth_postgres && troth_pgbouncer && troth_mariadb && troth_mysql && troth_redis && troth_promtool && troth_chromium
}

# In continuous integration servers have their data in memory, where there is plenty: tests make databases by the hundred, of 300
# files each. A test kills processes, and no machine's power: what a server has written stays there as it does in a disk's cache.
# Elsewhere they are in /tmp, for a run that is killed leaves them behind.
troth_in_memory() {
  local available room
  if [ -z "${CI:-}" ] || [ -n "${TEST_SERVERS_DIRECTORY:-}" ]; then return 0; fi
  available="$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null)" || return 0
  room="$(df --output=avail -k /dev/shm 2>/dev/null | awk 'NR == 2 { print int($1 / 1048576) }')" || return 0
  if [ "${available:-0}" -ge 12 ] && [ "${room:-0}" -ge 10 ] && [ -w /dev/shm ]; then export TEST_SERVERS_DIRECTORY=/dev/shm; fi
}
