# Imports the profile $1 into a NetworkManager that manages nothing else, and shows the connection.
set -e
mkdir -p /run/dbus /sys
mount -t sysfs sysfs /sys
dbus-uuidgen --ensure
dbus-daemon --system --fork --nopidfile
NetworkManager --no-daemon &
until nmcli general status; do
    sleep 0.05
done > /dev/null 2>&1
nmcli connection import type openvpn file "$1"
nmcli --fields connection.id,vpn.data connection show "$(basename "$1" .ovpn)"
