#!/bin/sh
# init.sh - the guest's PID 1: loads the drivers, runs /tests, says how it went on the second serial port, ends the guest.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mkdir /run/netns
for module in /modules/*; do
  # a kind of link is there without a first one of it
  case $module in
    *-dummy.ko) insmod "$module" numdummies=0 ;;
    *-ifb.ko) insmod "$module" numifbs=0 ;;
    *-bonding.ko) insmod "$module" max_bonds=0 ;;
    *) insmod "$module" ;;
  esac || echo "cannot load $module"
done
ip link set lo up
# the drivers find their cards in the background
for _ in $(seq 100); do
  set -- /sys/bus/pci/devices/*/net/*
  [ $# -lt "$(cat /cards)" ] || break
  sleep 0.1
done
stty -F /dev/ttyS1 -opost
sh /tests </dev/null >/dev/ttyS1 2>&1
echo "guest: status $?" >/dev/ttyS1
poweroff -f
