#!/bin/sh
# Runs a command in a copy of a root folder that goes with it. It has the network and the names of its caller, devices of
# its own, and of its caller's files those below one folder.
set -e
[ "$1" = --inside ] || exec unshare @UNSHARE@ "$0" --inside "$@"
shift
mount -t tmpfs -o mode=755 tmpfs '@CACHE@/mount'
root='@CACHE@/mount/root'
mkdir "$root" '@CACHE@/mount/upper' '@CACHE@/mount/work'
mount -t overlay -o 'lowerdir=@CACHE@/root,upperdir=@CACHE@/mount/upper,workdir=@CACHE@/mount/work' overlay "$root"
mkdir -p "$root/dev" "$root/proc" "$root@DIR@"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/net"
for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'net/tun 10 200'; do
    set -- $node -- "$@"
    mknod -m 666 "$root/dev/$1" c "$2" "$3"
    shift 4
done
mount --bind '@DIR@' "$root@DIR@"
cp /etc/resolv.conf /etc/nsswitch.conf "$root/etc/"
cd /
exec chroot "$root" @COMMAND@ "$@"
