# shellcheck shell=bash
# containerd.sh - containerd's configuration and life in a node. Sourced by `node`.
# shellcheck disable=SC2154  # containerd_bin is instance.sh's
# Settings are containerd's defaults where a test could tell the difference; paths are all defaults.

# one runtime handler, over the same shim
handler() { # NAME BINARY
  [[ -x $2 ]] || return 0
  printf "[plugins.'%s'.containerd.runtimes.%s]\n  runtime_type = 'io.containerd.runc.v2'\n" "$cri" "$1"
  printf "[plugins.'%s'.containerd.runtimes.%s.options]\n  BinaryName = '%s'\n  SystemdCgroup = false\n" "$cri" "$1" "$2"
}

# version 2 of the file is for containerd 1.x, version 3 for 2.x; the same settings under other names
containerd_config() {
  local cri cni version
  version=$("$containerd_bin/containerd" --version)
  if [[ $version =~ ^[^\ ]+\ [^\ ]+\ v?1\. ]]; then
    cri=io.containerd.grpc.v1.cri cni="bin_dir = '/opt/cni/bin'"
    printf "version = 2\n[plugins.'%s']\n  sandbox_image = '%s'\n" "$cri" "$PAUSE_IMAGE"
  else
    cri=io.containerd.cri.v1.runtime cni="bin_dirs = ['/opt/cni/bin']"
    printf "version = 3\n[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = '%s'\n[plugins.'%s']\n" "$PAUSE_IMAGE" "$cri"
  fi
  cat <<EOT
  enable_cdi = true
  cdi_spec_dirs = ['/etc/cdi', '/var/run/cdi']
  # profiles would be loaded into the machine's kernel
  disable_apparmor = true
  # true where this machine forbids an oom_score_adj below one's own: a sandbox asks for -998
  restrict_oom_score_adj = $(may_lower_oom_score && echo false || echo true)
[plugins.'$cri'.cni]
  $cni
[plugins.'$cri'.containerd]
  default_runtime_name = '$RUNTIME'
# off by default in 1.7
[plugins.'io.containerd.nri.v1.nri']
  disable = false
[debug]
  level = '${NETDEVICE_CONTAINERD_LOG:-info}'
EOT
  handler runc "$RUNC"
  handler crun "$MACHINE/start-crun"
  handler runc14 "$RUNC14/runc"
  handler runc15 "$NEWEST/runc"
  handler crun-sid "$SID/usr/bin/crun"
}

containerd_start() {
  daemon_runs containerd || launch_containerd
  local present image
  present=$(in_node ctr images ls -q)
  for image in pause:"$PAUSE_IMAGE" busybox:"$BUSYBOX_IMAGE"; do
    grep -qxF "${image#*:}" <<<"$present" || in_node ctr images import "$IMAGES/${image%%:*}.tar" >/dev/null
  done
}

launch_containerd() {
  containerd_config > "$NODE/fs/etc/containerd/config.toml"
  cp "$HACK/node/bridge.conflist" "$NODE/fs/etc/cni/net.d/10-rig.conflist"
  daemon containerd containerd
  wait_for 30 "containerd (see $NODE/log/containerd.log)" in_node ctr version
}

# the Pods go on running: their shims live on
containerd_stop() { halt containerd 20; }
