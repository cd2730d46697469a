#!/bin/bash
# First start: puts the code on the volume and installs. A newer image later: puts its code there and upgrades. Otherwise: code
# and data are there already.
set -eu

root=/var/www/html
source=/usr/src/nextcloud

run_as() {
    if [ "$(id -u)" = 0 ]; then
        runuser -u www-data -- "$@"
    else
        "$@"
    fi
}

# file_env NAME: NAME from the file that NAME_FILE names, where that is set.
file_env() {
    local file="$1_FILE"
    if [ -n "${!1:-}" ] && [ -n "${!file:-}" ]; then
        echo "error: both $1 and $file are set (but are exclusive)" >&2
        exit 1
    fi
    if [ -n "${!file:-}" ]; then
        local value
        value="$(cat "${!file}")"
        export "$1=$value"
        unset "$file"
    fi
}

code_version() {
    if [ -f "$1/version.php" ]; then
        php -r 'require $argv[1]; echo implode(".", $OC_Version);' "$1/version.php"
    else
        echo 0.0.0.0
    fi
}

older() {
    [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

# What the volume's own folders are, is only laid into them while they are empty; all else is as in this image.
install_code() {
    local folder
    for folder in config custom_apps data themes; do
        mkdir -p "$source/$folder"
    done
    rsync -rlDog --chown www-data:www-data --delete --exclude-from=/upgrade.exclude "$source/" "$root/"
    for folder in config data custom_apps themes; do
        if [ ! -d "$root/$folder" ] || [ -z "$(ls -A "$root/$folder")" ]; then
            rsync -rlDog --chown www-data:www-data --include "/$folder/" --exclude '/*' "$source/" "$root/"
        fi
    done
    rsync -rlDog --chown www-data:www-data "$source/version.php" "$root/"
    chown www-data:www-data "$root"
}

enabled_apps() {
    run_as php occ app:list | sed -n '/^Enabled:$/,/^Disabled:$/p' | sed -n 's/^  - \([^:]*\):.*/\1/p' | sort
}

upgrade() {
    local before lost
    if [ "${2%%.*}" -gt $((${1%%.*} + 1)) ]; then
        echo "Can't start Nextcloud because upgrading from $1 to $2 is not supported."
        echo "It is only possible to upgrade one major version at a time. For example, if you want to upgrade from version 14 to 16, you will have to upgrade from version 14 to 15, then from 15 to 16."
        exit 1
    fi
    echo "Upgrading nextcloud from $1 ..."
    before="$(enabled_apps)"
    install_code
    run_as php occ upgrade
    lost="$(comm -23 <(echo "$before") <(enabled_apps))"
    if [ -n "$lost" ]; then
        printf 'The following apps have been disabled:\n%s\n' "$lost"
    fi
}

install_instance() {
    local name
    for name in NEXTCLOUD_ADMIN_USER NEXTCLOUD_ADMIN_PASSWORD MYSQL_DATABASE MYSQL_USER MYSQL_PASSWORD POSTGRES_DB POSTGRES_USER POSTGRES_PASSWORD; do
        file_env "$name"
    done
    local database=
    if [ -n "${SQLITE_DATABASE:-}" ]; then
        database=SQLite
    elif [ -n "${MYSQL_DATABASE:-}" ] && [ -n "${MYSQL_USER:-}" ] && [ -n "${MYSQL_PASSWORD:-}" ] && [ -n "${MYSQL_HOST:-}" ]; then
        database=MySQL
    elif [ -n "${POSTGRES_DB:-}" ] && [ -n "${POSTGRES_USER:-}" ] && [ -n "${POSTGRES_PASSWORD:-}" ] && [ -n "${POSTGRES_HOST:-}" ]; then
        database=PostgreSQL
    fi
    if [ -z "${NEXTCLOUD_ADMIN_USER:-}" ] || [ -z "${NEXTCLOUD_ADMIN_PASSWORD:-}" ] || [ -z "$database" ]; then
        echo "Next step: set NEXTCLOUD_ADMIN_USER, NEXTCLOUD_ADMIN_PASSWORD and the variables of a database (this stand-in has no web-based installation)"
        return
    fi
    if [ -n "${NEXTCLOUD_DATA_DIR:-}" ]; then
        install -d -o www-data -g www-data -m 0770 "$NEXTCLOUD_DATA_DIR"
    fi
    echo "Installing with $database database"
    echo "Starting nextcloud installation"
    local try=0
    until run_as php occ maintenance:install; do
        try=$((try + 1))
        if [ $try -gt 10 ]; then
            echo "Installing of nextcloud failed!"
            exit 1
        fi
        echo "Retrying install..."
        sleep 10
    done
    if [ -n "${NEXTCLOUD_TRUSTED_DOMAINS:-}" ]; then
        echo "Setting trusted domains..."
        local index=1 domain
        for domain in $NEXTCLOUD_TRUSTED_DOMAINS; do
            run_as php occ config:system:set trusted_domains "$index" --value="$domain"
            index=$((index + 1))
        done
    fi
}

# Sessions are kept in Redis, where there is one.
configure_sessions() {
    local file=/usr/local/etc/php/conf.d/redis-session.ini login=
    rm -f "$file"
    if [ -z "${REDIS_HOST:-}" ]; then
        return
    fi
    # In a shell of its own: the settings read the file themselves.
    local password
    password="$(file_env REDIS_HOST_PASSWORD && printf %s "${REDIS_HOST_PASSWORD:-}")"
    if [ -n "$password" ]; then
        login="?auth=$(php -r 'echo rawurlencode($argv[1]);' "$password")"
    fi
    printf 'session.save_handler = redis\nsession.save_path = "tcp://%s:%s%s"\n' \
        "$REDIS_HOST" "${REDIS_HOST_PORT:-6379}" "$login" >"$file"
}

if [[ "$1" == apache* ]]; then
    if [ -n "${APACHE_DISABLE_REWRITE_IP+x}" ]; then
        rm -f /etc/apache2/conf-enabled/remoteip.conf
    fi
    cd "$root"
    # A second container on the same volume waits until this one has finished.
    exec 9>"$root/nextcloud-init-sync.lock"
    flock 9
    printf "<?php\n\$OC_Version = [%s, 0];\n\$OC_VersionString = '%s';\n" \
        "${NEXTCLOUD_VERSION//./, }" "$NEXTCLOUD_VERSION" >"$source/version.php"
    configure_sessions
    installed="$(code_version "$root")"
    image="$(code_version "$source")"
    if older "$image" "$installed"; then
        echo "Can't start Nextcloud because the version of the data ($installed) is higher than the docker image version ($image) and downgrading is not supported. Are you sure you have pulled the newest image version?" >&2
        exit 1
    fi
    if older "$installed" "$image"; then
        echo "Initializing nextcloud $image ..."
        if [ "$installed" = 0.0.0.0 ]; then
            install_code
            echo "New nextcloud instance"
            install_instance
        else
            upgrade "$installed" "$image"
        fi
        echo "Initializing finished"
    fi
    exec 9>&-
fi
unset NEXTCLOUD_ADMIN_PASSWORD

exec "$@"
