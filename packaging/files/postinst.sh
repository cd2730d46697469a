#!/bin/sh
# Puts the unit in force. An upgrade starts the agent again, which leaves its containers running; a new installation has no
# configuration yet, so that its start does nothing (ConditionPathExists= in the unit).
set -e
unit=cloudathome-@ROLE@.service
file=/etc/cloudathome/@ROLE@.toml

case $1 in configure | abort-upgrade | abort-remove | abort-deconfigure) ;; *) exit 0 ;; esac

deb-systemd-helper unmask "$unit" >/dev/null || true
if deb-systemd-helper --quiet was-enabled "$unit"; then
    deb-systemd-helper enable "$unit" >/dev/null || true
else
    deb-systemd-helper update-state "$unit" >/dev/null || true
fi
new=/run/cloudathome-@ROLE@.installing
[ -d /run/systemd/system ] || exit 0

systemctl daemon-reload || true
# It does not matter much, and not every kernel has it.
[ ! -e /usr/lib/sysctl.d/60-cloudathome-@ROLE@.conf ] ||
    /lib/systemd/systemd-sysctl /usr/lib/sysctl.d/60-cloudathome-@ROLE@.conf || true

if [ -z "$2" ] || [ -e "$new" ]; then
    rm -f "$new"
    deb-systemd-invoke start "$unit" >/dev/null || true
elif systemctl --quiet is-active "$unit" && ! /usr/bin/@ROLE@-agent --check >/dev/null; then
    # The running agent is better than one that cannot start.
    echo "cloudathome-@ROLE@: this release does not take $file (see above): the one before goes on until its next start." >&2
    echo "Mend the file, then: systemctl restart $unit" >&2
else
    # One that a person has stopped stays so.
    deb-systemd-invoke try-restart "$unit" >/dev/null || true
fi
exit 0
