# shellcheck shell=bash
# fetch.sh - the programs of a node: Debian packages unpacked below $CACHE, and the newest ones compiled by Go.
# Sourced by `node`. Nothing is installed on the machine: apt has its own lists, `dpkg -x` unpacks.

DEBIAN=$CACHE/debian   # sid: containerd 2.1, runc 1.3, crun, CNI plugins, busybox, and the libc they were linked with
TRIXIE=$CACHE/trixie   # containerd 1.7
RUNC14=$CACHE/runc14   # runc 1.4, from experimental
NEWEST=$CACHE/newest   # containerd 2.4 and runc 1.5, which newest/go.mod names
PODMAN=$CACHE/podman   # podman and conmon of this machine's own release; they start the runtimes of $DEBIAN
IMAGES=$CACHE/images   # pause and busybox, OCI tarballs
TOOLS=$CACHE/tools     # programs that the rig needs and this machine lacks
NODE_PACKAGES=(containerd runc crun containernetworking-plugins busybox-static patchelf)

codename() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }

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

quiet() { # LOG COMMAND...: what it says is shown only when it fails
  local log=$1
  shift
  "$@" >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "failed: $*"; }
}

unpack() { # PREFIX FOLDER: every .deb of FOLDER
  local deb
  for deb in "$2"/*.deb; do dpkg -x "$deb" "$1"; done
}

# with_dependencies PART PACKAGE...: into $CACHE/PART, from $suite or sid, so that all of it fits together
with_dependencies() {
  local part=$1 apt
  shift
  open_apt "$part" "${suite:-sid}"
  say "fetch: $* and what they depend on"
  quiet "$CACHE/$part.apt.log" apt-get "${apt[@]}" install --download-only "$@"
  rm -rf "${CACHE:?}/$part"
  unpack "$CACHE/$part" "$CACHE/$part.apt/cache/archives"
  rm -rf "$CACHE/$part.apt" "$CACHE/$part.apt.log"
}

# only PART PACKAGE SUITE: one package alone; it runs on what sid brought
only() {
  local apt
  open_apt "$1" "$3"
  say "fetch: $2 of $3"
  (cd "$CACHE/$1.apt/cache" && quiet "$CACHE/$1.apt.log" apt-get "${apt[@]}" download "$2/$3")
  rm -rf "${CACHE:?}/$1"
  unpack "$CACHE/$1" "$CACHE/$1.apt/cache"
  rm -rf "$CACHE/$1.apt" "$CACHE/$1.apt.log"
}

# with_its_libc ROOT COMMAND...: runs a program of ROOT with ROOT's own dynamic linker and libraries
with_its_libc() {
  local libs
  libs=$(echo "$1"/usr/lib/*-linux-gnu)
  shift
  "$(echo "$libs"/ld-linux-*.so.*)" --library-path "$libs" "$@"
}

# keep_libc PROGRAM: makes it find sid's libc beside it. Not by starting it through ld.so: runc starts itself again
# as /proc/self/exe. RPATH, unlike RUNPATH, also serves the libraries' own needs.
keep_libc() {
  local libs
  libs=$(echo "$DEBIAN"/usr/lib/*-linux-gnu)
  with_its_libc "$DEBIAN" "$DEBIAN/usr/bin/patchelf" --set-interpreter "$(echo "$libs"/ld-linux-*.so.*)" \
    --force-rpath --set-rpath "$libs" "$1"
  "$1" --version >/dev/null || die "$1 does not run on this machine"
}

fetch_debian() {
  with_dependencies debian "${NODE_PACKAGES[@]}"
  keep_libc "$DEBIAN/usr/sbin/runc"
  keep_libc "$DEBIAN/usr/bin/crun"
  "$DEBIAN/usr/bin/containerd" --version >/dev/null || keep_libc "$DEBIAN/usr/bin/containerd"
  "$DEBIAN/usr/bin/containerd" --version | cut -d' ' -f1,3 >&2
  "$DEBIAN/usr/sbin/runc" --version | head -n 1 >&2
  "$DEBIAN/usr/bin/crun" --version | head -n 1 >&2
}

pack_images() {
  local busybox=$DEBIAN/usr/bin/busybox
  say "images: pause and busybox"
  "$HACK/image" pack "$IMAGES/pause.tar" "$PAUSE_IMAGE" --entrypoint /busybox --entrypoint sleep --entrypoint 2147483647 "$busybox"
  "$HACK/image" pack "$IMAGES/busybox.tar" "$BUSYBOX_IMAGE" --busybox "$busybox"
}

fetch_trixie() {
  only trixie containerd trixie
  "$TRIXIE/usr/bin/containerd" --version | cut -d' ' -f1,3 >&2
}

fetch_runc14() {
  only runc14 runc experimental
  keep_libc "$RUNC14/usr/sbin/runc"
  "$RUNC14/usr/sbin/runc" --version | head -n 1 >&2
}

# Of this machine's own release and on its libc: podman is no PIE, and patchelf breaks it. Other libraries go with it.
fetch_podman() {
  local libs suite
  suite=$(codename)
  with_dependencies podman podman conmon
  rm -f "$PODMAN"/{,usr/}lib/*-linux-gnu/{ld-linux,libc,libm,libpthread,libdl,librt,libresolv}[-.]*so*
  libs=$(echo "$PODMAN"/{,usr/}lib/*-linux-gnu | tr ' ' :)
  # what is not podman's default: paths of this rig, no daemon to log to or to ask for cgroups
  cat > "$PODMAN/etc/containers/containers.conf" <<EOT
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
conmon_path = ["$PODMAN/usr/bin/conmon"]
conmon_env_vars = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH=$libs"]
runtime = "crun"
[engine.runtimes]
crun = ["$DEBIAN/usr/bin/crun"]
runc = ["$DEBIAN/usr/sbin/runc"]
[containers]
log_driver = "k8s-file"
EOT
  printf '[storage]\ndriver = "overlay"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
    > "$PODMAN/etc/containers/storage.conf"
  mkdir -p "$PODMAN/bin"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libs" "$PODMAN/usr/bin/podman" > "$PODMAN/bin/podman"
  chmod +x "$PODMAN/bin/podman"
  "$PODMAN/bin/podman" --version >&2
}

build_newest() {
  need_go
  local containerd=github.com/containerd/containerd/v2 runc=github.com/opencontainers/runc modules=$HACK/node/newest version
  version=$(version_in "$modules/go.mod" $containerd)
  say "fetch: compile containerd $version (a minute or two)"
  go_build "$modules" -ldflags "-s -w -X $containerd/version.Version=$version" -o "$NEWEST/" \
    $containerd/cmd/{containerd,ctr,containerd-shim-runc-v2}
  version=$(version_in "$modules/go.mod" $runc)
  say "fetch: compile runc $version"
  # C, for it enters namespaces before Go starts; libseccomp, for a kubelet's sandboxes have a profile. Of this machine's
  # own release, so that its linker and libc go with it.
  only seccomp libseccomp-dev "$(codename)"
  cat > "$CACHE/seccomp/pkg-config" <<EOT
#!/bin/sh
case "\$*" in
  *--libs*) echo "-L$(echo "$CACHE"/seccomp/usr/lib/*-linux-gnu) -l:libseccomp.a" ;;
  *) echo "-I$CACHE/seccomp/usr/include" ;;
esac
EOT
  chmod +x "$CACHE/seccomp/pkg-config"
  CGO_ENABLED=1 PKG_CONFIG=$CACHE/seccomp/pkg-config go_build "$modules" -tags seccomp \
    -ldflags "-s -w -X main.version=$version" -o "$NEWEST/runc" $runc
  rm -rf "$CACHE/seccomp"
  "$NEWEST/runc" features | grep -q '"seccomp"' || die "runc came out without seccomp"
}

fetch_newest() { cached newest "seccomp $(cat "$HACK"/node/newest/go.* | sha256sum)" build_newest; }

# tools that the rig takes from Debian where the machine has none: a wrapper for each in $TOOLS/bin
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
  with_dependencies tools "${packages[@]}"
  mkdir -p "$TOOLS/bin"
  for name in "${names[@]}"; do
    program=$(find "$TOOLS/usr" -path "*bin/$name" | head -n 1)
    declare -f with_its_libc | { echo '#!/bin/bash'; cat; printf 'with_its_libc %q %q "$@"\n' "$TOOLS" "$program"; } > "$TOOLS/bin/$name"
    chmod +x "$TOOLS/bin/$name"
  done
}

# fetch PART...: what is there already stays as it is
fetch() {
  local part
  for part; do
    case $part in
      debian)
        cached debian "${NODE_PACKAGES[*]}" fetch_debian
        cached images "$(cat "$HACK/image" "$DEBIAN/usr/bin/busybox" | sha256sum)" pack_images
        fetch_tools ;;
      sid) ;; # the same as debian, which is always there
      trixie) cached trixie 1.7 fetch_trixie ;;
      runc14) cached runc14 1.4 fetch_runc14 ;;
      podman) cached podman 1 fetch_podman ;;
      newest | runc15) fetch_newest ;;
      runc | crun) ;;
      *) misuse "nothing called $part to fetch: trixie, newest, runc14, runc15 or podman" ;;
    esac
  done
}
