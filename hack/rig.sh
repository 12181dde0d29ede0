# shellcheck shell=bash
# rig.sh - where things are and how they are said, for every program below hack/. Source it; it starts nothing.
#
# All state lives below $NETDEVICE_RIG (default /tmp/netdevice-rig):
#   cache/           downloads and builds, shared by all instances; each part has a lock
#   nodes/INSTANCE/  one running node; gone after its teardown
# Exit codes: 1 it failed, 2 wrong usage, 3 something that the machine must have is missing, 4 no such node is up.
# shellcheck disable=SC2034  # its variables are for those who source it
set -euo pipefail
# what is made here is for root and for containers alike, whatever the caller's umask
umask 022

HACK=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname "$HACK")
RIG=${NETDEVICE_RIG:-/tmp/netdevice-rig}
CACHE=$RIG/cache
NODES=$RIG/nodes
PAUSE_IMAGE=localhost/netdevice-test/pause:1 BUSYBOX_IMAGE=localhost/netdevice-test/busybox:1

say() { printf '[%s] %s\n' "$(date +%T)" "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
misuse() { printf '%s: %s (see --help)\n' "${0##*/}" "$*" >&2; exit 2; }
missing() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 3; }

# prints the comment block at the top of the program, which is its --help
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p}' "$0"; }

need_root() { [[ $EUID == 0 ]] || missing "must run as root"; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds; its last words when it never does. In vain once
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

# with_progress LOG COMMAND...: what the command says goes to LOG; every 20 seconds the last line of it is shown, so that
# nobody wonders whether it still goes on
with_progress() {
  local log=$1 job began=$SECONDS
  shift
  "$@" >"$log" 2>&1 </dev/null &
  job=$!
  while [[ -e /proc/$job ]]; do
    sleep 0.2
    (((SECONDS - began) % 20 == 19)) || continue
    say "  ... $((SECONDS - began)) s: $(tail -n 1 "$log" | tr -d '\r' | cut -c 1-120)"
    sleep 1
  done
  wait $job
}

# cached PART KEY COMMAND...: runs COMMAND, which fills $CACHE/PART, unless that was done for the same KEY.
# Others who want the same part wait for the one who makes it.
cached() {
  local part=$1 key=$2 stamp=$CACHE/$1/.key
  shift 2
  [[ $(cat "$stamp" 2>/dev/null) != "$key" ]] || return 0
  mkdir -p "$CACHE"
  (
    flock -n 9 || { say "waiting for another session that makes $part"; flock 9; }
    [[ $(cat "$stamp" 2>/dev/null) != "$key" ]] || exit 0
    mkdir -p "$CACHE/$part"
    "$@"
    printf '%s\n' "$key" > "$stamp"
  ) 9>"$CACHE/.$part.lock"
}

need_go() { command -v go >/dev/null || missing "go is missing: install Go 1.26 or later"; }

# go_build DIRECTORY ARGS...: `go build` of what the go.mod of DIRECTORY names: static, the modules as committed, never
# from version control. CGO_ENABLED=1 in front makes it dynamic.
go_build() {
  need_go
  local settings=("CGO_ENABLED=${CGO_ENABLED:-0}" "GOFLAGS=-mod=readonly -buildvcs=false" 'GOVCS=*:off')
  (cd "$1" && shift && env "${settings[@]}" nice go build -trimpath "$@" 2> >(grep -v '^go: downloading' >&2))
}

# version_in GO-MOD MODULE
version_in() { sed -n "s|^\s*$2 \(v[^ ]*\).*|\1|p" "$1" | head -n 1; }

case $RIG/ in
  /etc/* | /opt/* | /run/* | /var/run/* | /var/lib/* | /var/log/* | /proc/* | /sys/*)
    misuse "NETDEVICE_RIG=$RIG is a place that a node has of its own; choose another, such as /tmp or /home" ;;
  /*) ;;
  *) misuse "NETDEVICE_RIG=$RIG is not an absolute path" ;;
esac
