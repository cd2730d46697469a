#!/bin/sh
# Before the programs are removed, the agent and what it runs end in order. An upgrade ends nothing here: the new release
# takes over in its postinst.
set -e
[ "$1" = remove ] || exit 0
[ -d /run/systemd/system ] || exit 0
deb-systemd-invoke stop cloudathome-@ROLE@.service >/dev/null || true

# Nobody would watch over the containers. They and their volumes stay, for the next installation.
label=cloudathome.managed-by=@ROLE@-agent
if command -v docker >/dev/null; then
    running=$(docker ps --quiet --filter "label=$label" 2>/dev/null || true)
    # shellcheck disable=SC2086
    [ -z "$running" ] || docker stop $running >/dev/null || true
fi
exit 0
