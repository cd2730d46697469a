# A WireGuard in user space: DEVICE CONFIGURATION. It stays in the foreground, as this very process.
set -e
( until wg setconf "$1" "$2" 2>/dev/null; do kill -0 $$ && sleep 0.05; done ) &
exec @PROGRAM@ -f "$1"
