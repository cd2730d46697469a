# Starts and ends `dockerd`, whose options are the arguments, by the words that come in: start, and signals. With the end of
# the input this ends, and everything else in here with it: this is the first process of the engine's namespaces.

# With no AppArmor to be seen the engine does not load its profile into the kernel, which is the machine's.
if [ -d /sys/kernel/security/apparmor ]; then mount -t tmpfs none /sys/kernel/security || exit 1; fi
if [ -n "$ENGINE_DISK" ]; then mount -o loop "$ENGINE_DISK" "$ENGINE_DATA" || exit 1; fi
if [ -n "$ENGINE_PROGRAMS" ]; then PATH=$ENGINE_PROGRAMS:$PATH; fi

run() {
    dockerd "$@" </dev/null
    code=$?
    # A number that another process may bear by now would keep the next one from starting.
    rm -f /run/docker.pid
    echo $code >"$ENGINE_ENDED.part"
    mv "$ENGINE_ENDED.part" "$ENGINE_ENDED"
}

obey() {
    while read -r word; do
        case $word in
        start) run "$@" & ;;
        *) kill -s "$word" "$(cat /run/docker.pid)" ;;
        esac
    done
    # What is left waits for nobody's input.
    kill -KILL -1
}

exec 3<&0
obey "$@" <&3 3<&- &
exec 3<&-
# Collects what outlives `dockerd`, too.
wait
