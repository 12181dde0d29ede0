# shellcheck shell=bash
# rig.sh - paths, messages, the cache and progress, for every program below hack/. Source it; it starts nothing.
#
# All state lives below $NETDEVICE_RIG (default /tmp/netdevice-rig):
#   cache/           downloads and builds, shared by all instances; each part has a lock
#   nodes/INSTANCE/  one running node; removed with it
# Exit codes: 1 it failed, 2 wrong usage, 3 something that the machine must have is missing, 4 no such node is up.
# shellcheck disable=SC2034  # its variables are for those who source it
set -euo pipefail
# a failed command ends the program in functions, subshells and command substitutions too, and is reported
set -E
shopt -s inherit_errexit
trap 'report_failure "$?" "$BASH_COMMAND"' ERR
# what is made here is for root and for containers alike, whatever the caller's umask
umask 022

HACK=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname "$HACK")
RIG=${NETDEVICE_RIG:-/tmp/netdevice-rig}
CACHE=$RIG/cache
NODES=$RIG/nodes
PAUSE_IMAGE=localhost/netdevice-test/pause:1 BUSYBOX_IMAGE=localhost/netdevice-test/busybox:1

say() { printf '[%s] %s\n' "$(date +%T)" "$*" >&2; }
die() { stop 1 "$*"; }
misuse() { stop 2 "$* (see --help)"; }
missing() { stop 3 "$*"; }

# stop STATUS MESSAGE: a subshell ends with 200 more, by which the shell around it knows that the reason was given
stop() {
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit $((BASH_SUBSHELL > 0 ? $1 + 200 : $1))
}

