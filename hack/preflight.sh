# shellcheck shell=bash
# preflight.sh - what a program needs of this machine, looked for before anything else is done. Sourced by rig.sh.
#
#   preflight NEED...   NEED? with a question mark: the program can do without, and says so itself.
#
# One table when something is missing or must be installed, and whenever $preflight_table is set. What rustup has is added
# without asking (a toolchain, a target, components). Debian packages are installed only where $preflight_install is set
# (hack/test, .ci/run) and the user is root. Exit code 3 with one line for each thing that is missing. What was found
# is handed to the programs that this one starts, which then do not look again.

preflight() {
  local need optional states=() names=() details=() lacking=() absent=() rust=() components=() packages=() wishes=() wished=()
  for need; do
    optional=
    [[ $need != *\? ]] || { optional=yes need=${need%\?}; }
    ! is_there "$need" || continue
    "look_for_$need"
  done
  [[ ${#names[@]} -gt 0 ]] || return 0
  if [[ -n ${preflight_table:-} || " ${states[*]} " == *" installed now "* || ${#lacking[@]} -gt 0 ]]; then show_preflight; fi
  [[ ${#lacking[@]} -eq 0 ]] || missing "$(join_lines "${lacking[@]}")"
  install_rust
  install_packages
  for need; do
    [[ " ${absent[*]} " == *" ${need%\?} "* ]] || NETDEVICE_PREFLIGHT+=" ${need%\?}"
  done
  export NETDEVICE_PREFLIGHT
}

is_there() { [[ " ${NETDEVICE_PREFLIGHT:-} " == *" $1 "* ]]; } # NEED: it was looked for and found

join_lines() { # the first as it is, the others as lines of their own
  local line
  printf '%s' "$1"
  for line in "${@:2}"; do printf '\n%s: %s' "${0##*/}" "$line"; done
}

show_preflight() {
  local row
  say "${0##*/}: what this machine has"
  for row in "${!names[@]}"; do
    printf '  %-42s %-14s %s\n' "${names[row]}" "${states[row]}" "${details[row]}" >&2
  done
}

row() { states+=("$1") names+=("$2") details+=("${3:-}"); } # STATE NAME DETAIL
have() { row yes "$@"; }                                    # NAME DETAIL
# lacks NAME DETAIL REMEDY
lacks() {
  row MISSING "$1" "$2"
  absent+=("$need")
  [[ -n $optional ]] || lacking+=("$1 is missing${2:+ ($2)}${3:+: $3}")
}

# lacks_package NAME PACKAGE...: Debian packages have it
lacks_package() {
  local name=$1
  shift
  if [[ -n ${preflight_install:-} && $EUID == 0 ]] && command -v apt-get >/dev/null; then
    if [[ -z $optional ]]; then packages+=("$@"); else wishes+=("$@") wished+=("$need"); fi
    row "installed now" "$name" "apt-get install $*"
  else
    lacks "$name" "" "apt-get install $*"
  fi
}

# at_least VERSION MINIMUM
at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | sed -n 1p) == "$2" ]]; }

# ---- the machine
look_for_root() {
  if [[ $EUID == 0 ]]; then have root; else lacks root "" "run it as root"; fi
}

look_for_kernel() {
  local version
  version=$(uname -r)
  if at_least "$version" 5.14; then have "Linux 5.14 or later" "$version"; else lacks "Linux 5.14 or later" "this is $version"; fi
}

# what a node is made of
look_for_namespaces() {
  local reason
  [[ $EUID == 0 ]] || return 0 # root is missing first
  # shellcheck disable=SC2016  # for the shell inside
  if reason=$(unshare --pid --fork --mount --net --uts --ipc --cgroup sh -c '
      dir=$(mktemp -d) && mount -t tmpfs none "$dir" && mkdir "$dir/lower" "$dir/upper" "$dir/work" "$dir/all" &&
        mount -t overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" none "$dir/all"
      status=$?; umount -l "$dir"; rmdir "$dir"; exit $status' 2>&1); then
    have "namespaces and overlay mounts"
  else
    lacks "namespaces and overlay mounts" "${reason%%$'\n'*}" "a container needs to be privileged"
  fi
}

# Downloads and the builds of Go and of Rust: each where it goes, less where it was made before.
look_for_disk() {
  local dir needed free lines=() enough=yes
  local for_rig=5 for_rust=8 # GB
  [[ ! -e $CACHE/cluster/.key ]] || for_rig=1
  [[ ! -e ${CARGO_TARGET_DIR:-$REPOSITORY/target}/debug ]] || for_rust=1
  for dir in "$for_rig $RIG" "$for_rig ${GOCACHE:-${HOME:-/root}}" "$for_rust ${CARGO_TARGET_DIR:-$REPOSITORY/target}"; do
    needed=${dir%% *} dir=${dir#* }
    while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
    free=$(df --output=avail -k "$dir" | sed -n 2p)
    free=$((free / 1024 / 1024))
    ((free >= needed)) || enough=no
    lines+=("$free GB free in $dir, $needed needed")
  done
  if [[ $enough == yes ]]; then have "disk space" "${lines[2]}"
  else lacks "disk space" "$(printf '%s\n' "${lines[@]}" | sort -u | paste -sd';')" "NETDEVICE_RIG, CARGO_TARGET_DIR and GOCACHE name other places"; fi
}

codename() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null || true; }

# Debian's packages: crun, busybox and what is not there otherwise. Nothing is installed from them.
look_for_debian() {
  local name="Debian with apt-get and dpkg" key=/usr/share/keyrings/debian-archive-keyring.gpg
  if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null || [[ -z $(codename) ]]; then lacks "$name" "" "a node takes crun and busybox from Debian packages"
  elif [[ ! -e $key ]]; then lacks "$name" "no $key" "apt-get install debian-archive-keyring"
  else have "$name" "$(codename)"; fi
}

look_for_git() { if command -v git >/dev/null; then have git; else lacks_package git git; fi; }
look_for_shellcheck() { if command -v shellcheck >/dev/null; then have shellcheck; else lacks_package shellcheck shellcheck; fi; }
# the CNI plugin portmap, and bridge with ipMasq
look_for_iptables() { if command -v iptables >/dev/null; then have iptables; else lacks_package iptables iptables; fi; }
look_for_iproute() { if command -v ip >/dev/null; then have iproute2; else lacks_package iproute2 iproute2; fi; }

# Rust links with it; runc is written in it to a part.
look_for_cc() {
  if ! command -v cc >/dev/null; then lacks_package "a C compiler" gcc libc6-dev
  elif ! echo '#include <stdio.h>' | cc -E -o /dev/null -x c - 2>/dev/null; then lacks_package "the C library's headers" libc6-dev
  else have "a C compiler" "$(command -v cc)"; fi
}

# ---- Rust
rust_channel() { sed -n 's/^channel = "\(.*\)"/\1/p' "$REPOSITORY/rust-toolchain.toml"; }
rust_minimum() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPOSITORY/Cargo.toml"; }
rust_target() { echo "${NETDEVICE_TARGET:-$(uname -m)-unknown-linux-musl}"; }
# the toolchain that cargo takes here; never one that rustup would fetch for the question alone
rustc_here() { (cd "$REPOSITORY" && RUSTUP_AUTO_INSTALL=0 rustc "$@" 2>/dev/null); }
RUSTUP_ADVICE="install Rust with rustup (https://rustup.rs); where Rust of a distribution is there too, ~/.cargo/bin must be first in PATH"

# rustup is there, and the cargo of PATH is its
have_rustup() {
  local sysroot
  command -v rustup >/dev/null || return 1
  sysroot=$(rustc_here --print sysroot) || return 0 # its toolchain is not installed
  [[ $sysroot == "$(rustup show home)"/* ]]
}

look_for_rust() {
  local channel version name
  channel=$(rust_channel) name="Rust $(rust_minimum) or later"
  if ! command -v cargo >/dev/null; then
    lacks "$name" "" "$RUSTUP_ADVICE"
  elif version=$(rustc_here --version); then
    version=${version#rustc } version=${version%% *}
    if at_least "$version" "$(rust_minimum)"; then have "$name" "$version, $(rustc_here --print sysroot)"
    else lacks "$name" "this is $version" "$RUSTUP_ADVICE"; fi
  elif command -v rustup >/dev/null; then
    rust=(rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt --target "$(rust_target)")
    row "installed now" "$name" "${rust[*]}"
  else
    lacks "$name" "rustc does not run" "$RUSTUP_ADVICE"
  fi
}

# the programs of the image are static
look_for_musl() {
  local target libraries name
  target=$(rust_target)
  name="Rust target $target"
  [[ ${#rust[@]} -eq 0 ]] || { row "installed now" "$name" "with the toolchain"; return 0; }
  if libraries=$(rustc_here --print target-libdir --target "$target") && compgen -G "$libraries/libstd-*.rlib" >/dev/null; then
    have "$name"
  elif have_rustup; then
    rust=(rustup target add "$target")
    row "installed now" "$name" "${rust[*]}"
  else
    lacks "$name" "the Rust of $(command -v rustc || echo PATH) has none" "$RUSTUP_ADVICE"
  fi
}

look_for_lints() {
  local component
  [[ ${rust[*]} != *toolchain* ]] || return 0 # they come with it
  for component in clippy rustfmt; do
    if (cd "$REPOSITORY" && RUSTUP_AUTO_INSTALL=0 "cargo-${component/rust/}" --version >/dev/null 2>&1); then have "$component"
    elif have_rustup; then
      components+=("$component")
      row "installed now" "$component" "rustup component add $component"
    else lacks "$component" "" "$RUSTUP_ADVICE"; fi
  done
}

install_rust() {
  if [[ ${#rust[@]} -gt 0 ]]; then install_now "${rust[@]}"; fi
  if [[ ${#components[@]} -gt 0 ]]; then install_now rustup component add "${components[@]}"; fi
}

install_packages() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y)
  [[ ${#packages[@]} -gt 0 || ${#wishes[@]} -gt 0 ]] || return 0
  if [[ ${#packages[@]} -gt 0 ]]; then
    install_now "${apt[@]}" update
    install_now "${apt[@]}" install --no-install-recommends "${packages[@]}"
  fi
  if [[ ${#wishes[@]} -gt 0 ]]; then
    { try_now "${apt[@]}" update && try_now "${apt[@]}" install --no-install-recommends "${wishes[@]}"; } || {
      say "${0##*/}: goes on without ${wishes[*]}"
      absent+=("${wished[@]}")
    }
  fi
}

try_now() { # COMMAND...
  local output
  say "${0##*/}: $*"
  output=$(cd "$REPOSITORY" && "$@" 2>&1 </dev/null) || {
    tail -n 5 <<<"$output" >&2
    say "${0##*/}: failed: $*"
    return 1
  }
}
install_now() { try_now "$@" || missing "$* failed, see above"; }

# ---- Go: it compiles Kubernetes, containerd, runc and the CNI plugins. From 1.21 on it fetches a newer one by itself.
go_minimum() { sed -n 's/^go //p' "$HACK/cluster/go.mod"; }
look_for_go() {
  local version name
  name="Go $(go_minimum) or later"
  if ! command -v go >/dev/null; then
    lacks "$name" "" "install Go (https://go.dev/dl)"
  elif version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) version=${version#go} && at_least "${version%%[ -]*}" "$(go_minimum)"; then
    have "$name" "$version, $(command -v go)"
  elif at_least "$version" 1.21 && [[ $(cd / && go env GOTOOLCHAIN) == auto ]]; then
    have "$name" "$version, which fetches the newer one itself"
  else
    lacks "$name" "this is ${version:-none that runs}" "install Go (https://go.dev/dl)"
  fi
}
