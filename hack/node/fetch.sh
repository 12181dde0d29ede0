# shellcheck shell=bash
# fetch.sh - the programs of a node. Sourced by `node`. Nothing is installed on the machine.
#
# What is a Go module is compiled from a fixed version, which the go.mod and go.sum in a directory beside this file name:
# the same node on every day and every machine. What is none (crun, busybox) is unpacked from Debian packages of this
# machine's own release: apt has its own lists, `dpkg -x` unpacks. Where there is no Go, containerd, runc and the CNI
# plugins are packages of that release too.

CONTAINERD21=$CACHE/containerd-2.1     # containerd/go.mod: the default
RUNC13=$CACHE/runc-1.3                 # runc/go.mod: the default
RUNC14=$CACHE/runc-1.4                 # runc14/go.mod
NEWEST=$CACHE/newest                   # newest/go.mod: containerd 2.4 and runc 1.5
CNI=$CACHE/cni                         # cni/go.mod
RELEASE=$(codename)
MACHINE=$CACHE/machine-$RELEASE        # this machine's release: crun, busybox, patchelf, and their libc
MACHINE_NODE=$CACHE/node-$RELEASE      # its containerd, runc and CNI plugins, where there is no Go
PODMAN=$CACHE/podman-$RELEASE          # its podman and conmon
TRIXIE=$CACHE/trixie                   # containerd 1.7, of Debian 13
SID=$CACHE/sid                         # containerd, runc and crun of Debian unstable, as they are on that day
IMAGES=$CACHE/test-images              # pause and busybox, OCI tarballs
TOOLS=$CACHE/tools                     # programs that the rig needs and this machine lacks
KUBERNETES=${NETDEVICE_KUBERNETES:-1.36} # ../cluster/go.mod is 1.36, others ../cluster/VERSION/go.mod
MACHINE_PACKAGES=(crun busybox-static patchelf)
NODE_PACKAGES=(containerd runc containernetworking-plugins)

# where the cluster's programs of that version are
kubernetes_programs() { if [[ $KUBERNETES == 1.36 ]]; then echo "$CACHE/cluster"; else echo "$CACHE/cluster-$KUBERNETES"; fi; }

# the mirror that this machine's own packages come from: the one that has CODENAME and CODENAME-updates, which a third
# party's repository for the same release does not
mirror() {
  local codename sites site candidates
  [[ -z ${NETDEVICE_DEBIAN_MIRROR:-} ]] || { echo "$NETDEVICE_DEBIAN_MIRROR"; return; }
  command -v apt-get >/dev/null || missing "apt-get is missing: a node is made of Debian packages"
  codename=$(codename)
  sites=$(apt-get --print-uris update)
  mapfile -t candidates < <(sed -n "s|^'\(.*\)/dists/$codename-updates/InRelease'.*|\1|p" <<<"$sites")
  for site in "${candidates[@]}"; do
    ! grep -qF "'$site/dists/$codename/InRelease'" <<<"$sites" || { echo "$site"; return; }
  done
  missing "no Debian mirror in this machine's apt sources: set NETDEVICE_DEBIAN_MIRROR"
}

# open_apt PART SUITE...: sets the array `apt` to options that keep apt below $CACHE/PART.apt, and reads the lists
open_apt() {
  local dir=$CACHE/$1.apt site suite key=/usr/share/keyrings/debian-archive-keyring.gpg
  shift
  site=$(mirror)
  [[ -e $key ]] || missing "$key is missing: apt-get install debian-archive-keyring"
  rm -rf "$dir"
  mkdir -p "$dir"/{lists,cache/archives}/partial
  : > "$dir/status" # as if nothing were installed: dependencies are downloaded too
  for suite; do echo "deb [signed-by=$key] $site $suite main"; done > "$dir/sources.list"
  apt=(-q -y -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$dir/lists" -o "Dir::State::Status=$dir/status" -o "Dir::Cache=$dir/cache"
    -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::Retries=3
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o APT::Update::Post-Invoke-Success= -o APT::Update::Post-Invoke=)
  say "fetch: package lists of $*"
  quiet "$dir.log" apt-get "${apt[@]}" update
}

