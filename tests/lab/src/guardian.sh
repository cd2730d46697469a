# Takes a lab down. This is the only way a lab ends, whether it was dropped, failed half built or was killed.
#
#   guardian watch DIR      waits until standard input closes, then takes the lab in DIR down
#   guardian sweep PARENT   takes down labs under PARENT whose guardian is gone (the machine lost power)
#
# Everything a lab has hangs on its network namespaces (kept as files in DIR/ns) or lies in DIR: processes are found by
# the namespace they live in; an engine is the first process of its own process namespace, so containers die with it;
# and every mount but DIR/ns/* was made in a private mount namespace.

# Nothing may interrupt a take-down: not Ctrl-C at the terminal, nor a closed pipe where the complaints go.
trap '' HUP INT PIPE TERM

# The lab's namespaces: files in DIR/ns that are mounts of the kernel's nsfs (6e736673 is its magic).
namespaces() {
    for file in "$1"/ns/*; do
        if [ "$(stat -f -c %t "$file" 2>/dev/null)" = 6e736673 ]; then echo "$file"; fi
    done
}

inhabitants() {
    namespaces "$1" | while read -r file; do
        find /proc/[0-9]*/ns/net -maxdepth 0 -lname "net:\[$(stat -c %i "$file")\]" 2>/dev/null | cut -d / -f 3
    done
}

groups() {
    find /sys/fs/cgroup -depth -type d -path "*/$(basename "$1")*" 2>/dev/null
}

take_down() {
    dir=$1
    # Ten seconds: a killed process may still have to write its pages out.
    tries=100
    while [ $tries -gt 0 ]; do
        pids=$(inhabitants "$dir")
        # shellcheck disable=SC2086
        if [ -n "$pids" ]; then kill -KILL $pids 2>/dev/null; fi
        groups "$dir" | while read -r group; do rmdir "$group" 2>/dev/null; done
        if [ -z "$pids" ] && [ -z "$(groups "$dir")" ]; then break; fi
        tries=$((tries - 1))
        sleep 0.1
    done
    namespaces "$dir" | while read -r file; do umount "$file"; done
    rm -rf --one-file-system "$dir"
    if [ -e "$dir" ] || [ $tries -eq 0 ]; then
        echo "lab: could not remove all of $dir: processes [$(echo $pids)], groups [$(groups "$dir" | tr '\n' ' ')];" \
            "end them by hand, umount $dir/ns/* and remove the directory" >&2
        return 1
    fi
}

case $1 in
watch)
    exec 9>"$2/lock" && flock -n 9 || exit 2
    echo watching
    exec >&2
    cat >/dev/null
    take_down "$2"
    ;;
sweep)
    # A lab younger than a minute may not have its lock yet; PARENT is open to all, so a lab must be root's.
    find "$2" -maxdepth 1 -type d -uid 0 -name 'cloudathome-lab-??????' -mmin +1 | while read -r old; do
        (exec 9>"$old/lock" && flock -n 9 && take_down "$old")
    done
    ;;
esac
