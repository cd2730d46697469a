#!/bin/sh
# Installs what lies beside this file, or removes it again (--remove), on hosts without Debian's packages. Needs systemd, Docker, nftables
# and OpenSSL 3. Configuration and data stay when it is removed.
set -e
here=$(cd "$(dirname "$0")" && pwd)
unit=cloudathome-@ROLE@.service
fail() {
    echo "install.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "run it as root or with sudo"
[ -d /run/systemd/system ] || fail "this host does not run systemd, which starts the agent"
if dpkg-query --show cloudathome-@ROLE@ >/dev/null 2>&1; then
    fail "cloudathome-@ROLE@ is installed as a Debian package: upgrade it with apt"
fi

case $1 in
'')
    for program in docker nft; do command -v $program >/dev/null || fail "$program is missing: install it first"; done
    "$here/root/usr/bin/@ROLE@-agent" --version >/dev/null || fail "the programs do not run here: they are for @ARCH@, glibc 2.36 and OpenSSL 3"
    install -d -m 0700 /etc/cloudathome
    # A running program cannot be written to; it can be replaced.
    (cd "$here/root" && find . -type f) | while read -r file; do
        install -D -m "$(stat -c %a "$here/root/$file")" "$here/root/$file" "/$file.new"
        mv "/$file.new" "/$file"
    done
    systemctl daemon-reload
    systemctl enable --quiet "$unit"
    if systemctl --quiet is-active "$unit"; then systemctl restart "$unit"; else systemctl start "$unit"; fi
    echo "Installed. If this host has no configuration yet, read /usr/share/doc/cloudathome-@ROLE@/"
    ;;
--remove)
    systemctl disable --quiet --now "$unit" || true
    running=$(docker ps --quiet --filter label=cloudathome.managed-by=@ROLE@-agent 2>/dev/null || true)
    # shellcheck disable=SC2086
    [ -z "$running" ] || docker stop $running >/dev/null
    (cd "$here/root" && find . -type f) | while read -r file; do rm -f "/$file"; done
    systemctl daemon-reload
    echo "Removed. Configuration and data stay: /etc/cloudathome, /var/lib/cloudathome and Docker's volumes."
    ;;
*) fail "usage: install.sh [--remove]" ;;
esac
