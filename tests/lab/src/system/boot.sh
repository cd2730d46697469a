# A host with a live systemd, in three steps that start each other, in namespaces around the host's network.
#
#   boot.sh power DIR ROOT NAME GROUP   from power on to power off: boots again whenever systemd reboots
#   boot.sh enter DIR ROOT NAME GROUP   in a process namespace of its own: into the host's control groups
#   boot.sh start DIR ROOT NAME GROUP   in a control group namespace: the kernel's file systems, then systemd
#
# DIR is the host's directory: `upper` holds what differs from ROOT, `docker` the engine's data (an overlay on an overlay is not
# possible), `init` the process id of systemd as the machine sees it. GROUP is the path of its control groups.
set -e
step=$1 dir=$2 lower=$3 name=$4 group=$5
script=$0
shift
root=$dir/root

# A network namespace outlives the boot; a network does not.
forget_network() {
    for link in $(ip -o link show | cut -d ' ' -f 2 | cut -d @ -f 1 | tr -d :); do
        case $link in lo | eth0) ;; *) ip link delete "$link" ;; esac
    done
    nft flush ruleset
    ip route flush type unreachable
    echo 0 >/proc/sys/net/ipv4/ip_forward
}

power() {
    mkdir -p "$dir/upper" "$dir/work" "$dir/docker" "$root"
    mount -t overlay -o "lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work" overlay "$root"
    echo "$name" >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$root/etc/hosts"
    cat /etc/resolv.conf >"$root/etc/resolv.conf"
    cat /etc/nsswitch.conf >"$root/etc/nsswitch.conf"
    # Each host is another one, and none looks for updates.
    : >"$root/etc/machine-id"
    for timer in apt-daily apt-daily-upgrade; do ln -sf /dev/null "$root/etc/systemd/system/$timer.timer"; done
    while :; do
        code=0
        unshare --pid --mount --uts --ipc --fork --kill-child sh "$script" enter "$@" || code=$?
        rm -f "$dir/init"
        # The kernel's words for reboot and power off to the first process of a process namespace: SIGHUP and SIGINT.
        case $code in
        129) forget_network ;;
        130) exit 0 ;;
        *) exit "$code" ;;
        esac
    done
}

enter() {
    for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
        [ -e "$procs" ] || continue
        top=$(dirname "$procs")
        own=$top/$group
        mkdir -p "$own"
        if [ -e "$own/cpuset.cpus" ]; then
            for at in "$(dirname "$own")" "$own"; do
                for what in cpus mems; do cat "$top/cpuset.$what" >"$at/cpuset.$what"; done
            done
        fi
        # This process. Those around this namespace stay outside, where systemd does not meet them.
        echo 0 >"$own/cgroup.procs"
    done
    # Of the machine's own /proc, by its own process ids.
    read -r pid rest </proc/self/stat
    echo "$pid" >"$dir/init.part"
    exec unshare --cgroup sh "$script" start "$@"
}

# put TYPE WHERE OPTIONS
put() {
    mkdir -p "$root$2"
    mount -t "$1" -o "$3" "$1" "$root$2"
}

start() {
    hostname "$name"
    put proc /proc nosuid,nodev,noexec
    # The machine's settings are not this host's to change; those of the network are its own.
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
    cat /proc/sys/kernel/random/uuid >"$dir/boot-id"
    mount --bind "$dir/boot-id" "$root/proc/sys/kernel/random/boot_id"
    mount -o remount,bind,ro "$root/proc/sys"
    if [ -e "$root/proc/sysrq-trigger" ]; then mount --bind /dev/null "$root/proc/sysrq-trigger"; fi
    put sysfs /sys ro,nosuid,nodev,noexec

    # Control groups as the machine has them: all as one, or each controller by itself.
    if [ -e /sys/fs/cgroup/cgroup.procs ]; then
        put cgroup2 /sys/fs/cgroup nosuid,nodev,noexec
    else
        put tmpfs /sys/fs/cgroup mode=755,nosuid,nodev,noexec
        # Read whole before it grows by what is mounted here.
        grep ' /sys/fs/cgroup/' /proc/mounts >"$dir/cgroups"
        while read -r _ where type options _; do
            which=$(echo "$options" | tr , '\n' | grep -vxE 'rw|ro|relatime|nosuid|nodev|noexec|release_agent=.*' | paste -sd ,)
            case $type in
            cgroup) put cgroup "$where" "nosuid,nodev,noexec,$which" ;;
            cgroup2) put cgroup2 "$where" nosuid,nodev,noexec ;;
            esac
        done <"$dir/cgroups"
    fi

    put tmpfs /dev mode=755,nosuid
    mkdir "$root/dev/net"
    for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'net/tun 10 200'; do
        # shellcheck disable=SC2086
        set -- $node
        mknod -m 666 "$root/dev/$1" c "$2" "$3"
    done
    put devpts /dev/pts newinstance,ptmxmode=0666,mode=620,gid=5
    put tmpfs /dev/shm mode=1777,nosuid,nodev
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    for number in '0 stdin' '1 stdout' '2 stderr'; do ln -s "fd/${number% *}" "$root/dev/${number#* }"; done
    put tmpfs /run mode=755,nosuid,nodev
    put tmpfs /tmp mode=1777,nosuid,nodev
    mkdir -p "$root/var/lib/docker"
    mount --bind "$dir/docker" "$root/var/lib/docker"

    mv "$dir/init.part" "$dir/init"
    cd "$root"
    mkdir -p .outside
    pivot_root . .outside
    umount -l .outside
    # What would be the machine's: modules, its clock, its log, its hardware.
    exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-mac_admin,-mac_override \
        env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
}

"$step" "$@"
