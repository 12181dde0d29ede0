# shellcheck shell=bash
# instance.sh - one running node as seen from outside: where it is, entering it, its daemons and cgroups. Source it.
. "$(dirname "${BASH_SOURCE[0]}")/../rig.sh"
. "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

# instance NAME: sets $NODE and what the node was started with
instance() {
  [[ -n ${1:-} ]] || misuse "the name of a node is missing"
  # it is a host name and, for the kubelet, a Node's name
  [[ $1 =~ ^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$ ]] || misuse "'$1' is no name for a node: up to 40 of a-z, 0-9 and -, no - at the ends"
  NAME=$1 NODE=$NODES/$1 wait_while=alive
  NODE_CGROUP=netdevice-rig/$NAME.$(cksum <<<"$NODE" | cut -d' ' -f1)
  CONTAINERD=$(cat "$NODE/containerd" 2>/dev/null) || CONTAINERD=${NETDEVICE_CONTAINERD:-$(have_go && echo pinned || echo machine)}
  RUNC=$(cat "$NODE/runc" 2>/dev/null) || RUNC=$(have_go && echo "$RUNC13/runc" || echo "$MACHINE_NODE/usr/sbin/runc")
  # shellcheck disable=SC2034  # init.sh's
  CNI_PLUGINS=$CNI
  # shellcheck disable=SC2034
  [[ $RUNC == "$RUNC13"/* ]] || CNI_PLUGINS=$MACHINE_NODE/usr/lib/cni
  case $CONTAINERD in
    pinned) containerd_bin=$CONTAINERD21 ;;
    machine) containerd_bin=$MACHINE_NODE/usr/bin ;;
    trixie) containerd_bin=$TRIXIE/usr/bin ;;
    sid) containerd_bin=$SID/usr/bin ;;
    newest) containerd_bin=$NEWEST ;;
    *) misuse "containerd '$CONTAINERD' is none of pinned (2.1), trixie (1.7), sid, newest (2.4)" ;;
  esac
  RUNTIME=$(cat "$NODE/runtime" 2>/dev/null) || RUNTIME=${NETDEVICE_RUNTIME:-runc}
  [[ $RUNTIME =~ ^(runc|crun|runc14|runc15|crun-sid)$ ]] || misuse "runtime '$RUNTIME' is none of runc, crun, runc14, runc15, crun-sid"
  KUBERNETES=$(cat "$NODE/kubernetes" 2>/dev/null) || KUBERNETES=${NETDEVICE_KUBERNETES:-1.36}
  PROGRAMS=$(kubernetes_programs)
  NODE_PATH=$TOOLS/start:$containerd_bin:${RUNC%/*}:$MACHINE/usr/bin:$PODMAN/start:$PROGRAMS:$CACHE/crictl:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}

# the init lives and is this node's: a pid alone may be somebody else's by now
alive() {
  init=$(cat "$NODE/init.pid" 2>/dev/null) && grep -qzxF "$NODE" "/proc/$init/cmdline" 2>/dev/null
}

need_alive() {
  alive || { printf '%s: no node %s is up\n' "${0##*/}" "$NAME" >&2; exit 4; }
}

# enter COMMAND...: becomes COMMAND inside the node, in the same directory where there is one. It dies with its caller.
enter() {
  export PATH=$NODE_PATH CONTAINERD_NAMESPACE=k8s.io
  export KUBECONFIG=/etc/kubernetes/admin.conf KUBECACHEDIR=/run/rig/kubectl-cache
  # shellcheck disable=SC2016  # for the shell inside
  exec nsenter --target "$init" --mount --net --pid --uts --ipc --cgroup -- setpriv --pdeathsig KILL \
    sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' "$PWD" "$@"
}

in_node() { (enter "$@"); }

# ---- daemons: a pid file in the node's /run/rig, a log in $NODE/log
daemon_runs() { # NAME
  # shellcheck disable=SC2016
  in_node sh -c 'read -r pid </run/rig/$0.pid && read -r comm </proc/$pid/comm && [ "$comm" = "$1" ]' "$1" "${1:0:15}" 2>/dev/null
}

daemon() { # NAME COMMAND...
  local name=$1
  shift
  ! daemon_runs "$name" || return 0
  # a clean environment: shims inherit containerd's, and so do hooks that have none of their own
  # shellcheck disable=SC2016
  (
    join_cgroup
    enter env -i HOME=/root LANG=C.UTF-8 "PATH=$NODE_PATH" sh -c \
      'cd /; name=$0 log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $! >/run/rig/$name.pid' \
      "$name" "$NODE/log/$name.log" "$@"
  )
}

halt() { # NAME SECONDS: TERM, and KILL when it takes longer
  daemon_runs "$1" || return 0
  # shellcheck disable=SC2016
  in_node sh -c 'read -r pid </run/rig/$0.pid; kill "$pid"; tries=$(($1 * 50))
    while [ -e /proc/$pid ] && [ $tries -gt 0 ]; do sleep 0.02; tries=$((tries - 1)); done
    [ ! -e /proc/$pid ] || kill -9 "$pid"; rm -f /run/rig/$0.pid' "$1" "$2"
}

# ---- cgroups: a subtree of every hierarchy, which the node's cgroup namespace makes its root
cgroup_roots() {
  local dir
  if unified; then echo /sys/fs/cgroup; return; fi
  for dir in /sys/fs/cgroup/*; do
    [[ -L $dir || ! -e $dir/tasks ]] || echo "$dir"
  done
}

make_cgroups() {
  local root dir file
  for root in $(cgroup_roots); do
    mkdir -p "$root/$NODE_CGROUP"
    for dir in "$root/${NODE_CGROUP%/*}" "$root/$NODE_CGROUP"; do
      # v1's cpusets start empty
      for file in cpuset.cpus cpuset.mems; do
        unified || [[ ! -e $dir/$file ]] || cat "$root/$file" > "$dir/$file"
      done
    done
    # v2's controllers are handed down level by level
    ! unified || hand_down_controllers "$root" "$root/${NODE_CGROUP%/*}"
  done
}

hand_down_controllers() { # DIRECTORY...
  local dir controller controllers
  for dir; do
    read -ra controllers < "$dir/cgroup.controllers" || continue # there are none
    for controller in "${controllers[@]}"; do
      # one that is not available must not prevent the others
      echo "+$controller" 2>/dev/null > "$dir/cgroup.subtree_control" || say "cgroup controller $controller is not available"
    done
  done
}

# v2 allows no process in a group with groups below it, so they have a group of their own
cgroup_of_daemons() { if unified && [[ -d $1/system ]]; then echo "$1/system"; else echo "$1"; fi; }

join_cgroup() { # the calling shell
  local root
  for root in $(cgroup_roots); do
    echo "$BASHPID" > "$(cgroup_of_daemons "$root/$NODE_CGROUP")/cgroup.procs"
  done
}

settle_cgroups() { # once the init runs in them
  local dir=/sys/fs/cgroup/$NODE_CGROUP pid pids
  unified || return 0
  mkdir -p "$dir/system"
  mapfile -t pids < "$dir/cgroup.procs"
  for pid in "${pids[@]}"; do echo "$pid" > "$dir/system/cgroup.procs"; done
  hand_down_controllers "$dir"
}

# groups outlive their processes; a process takes a moment to leave
remove_cgroups() {
  local root tries left
  for ((tries = 0; tries < 100; tries++)); do
    left=
    for root in $(cgroup_roots); do
      [[ ! -d $root/$NODE_CGROUP ]] || find "$root/$NODE_CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || left=yes
    done
    [[ -n $left ]] || break
    sleep 0.05
  done
  [[ -z $left ]] || die "cgroups of $NAME are still in use: $(find /sys/fs/cgroup -path "*/$NODE_CGROUP" | sed -n 1,3p | paste -sd' ')"
  for root in $(cgroup_roots); do
    # shared with other nodes: it goes with the last one
    rmdir "$root/${NODE_CGROUP%/*}" 2>/dev/null || continue
  done
}
