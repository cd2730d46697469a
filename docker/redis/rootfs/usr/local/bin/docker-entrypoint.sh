#!/bin/sh
# Starts `redis-server` as the user `redis`, who owns the data folder.
set -eu

if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        find . ! -user redis -exec chown redis {} +
        exec setpriv --reuid redis --regid redis --init-groups -- "$0" "$@"
    fi
    if [ "$(umask)" = 0022 ]; then
        umask 0077
    fi
    # The official image's program is compiled without protected mode, Debian's with it: it would refuse other containers.
    shift
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
        file=$1
        shift
        set -- "$file" --protected-mode no "$@"
    else
        set -- --protected-mode no "$@"
    fi
    set -- redis-server "$@"
fi
exec "$@"
