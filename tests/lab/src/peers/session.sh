# A session of OpenVPN 3 by the profile $1, until there is a file $1.stop.
set -e
services=/usr/libexec/openvpn3-linux
until_owned() {
    until dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetNameOwner "string:$1"; do
        sleep 0.05
    done > /dev/null 2>&1
}
mkdir -p /run/dbus /run/systemd
dbus-uuidgen --ensure
dbus-daemon --system --fork --nopidfile
# The client asks what system this is, and waits for an answer for longer than the session manager waits for the client.
/usr/lib/systemd/systemd-hostnamed &
# The services write to this one; without it they would have another one started.
"$services/openvpn3-service-log" --state-dir /var/lib/openvpn3 --log-level 5 --log-file stdout: &
until_owned net.openvpn.v3.log
# Without a way to set name servers it counts what is pushed about them as a failure.
"$services/openvpn3-service-netcfg" --state-dir /var/lib/openvpn3 --resolv-conf /etc/resolv.conf &
until_owned net.openvpn.v3.netcfg
until_owned org.freedesktop.hostname1
openvpn3 config-import --config "$1" --name profile
openvpn3 session-start --config profile
until [ -e "$1.stop" ]; do
    sleep 0.05
done
openvpn3 session-manage --disconnect --config profile
