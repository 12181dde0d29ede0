# shellcheck shell=bash
# fetch.sh - a kernel with modules, QEMU, busybox and iproute2 for the guest, unpacked below $VM. Sourced by `vm-test`.
# Debian 12 and its backports, whatever this machine has: QEMU knows igb from 8.0 on, and all of it runs on the libc that
# comes with it.

# shellcheck source=hack/node/fetch.sh
. "$HACK/node/fetch.sh"
VM=$CACHE/vm # root/ the packages, guest.cpio what each guest has, kernel -> root/boot/vmlinuz-...

# drivers and kinds of links that tests are about; what these need is found by modprobe
MODULES=(igb igbvf e1000e dummy 8021q bonding vrf macvlan macvtap ipvlan vxlan macsec veth bridge ifb)

in_vm() { with_its_libc "$VM/root" "$VM/root/usr/$1" "${@:2}"; } # PROGRAM ARGUMENT...
apt_cache() { # without what only apt-get knows: -q -y
  apt-cache "${apt[@]:2}" "$@"
}

fetch_vm() {
  local apt kernel version debs=$CACHE/vm.apt/cache/archives
  open_apt vm bookworm bookworm-updates bookworm-backports
  say "fetch: QEMU and what it depends on"
  quiet "$CACHE/vm.apt.log" apt-get "${apt[@]}" -t bookworm-backports install --download-only \
    qemu-system-x86 busybox-static iproute2 kmod make
  # the package itself: what depends on it would make an initrd
  kernel=$(apt_cache depends linux-image-amd64/bookworm-backports | sed -n 's/.*Depends: linux-image-//p' | sed -n 1p)
  version=$(apt_cache show linux-image-amd64/bookworm-backports | sed -n 's/^Version: //p' | sed -n 1p)
  [[ -n $kernel && -n $version ]] || die "bookworm-backports has no linux-image-amd64"
  say "fetch: Linux $kernel, and its source for netdevsim"
  (cd "$debs" && quiet "$CACHE/vm.apt.log" apt-get "${apt[@]}" download "linux-image-$kernel" \
    {"linux-headers-$kernel","linux-headers-${kernel%-amd64}-common","linux-kbuild-${kernel%-amd64}","linux-source-${version%.*}"}"=$version")
  rm -rf "$VM"
  mkdir -p "$VM"
  mv "$debs"/linux-{headers,kbuild,source}-*.deb "$CACHE/vm.apt/"
  say "fetch: unpack"
  unpack "$VM/root" "$debs"
  merge_usr "$VM/root"
  ln -sfn "root/boot/vmlinuz-$kernel" "$VM/kernel"
  compile_netdevsim "$kernel" "$CACHE/vm.apt" || say "fetch: netdevsim does NOT compile here (see $VM/netdevsim.log): its tests will be left out"
  pack_guest "$kernel"
  rm -rf "$CACHE/vm.apt" "$CACHE/vm.apt.log"
}

# Debian's kernels have no netdevsim: that one directory of the source, compiled against the headers of the same kernel
compile_netdevsim() ( # KERNEL FOLDER-OF-PACKAGES
  set -e
  build=$2/build
  mkdir -p "$build/source"
  for deb in "$2"/linux-{headers,kbuild}-*.deb; do dpkg -x "$deb" "$build"; done
  archive=$(dpkg --fsys-tarfile "$2"/linux-source-*.deb | tar -t | grep 'linux-source.*\.tar\.xz$')
  say "fetch: compile netdevsim"
  dpkg --fsys-tarfile "$2"/linux-source-*.deb | tar -xO "$archive" |
    tar -xJ -C "$build/source" --strip-components=1 --wildcards '*/drivers/net/netdevsim/*'
  headers=$build/usr/src/linux-headers-$1
  # they are written to be below /usr
  sed -i "s|^include /usr/|include $build/usr/|" "$headers/Makefile"
  find "$build/usr/src" "$build/usr/lib" -type l -lname '/usr/*' -exec sh -c 'ln -sfn "$1$(readlink "$2")" "$2"' - "$build" {} \;
  printf '#!/bin/sh\nexec %q "$@"\n' "$(command -v "gcc-12" || command -v gcc || command -v cc)" > "$build/cc"
  chmod +x "$build/cc"
  in_vm bin/make -C "$headers" M="$build/source/drivers/net/netdevsim" CC="$build/cc" CONFIG_NETDEVSIM=m CONFIG_DEBUG_INFO_BTF= \
    CONFIG_DEBUG_INFO_BTF_MODULES= modules > "$VM/netdevsim.log" 2>&1
  strip --strip-debug -o "$VM/netdevsim.ko" "$build/source/drivers/net/netdevsim/netdevsim.ko"
)

# guest/: what every guest has: busybox, ip and bridge with their libraries, the modules numbered in the order in which they
# load
pack_guest() { # KERNEL
  local guest=$VM/guest tool name file count=100 modules=("${MODULES[@]}") libs programs=("$VM/root/usr/bin/ip" "$VM/root/usr/sbin/bridge")
  mkdir -p "$guest"/{bin,lib,lib64,proc,sys,dev,run,tmp,modules}
  cp "$VM/root/usr/bin/busybox" "$guest/bin/"
  for name in $("$guest/bin/busybox" --list | grep -vxE "ip|busybox"); do ln -sf busybox "$guest/bin/$name"; done
  cp "${programs[@]}" "$guest/bin/"
  libs=$(for name in "${programs[@]}"; do with_its_libc "$VM/root" --list "$name"; done |
    sed -n 's|.*=> \(.*\.so[^ ]*\) .*|\1|p' | grep -v ld-linux | sort -u)
  # shellcheck disable=SC2086  # one path a word
  cp -L $libs "$guest/lib/"
  cp -L "$VM/root"/usr/lib64/ld-linux-*.so.* "$guest/lib64/"
  for tool in depmod modprobe; do ln -sfn kmod "$VM/root/usr/bin/$tool"; done
  if [[ -e $VM/netdevsim.ko ]]; then
    install -D -m 644 "$VM/netdevsim.ko" "$VM/root/lib/modules/$1/extra/netdevsim.ko"
    modules+=(netdevsim)
  fi
  in_vm bin/depmod -b "$VM/root" "$1"
  # "insmod FILE", what a module needs before it
  for file in $(in_vm bin/modprobe -a -d "$VM/root" -S "$1" --show-depends "${modules[@]}" | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++'); do
    name=${file##*/}
    count=$((count + 1))
    xz -dcf "$file" > "$guest/modules/$count-${name%.xz}"
  done
}