# report_failure STATUS COMMAND: for the trap: which command failed, and where
report_failure() {
  local status=$1 level place
  if ((status > 200 && status < 205)); then
    exit $((BASH_SUBSHELL > 0 ? status : status - 200))
  fi
  printf '%s: failed with status %s: %s\n' "${0##*/}" "$status" "$2" >&2
  for ((level = 1; level < ${#FUNCNAME[@]}; level++)); do
    place=$(readlink -f "${BASH_SOURCE[level]}") || place=${BASH_SOURCE[level]}
    printf '  at %s:%s (%s)\n' "${place#"$REPOSITORY/"}" "${BASH_LINENO[level - 1]}" "${FUNCNAME[level]}" >&2
  done
  ((status > 1 && status < 5)) || status=1
  exit $((BASH_SUBSHELL > 0 ? status + 200 : status))
}

# prints the comment block at the top of the program, which is its --help
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$0"; }

# first_line COMMAND...: of what it writes. The rest is read too: a command whose reader has gone ends by SIGPIPE, and
# with it the pipeline fails.
first_line() { "$@" | sed -n 1p; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds; its output when it never does. Gives up at once when
# $wait_while fails.
wait_while=true
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    $wait_while || die "$what: the node ended meanwhile"
    if ((SECONDS >= end)); then
      "$@" >&2 || die "$what: gave up waiting"
      return 0
    fi
    sleep 0.05
  done
}

# ---- progress. A program that has several steps adds up first what they cost (`plan`), in seconds on 2 cores; `long`
# and `with_progress` then say how long the rest takes, corrected by what the steps so far took.
planned=0 finished=0 taken=0
plan() { planned=$((planned + $1)); } # SECONDS

# time_left COST ELAPSED: of the step that is running and of those after it. What takes longer than it should says how much
# longer the others will take.
time_left() {
  local cost=$1 elapsed=$2 after step left actual=2 estimated
  estimated=$(nproc)
  if ((finished >= 20)); then actual=$taken estimated=$finished; fi
  after=$((planned - finished - cost > 0 ? planned - finished - cost : 0))
  step=$((cost * actual / estimated))
  if ((elapsed > step && cost > 0)); then left=$((after * elapsed / cost)); else left=$((step - elapsed + after * actual / estimated)); fi
  if ((left <= 60)); then echo "less than a minute left"
  elif ((left < 90)); then echo "about a minute left"
  else echo "about $(((left + 30) / 60)) minutes left"; fi
}

# with_progress LOG COMMAND...: the output of the command goes to LOG; every 20 seconds its last line is shown, and an
# estimate where $step_cost is set
with_progress() {
  local log=$1 job began=$SECONDS elapsed estimate
  shift
  "$@" >"$log" 2>&1 </dev/null &
  job=$!
  while [[ -e /proc/$job ]]; do
    sleep 0.2
    elapsed=$((SECONDS - began))
    ((elapsed % 20 == 19)) || continue
    estimate=''
    [[ -z ${step_cost:-} ]] || estimate=", $(time_left "$step_cost" $elapsed)"
    say "  ... $elapsed s$estimate: $(tail -n 1 "$log" | tr -d '\r' | cut -c 1-120)"
    sleep 1
  done
  wait $job
}

# long WHAT COST COMMAND...: one step of a plan; its last lines and the log's path when it fails. Logs go to $LOGS.
long() {
  local what=$1 step_cost=$2 log began=$SECONDS
  shift 2
  log=$LOGS/$(tr -cs 'a-z0-9\n' - <<<"${what,,}").log
  mkdir -p "$LOGS"
  say "${0##*/}: $what$( ((planned - finished < 30)) || echo " ($(time_left "$step_cost" 0))")"
  with_progress "$log" "$@" || {
    tail -n 20 "$log" >&2
    die "$what: failed: $* (whole output: $log)"
  }
  finished=$((finished + step_cost)) taken=$((taken + SECONDS - began))
}

# quiet LOG COMMAND...: the output is shown only when it fails
quiet() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "failed: $* (whole output: $log)"; }
}

# ---- the cache
is_cached() { [[ $(cat "$CACHE/$1/.key" 2>/dev/null) == "$2" ]]; } # PART KEY

# cached PART KEY COMMAND...: runs COMMAND, which fills $CACHE/PART, unless that was done for the same KEY.
# Others who want the same part wait for the one who makes it.
cached() {
  local part=$1 key=$2
  shift 2
  ! is_cached "$part" "$key" || return 0
  mkdir -p "$CACHE"
  (
    flock -n 9 || { say "waiting for another session that makes $part"; flock 9; }
    ! is_cached "$part" "$key" || exit 0
    mkdir -p "$CACHE/$part"
    "$@"
    printf '%s\n' "$key" > "$CACHE/$part/.key"
  ) 9>"$CACHE/.$part.lock"
}

# ---- Go
have_go() {
  local preflight_table='' # it was shown before
  preflight go\? && is_there go
}

# go_build DIRECTORY ARGS...: `go build` of what the go.mod of DIRECTORY names: static, the modules as committed, never
# from version control. CGO_ENABLED=1 in front makes it dynamic.
go_build() {
  preflight go
  local settings=("CGO_ENABLED=${CGO_ENABLED:-0}" "GOFLAGS=-mod=readonly -buildvcs=false" 'GOVCS=*:off')
  (cd "$1" && shift && env "${settings[@]}" nice go build -trimpath "$@" 2> >(sed '/^go: downloading/d' >&2))
}

# version_in GO-MOD MODULE
version_in() { sed -n "s|^\s*$2 \(v[^ ]*\).*|\1|p" "$1" | sed -n 1p; }

# the key of what is compiled from the go.mod of DIRECTORY
modules_key() { cat "$1"/go.* | sha256sum; }

. "$HACK/preflight.sh"

case $RIG/ in
  /etc/* | /opt/* | /run/* | /var/run/* | /var/lib/* | /var/log/* | /proc/* | /sys/*)
    misuse "NETDEVICE_RIG=$RIG is a place that a node has of its own; choose another, such as /tmp or /home" ;;
  /*) ;;
  *) misuse "NETDEVICE_RIG=$RIG is not an absolute path" ;;
esac
