#!/bin/bash
# Gives the content folder to the user `node`, lays into it what it lacks of the content that Ghost brings, and starts
# Ghost as that user.
set -eu

if [[ "$*" == node*current/index.js* ]]; then
    if [ "$(id -u)" = 0 ]; then
        find "$GHOST_CONTENT" ! -user node -exec chown --no-dereference node {} +
        export HOME=/home/node
        exec setpriv --reuid node --regid node --init-groups -- "$0" "$@"
    fi
    cd "$GHOST_INSTALL/content.orig"
    for source in */ themes/*; do
        source="${source%/}"
        if [ ! -e "$GHOST_CONTENT/$source" ]; then
            cp -a "$source" "$GHOST_CONTENT/$source"
        fi
    done
    cd "$GHOST_INSTALL"
fi
exec "$@"
