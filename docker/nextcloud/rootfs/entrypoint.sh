#!/bin/bash
# First start: puts the code on the volume and installs. Later starts: code and data are there already.
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

install_code() {
    echo "Initializing nextcloud $2 ..."
    cp -a "$source/." "$root/"
    if [ "$(id -u)" = 0 ]; then
        (cd "$source" && find . -mindepth 1 -print0) | (cd "$root" && xargs -0 chown --no-dereference www-data:www-data)
        chown www-data:www-data "$root"
    fi
    echo "Initializing finished"
    if [ "$1" != 0.0.0.0 ]; then
        run_as php occ upgrade
    fi
}

install_instance() {
    file_env NEXTCLOUD_ADMIN_USER
    file_env NEXTCLOUD_ADMIN_PASSWORD
    if [ -n "${MYSQL_DATABASE:-}${MYSQL_DATABASE_FILE:-}${POSTGRES_DB:-}${POSTGRES_DB_FILE:-}" ]; then
        echo "error: this is a stand-in for Nextcloud and knows SQLite only: set SQLITE_DATABASE, or name a real image" >&2
        exit 1
    fi
    if [ -z "${NEXTCLOUD_ADMIN_USER:-}" ] || [ -z "${NEXTCLOUD_ADMIN_PASSWORD:-}" ] || [ -z "${SQLITE_DATABASE:-}" ]; then
        echo "Next step: set NEXTCLOUD_ADMIN_USER, NEXTCLOUD_ADMIN_PASSWORD and SQLITE_DATABASE (this stand-in has no web-based installation)"
        return
    fi
    echo "New nextcloud instance"
    if [ "$(id -u)" = 0 ] && [ -n "${NEXTCLOUD_DATA_DIR:-}" ]; then
        install -d -o www-data -g www-data -m 0770 "$NEXTCLOUD_DATA_DIR"
    fi
    echo "Starting nextcloud installation"
    run_as php occ maintenance:install
    if [ -n "${NEXTCLOUD_TRUSTED_DOMAINS:-}" ]; then
        echo "Setting trusted domains..."
        local index=1 domain
        for domain in $NEXTCLOUD_TRUSTED_DOMAINS; do
            run_as php occ config:system:set trusted_domains "$index" --value="$domain"
            index=$((index + 1))
        done
    fi
}

if [[ "$1" == apache* ]]; then
    if [ -n "${APACHE_DISABLE_REWRITE_IP+x}" ]; then
        rm -f /etc/apache2/conf-enabled/remoteip.conf
    fi
    cd "$root"
    # A second container on the same volume waits until this one has finished.
    exec 9>"$root/nextcloud-init-sync.lock"
    flock 9
    installed="$(code_version "$root")"
    image="$(code_version "$source")"
    if older "$image" "$installed"; then
        echo "Can't start Nextcloud because the version of the data ($installed) is higher than the docker image version ($image) and downgrading is not supported. Are you sure you have pulled the newest image version?" >&2
        exit 1
    fi
    if older "$installed" "$image"; then
        install_code "$installed" "$image"
    fi
    if ! run_as php occ status --output=json | grep -q '"installed":true'; then
        install_instance
    fi
    exec 9>&-
fi
unset NEXTCLOUD_ADMIN_PASSWORD

exec "$@"
