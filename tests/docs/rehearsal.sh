# The services of a rehearsal: what `systemctl` and `journalctl` are on the machine of a runbook's reader. Sourced by the shell of a
# rehearsal. `troth` is the daemon, every other name a bank. What they write comes to the terminal, and stays in var/log.
declare -A PIDS
mkdir -p var/log

systemctl() {
  local name="$2" program="rehearse bank"
  [ "$name" != troth ] || program="troth serve"
  case "$1" in
    start)
      [ -e "var/log/$name" ] || { : >"var/log/$name"; tail -f "var/log/$name" & }
      [ "$name" = troth ] || program="$program $name"
      ${PROGRAM:-$program} >>"var/log/$name" 2>&1 &
      PIDS[$name]=$!
      ;;
    stop) ended "$name" -TERM ;;
    restart) systemctl stop "$name"; systemctl start "$name" ;;
  esac
}

# journalctl -o cat -u NAME [-n LINES]
journalctl() { tail -n "${6:-+1}" "var/log/$4"; }

# The service ends: by itself, or by the signal that is named.
ended() {
  [ -z "${2:-}" ] || kill "$2" "${PIDS[$1]}"
  wait "${PIDS[$1]}" 2>&-
}

# Until a command's output has the pattern.
until_says() {
  local pattern="$1"
  shift
  until "$@" 2>&1 | grep -q "$pattern"; do sleep 0.1; done
}
