#!/bin/bash
# init.sh NODE - PID 1 of a node, in fresh pid, mount, net, uts, ipc and cgroup namespaces. `node up` starts it.
#
# It lays the node's own directories over the default paths of containerd, CNI, CDI and the kubelet, makes the
# network that is the node's "host network", and then reaps orphans until it is killed. The kernel then ends every
# process of the node, and with the last one its mounts, links and sockets go.
set -euo pipefail
NODE=$1 NAME=${1##*/}

# while /proc is still the machine's, it tells the pid by which the machine knows this process
read -r pid _ < /proc/self/stat
mount -t proc proc /proc

# ---- /sys of this network namespace, and the node's own cgroups as if they were the roots
if [[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]]; then
  hierarchies=(cgroup2)
else
  # cgroup v1: the options that name each hierarchy, such as cpu,cpuacct. A v2 mount beside them stays out: crun
  # refuses the mixture when v2 still has a controller.
  mapfile -t hierarchies < <(sed -n 's|^.* /sys/fs/cgroup/\([^/ ]*\) .* - cgroup [^ ]* r[wo],\(.*\)$|\1 \2|p' /proc/self/mountinfo)
fi
umount -R -l /sys
mount -t sysfs sysfs /sys
if [[ ${hierarchies[*]} == cgroup2 ]]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
  for hierarchy in "${hierarchies[@]}"; do
    mkdir "/sys/fs/cgroup/${hierarchy% *}"
    options=$(tr , '\n' <<<"${hierarchy#* }" | grep -v -e xattr -e release_agent -e clone_children | paste -sd,)
    [[ $options != name=* ]] || options=none,$options
    mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/${hierarchy% *}"
  done
fi

# ---- directories. Overlays give mount points that the machine may lack; the directories themselves are plain
# binds, since an overlay cannot carry the overlays of containers.
for dir in /etc /opt /var/lib /var/log; do
  mkdir -p "$NODE/overlay$dir"/{upper,work} "$dir"
  mount -t overlay -o "lowerdir=$dir,upperdir=$NODE/overlay$dir/upper,workdir=$NODE/overlay$dir/work" overlay "$dir"
done
for dir in /etc/{cdi,cni,containerd,kubernetes,nri} /opt/{cni,nri} /var/lib/{cni,containerd,containers,etcd,kubelet} /var/log/{pods,containers} /run; do
  mkdir -p "$NODE/fs$dir" "$dir"
  mount --bind "$NODE/fs$dir" "$dir"
done
mkdir -p /run/{lock,netns,cdi,nri,containerd} /etc/cni/net.d /opt/cni/bin /var/lib/kubelet/device-plugins
mount --bind "$CNI_PLUGINS" /opt/cni/bin
if [[ -d $NODE/containers ]]; then # `node fetch podman`
  mkdir -p /etc/containers
  cp -r "$NODE/containers/." /etc/containers/
fi
mount --make-rshared / # as systemd does; the kubelet needs it

# ---- what the kubelet sets for the whole machine: let it set copies
mkdir -p "$NODE/sysctl"
for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [[ -e /proc/sys/$key ]] || continue
  cat "/proc/sys/$key" > "$NODE/sysctl/${key//\//.}"
  mount --bind "$NODE/sysctl/${key//\//.}" "/proc/sys/$key"
done

# ---- names and network. No resolver: a look-up fails at once, where one that times out would cost 10 s a Pod.
hostname "$NAME"
rm -f /etc/resolv.conf /etc/hosts /etc/hostname
: > /etc/resolv.conf
echo "$NAME" > /etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n10.212.0.2 %s\n' "$NAME" > /etc/hosts
printf 'runtime-endpoint: unix:///run/containerd/containerd.sock\nimage-endpoint: unix:///run/containerd/containerd.sock\ntimeout: 60\n' > /etc/crictl.yaml
ip link set lo up
# eth0 stands for the uplink; a type that takes addresses and needs no peer
ip link add eth0 type ifb 2>/dev/null || ip link add eth0 type dummy
ip address add 10.212.0.2/24 dev eth0
ip link set eth0 up
ip route add default via 10.212.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward

echo "$pid" > "$NODE/init.pid.new"
mv "$NODE/init.pid.new" "$NODE/init.pid"
exec >/dev/null 2>&1
sleep infinity &      # a child that keeps `wait` asleep
while :; do
  wait -n || continue # whatever an orphan's status was; bash reaps it
done
