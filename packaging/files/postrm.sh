#!/bin/sh
# Removing keeps configuration, state and services' data. Purging asks whether they are to go, where there is somebody to ask.
set -e
unit=cloudathome-@ROLE@.service
label=cloudathome.managed-by=@ROLE@-agent

# What the agent has set in the kernel. Its link may have another name: then it goes with the next start of the host.
leave_network() {
    ip link delete cah0 2>/dev/null || true
    ip route flush proto 202 2>/dev/null || true
    nft delete table inet cloudathome 2>/dev/null || true
}

of_ours() {
    docker "$1" ls --quiet --filter "label=$label" 2>/dev/null || true
}

delete_data() {
    if docker version >/dev/null 2>&1; then
        containers=$(docker ps --all --quiet --filter "label=$label")
        # shellcheck disable=SC2086
        [ -z "$containers" ] || docker rm --force $containers >/dev/null || true
        for kind in volume network; do
            for one in $(of_ours "$kind"); do docker "$kind" rm "$one" >/dev/null || true; done
        done
    else
        echo "Docker does not answer: volumes of the services stay (docker volume ls --filter label=$label)." >&2
    fi
    rm -rf /etc/cloudathome /var/lib/cloudathome
}

case $1 in
remove)
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
    deb-systemd-helper mask "$unit" >/dev/null 2>&1 || true
    leave_network
    if [ -d /var/lib/cloudathome ]; then
        echo "Configuration and data stay: /etc/cloudathome, /var/lib/cloudathome and Docker's volumes with the label $label."
    fi
    ;;
purge)
    deb-systemd-helper purge "$unit" >/dev/null 2>&1 || true
    deb-systemd-helper unmask "$unit" >/dev/null 2>&1 || true
    [ -d /var/lib/cloudathome ] || [ -d /etc/cloudathome ] || exit 0
    # Another package of ours may have come in place of this one, to the same data.
    [ ! -x /usr/bin/agentctl ] || exit 0
    answer=
    if [ "$DEBIAN_FRONTEND" != noninteractive ] && [ -t 0 ]; then
        echo "The services' data (files, databases, passwords), this host's identity and configuration are still there."
        printf "Type 'delete' to delete all of it for good, anything else to keep it: "
        read -r answer || true
    fi
    if [ "$answer" = delete ]; then
        delete_data
        echo "Deleted."
    else
        echo "Kept: /etc/cloudathome, /var/lib/cloudathome and Docker's volumes with the label $label. To delete them by hand:"
        echo "  docker ps -aq --filter label=$label | xargs -r docker rm -f"
        echo "  docker volume ls -q --filter label=$label | xargs -r docker volume rm"
        echo "  rm -r /etc/cloudathome /var/lib/cloudathome"
    fi
    ;;
esac
exit 0