unpack() { # PREFIX FOLDER: every .deb of FOLDER
  local deb
  for deb in "$2"/*.deb; do dpkg -x "$deb" "$1"; done
}

# with_dependencies SUITE PART PACKAGE...: into $CACHE/PART, so that all of it fits together
with_dependencies() {
  local suite=$1 part=$2 apt
  shift 2
  open_apt "$part" "$suite"
  say "fetch: $* of $suite and what they depend on"
  quiet "$CACHE/$part.apt.log" apt-get "${apt[@]}" install --download-only "$@"
  rm -rf "${CACHE:?}/$part"
  unpack "$CACHE/$part" "$CACHE/$part.apt/cache/archives"
  merge_usr "$CACHE/$part"
  rm -rf "$CACHE/$part.apt" "$CACHE/$part.apt.log"
}

# only PART PACKAGE SUITE: one package alone; it runs on the machine's own libraries
only() {
  local apt
  open_apt "$1" "$3"
  say "fetch: $2 of $3"
  (cd "$CACHE/$1.apt/cache" && quiet "$CACHE/$1.apt.log" apt-get "${apt[@]}" download "$2/$3")
  rm -rf "${CACHE:?}/$1"
  unpack "$CACHE/$1" "$CACHE/$1.apt/cache"
  rm -rf "$CACHE/$1.apt" "$CACHE/$1.apt.log"
}

# merge_usr ROOT: Debian 12's packages have programs and libraries in /bin, /lib and in /usr
merge_usr() {
  local folder
  for folder in bin sbin lib lib64; do
    mkdir -p "$1/usr/$folder"
    [[ -L $1/$folder || ! -d $1/$folder ]] || cp -a "$1/$folder/." "$1/usr/$folder/"
    rm -rf "${1:?}/$folder"
    ln -s "usr/$folder" "$1/$folder"
  done
}

# with_its_libc ROOT COMMAND...: runs a program of ROOT with ROOT's own dynamic linker and libraries
with_its_libc() {
  local libs
  libs=$(echo "$1"/usr/lib/*-linux-gnu)
  shift
  "$(echo "$libs"/ld-linux-*.so.*)" --library-path "$libs" "$@"
}

# keep_libc ROOT PROGRAM: makes it find the libraries that were unpacked with it. Not by starting it through ld.so: runc
# starts itself again as /proc/self/exe. RPATH, unlike RUNPATH, also serves the libraries' own needs.
keep_libc() {
  local libs
  libs=$(echo "$1"/usr/lib/*-linux-gnu)
  with_its_libc "$MACHINE" "$MACHINE/usr/bin/patchelf" --set-interpreter "$(echo "$libs"/ld-linux-*.so.*)" \
    --force-rpath --set-rpath "$libs" "$2"
  "$2" --version >/dev/null || die "$2 does not run on this machine"
}

fetch_machine() {
  with_dependencies "$RELEASE" "machine-$RELEASE" "${MACHINE_PACKAGES[@]}"
  keep_libc "$MACHINE" "$MACHINE/usr/bin/crun"
  start_crun "$MACHINE/usr/bin/crun" > "$MACHINE/start-crun"
  chmod +x "$MACHINE/start-crun"
  first_line "$MACHINE/usr/bin/crun" --version >&2
}

# start_crun PROGRAM: how the node starts it. Before 1.9 (Debian 12 has 1.8) it refuses a configuration whose version is not
# 1.0.x, and containerd 2 writes 1.2: the number is all that is changed. What is new in 1.1 and 1.2 it then leaves out.
start_crun() {
  local version
  version=$(first_line "$1" --version)
  printf '#!/bin/sh\n'
  at_least "${version##* }" 1.9 || cat <<'EOT'
bundle=. before= is_start=
for word; do
  case $word in create | run) is_start=yes ;; esac
  [ "$before" != --bundle ] && [ "$before" != -b ] || bundle=$word
  before=$word
done
[ -z "$is_start" ] || sed -i 's/"ociVersion": *"1\.[1-9][^"]*"/"ociVersion":"1.0.2"/' "$bundle/config.json"
EOT
  printf 'exec %q "$@"\n' "$1"
}

fetch_machine_node() {
  with_dependencies "$RELEASE" "node-$RELEASE" "${NODE_PACKAGES[@]}"
  keep_libc "$MACHINE_NODE" "$MACHINE_NODE/usr/sbin/runc"
  "$MACHINE_NODE/usr/bin/containerd" --version | cut -d' ' -f1,3 >&2
  first_line "$MACHINE_NODE/usr/sbin/runc" --version >&2
}

fetch_sid() {
  with_dependencies sid sid containerd runc crun
  keep_libc "$SID" "$SID/usr/sbin/runc"
  keep_libc "$SID" "$SID/usr/bin/crun"
  "$SID/usr/bin/containerd" --version >/dev/null || keep_libc "$SID" "$SID/usr/bin/containerd"
  "$SID/usr/bin/containerd" --version | cut -d' ' -f1,3 >&2
  first_line "$SID/usr/sbin/runc" --version >&2
  first_line "$SID/usr/bin/crun" --version >&2
}

fetch_trixie() {
  only trixie containerd trixie
  "$TRIXIE/usr/bin/containerd" --version | cut -d' ' -f1,3 >&2
}

pack_images() {
  local busybox=$MACHINE/usr/bin/busybox
  say "images: pause and busybox"
  "$HACK/image" pack "$IMAGES/pause.tar" "$PAUSE_IMAGE" --entrypoint /busybox --entrypoint sleep --entrypoint 2147483647 "$busybox"
  "$HACK/image" pack "$IMAGES/busybox.tar" "$BUSYBOX_IMAGE" --busybox "$busybox"
}

# On the machine's libc: podman is no PIE, and patchelf breaks it. Other libraries go with it. Its configuration, which
# names the node's runtimes, is written when a node starts.
fetch_podman() {
  with_dependencies "$RELEASE" "podman-$RELEASE" podman conmon
  rm -f "$PODMAN"/usr/lib/*-linux-gnu/{ld-linux,libc,libm,libpthread,libdl,librt,libresolv}[-.]*so*
  mkdir -p "$PODMAN/start"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$(podman_libraries)" "$PODMAN/usr/bin/podman" > "$PODMAN/start/podman"
  chmod +x "$PODMAN/start/podman"
  "$PODMAN/start/podman" --version >&2
}
podman_libraries() { echo "$PODMAN"/usr/lib/*-linux-gnu; }

# configure_podman DIRECTORY: what is not its default: paths of this rig, no daemon to log to or to ask for cgroups
configure_podman() {
  mkdir -p "$1"
  cp -r "$PODMAN/etc/containers/." "$1/"
  # shellcheck disable=SC2153  # instance.sh's
  cat > "$1/containers.conf" <<EOT
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_path = ["$PODMAN/usr/bin/conmon"]
conmon_env_vars = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH=$(podman_libraries)"]
runtime = "crun"
[engine.runtimes]
crun = ["$MACHINE/usr/bin/crun"]
runc = ["$RUNC"]
[containers]
log_driver = "k8s-file"
EOT
  printf '[storage]\ndriver = "overlay"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
    > "$1/storage.conf"
}

# compile_containerd MODULES DIRECTORY
compile_containerd() {
  local containerd=github.com/containerd/containerd/v2 version
  version=$(version_in "$1/go.mod" $containerd)
  say "fetch: compile containerd $version (1 to 2 minutes on 2 cores)"
  go_build "$1" -ldflags "-s -w -X $containerd/version.Version=$version" -o "$2/" \
    $containerd/cmd/{containerd,ctr,containerd-shim-runc-v2}
}

# compile_runc MODULES DIRECTORY. C, for it enters namespaces before Go starts; libseccomp, for a kubelet's sandboxes have a
# profile. Of this machine's own release, so that its linker and libc go with it.
compile_runc() {
  local runc=github.com/opencontainers/runc version
  version=$(version_in "$1/go.mod" $runc)
  preflight cc
  cached "seccomp-$RELEASE" "$RELEASE" fetch_seccomp
  say "fetch: compile runc $version (a quarter of a minute on 2 cores)"
  CGO_ENABLED=1 PKG_CONFIG=$CACHE/seccomp-$RELEASE/pkg-config go_build "$1" -tags seccomp \
    -ldflags "-s -w -X main.version=$version" -o "$2/runc" $runc
  grep -q '"seccomp"' <<<"$("$2/runc" features)" || die "runc came out without seccomp"
  first_line "$2/runc" --version >&2
}

fetch_seccomp() {
  local part=seccomp-$RELEASE
  only "$part" libseccomp-dev "$RELEASE"
  cat > "$CACHE/$part/pkg-config" <<EOT
#!/bin/sh
case "\$*" in
  *--libs*) echo "-L$(echo "$CACHE/$part"/usr/lib/*-linux-gnu) -l:libseccomp.a" ;;
  *) echo "-I$CACHE/$part/usr/include" ;;
esac
EOT
  chmod +x "$CACHE/$part/pkg-config"
}

compile_cni() {
  local plugins=github.com/containernetworking/plugins
  say "fetch: compile the CNI plugins $(version_in "$HACK/node/cni/go.mod" $plugins)"
  go_build "$HACK/node/cni" -ldflags "-s -w" -o "$CNI/" \
    $plugins/plugins/{main/{bridge,host-device,loopback,macvlan,ptp},ipam/{host-local,static},meta/{bandwidth,portmap,tuning}} \
    github.com/containernetworking/cni/cnitool
}

compile_newest() {
  compile_containerd "$HACK/node/newest" "$NEWEST"
  compile_runc "$HACK/node/newest" "$NEWEST"
}

# tools that the rig takes from Debian where the machine has none: a starter for each in $TOOLS/start
fetch_tools() {
  local tool packages=() names=()
  for tool in ip:iproute2 openssl:openssl; do
    command -v "${tool%%:*}" >/dev/null || { names+=("${tool%%:*}"); packages+=("${tool#*:}"); }
  done
  [[ ${#names[@]} -gt 0 ]] || return 0
  cached tools "${names[*]}" make_tools
}

make_tools() {
  local name program
  with_dependencies "$RELEASE" tools "${packages[@]}"
  mkdir -p "$TOOLS/start"
  for name in "${names[@]}"; do
    program=$(find "$TOOLS/usr" -path "*bin/$name" -print -quit)
    declare -f with_its_libc | { echo '#!/bin/bash'; cat; printf 'with_its_libc %q %q "$@"\n' "$TOOLS" "$program"; } > "$TOOLS/start/$name"
    chmod +x "$TOOLS/start/$name"
  done
}

# what a part is made by and of; another key makes it anew
key_of() { # PART
  case $1 in
    machine-*) echo "${MACHINE_PACKAGES[*]}; $(declare -f start_crun | sha256sum)" ;;
    node-*) echo "${NODE_PACKAGES[*]}" ;;
    podman-*) echo 1 ;;
    test-images) cat "$HACK/image" "$MACHINE/usr/bin/busybox" | sha256sum ;;
    containerd-2.1) modules_key "$HACK/node/containerd" ;;
    runc-1.3) modules_key "$HACK/node/runc" ;;
    runc-1.4) modules_key "$HACK/node/runc14" ;;
    cni) modules_key "$HACK/node/cni" ;;
    newest) echo "seccomp $(modules_key "$HACK/node/newest")" ;;
    trixie) echo 1.7 ;;
    sid) echo 1 ;;
  esac
}

make() { local part=$1; shift; cached "$part" "$(key_of "$part")" "$@"; } # PART COMMAND...

# fetch_cost [podman]: of what is not there yet, in seconds on 2 cores
fetch_cost() {
  local part sum=0 costs=("machine-$RELEASE 15")
  [[ $# -eq 0 ]] || costs+=("podman-$RELEASE 20")
  if have_go; then costs+=("containerd-2.1 100" "runc-1.3 25" "cni 20"); else costs+=("node-$RELEASE 20"); fi
  for part in "${costs[@]}"; do is_cached "${part% *}" "$(key_of "${part% *}")" || sum=$((sum + ${part#* })); done
  echo $sum
}

# fetch PART...: what is there already stays as it is. What every node has comes first.
fetch() {
  local part
  preflight root debian
  make "machine-$RELEASE" fetch_machine
  make test-images pack_images
  fetch_tools
  if have_go; then
    make containerd-2.1 compile_containerd "$HACK/node/containerd" "$CONTAINERD21"
    make runc-1.3 compile_runc "$HACK/node/runc" "$RUNC13"
    make cni compile_cni
  else
    make "node-$RELEASE" fetch_machine_node
  fi
  for part; do
    case $part in
      pinned | machine | runc | crun) ;; # these are
      sid | crun-sid) make sid fetch_sid ;;
      trixie) make trixie fetch_trixie ;;
      runc14) make runc-1.4 compile_runc "$HACK/node/runc14" "$RUNC14" ;;
      podman) make "podman-$RELEASE" fetch_podman ;;
      newest | runc15) make newest compile_newest ;;
      *) misuse "nothing called $part to fetch: trixie, sid, newest, runc14, runc15, crun-sid or podman" ;;
    esac
  done
}
