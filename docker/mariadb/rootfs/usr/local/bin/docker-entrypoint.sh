#!/bin/bash
# An empty data folder becomes a database server with the accounts and the database that the environment names. Then, as
# later each time, the server starts as the user `mysql`. Every variable goes by MARIADB_... and by MYSQL_...
set -eEuo pipefail

note() {
    printf '%s [Note] [Entrypoint]: %s\n' "$(date --rfc-3339=seconds)" "$*"
}

fail() {
    printf '%s [ERROR] [Entrypoint]: %s\n' "$(date --rfc-3339=seconds)" "$*" >&2
    exit 1
}

# setting NAME: the value of MARIADB_NAME, else of MYSQL_NAME, of which either may be in a file named by ..._FILE.
setting() {
    local prefix name file
    for prefix in MARIADB MYSQL; do
        name="${prefix}_$1"
        file="${name}_FILE"
        if [ -n "${!name:-}" ] && [ -n "${!file:-}" ]; then
            fail "Both $name and $file are set (but are exclusive)"
        fi
        if [ -n "${!name:-}" ]; then
            printf %s "${!name}"
            return
        elif [ -n "${!file:-}" ]; then
            printf %s "$(<"${!file}")"
            return
        fi
    done
}

# A text as SQL takes it between single quotes.
quoted() {
    local text="${1//\\/\\\\}"
    printf "'%s'" "${text//\'/\\\'}"
}

client() {
    mariadb --protocol=socket --socket=/run/mysqld/mysqld.sock --user=root "$@"
}

initialize() {
    local root_password database user password root_host empty
    root_password="$(setting ROOT_PASSWORD)"
    root_host="$(setting ROOT_HOST)"
    database="$(setting DATABASE)"
    user="$(setting USER)"
    password="$(setting PASSWORD)"
    empty="${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD:-${MYSQL_ALLOW_EMPTY_PASSWORD:-}}"
    if [ -n "${MARIADB_RANDOM_ROOT_PASSWORD:-${MYSQL_RANDOM_ROOT_PASSWORD:-}}" ]; then
        root_password="$(head -c 24 /dev/urandom | base64)"
        note "GENERATED ROOT PASSWORD: $root_password"
    fi
    if [ -z "$root_password$empty" ]; then
        fail "Database is uninitialized and password option is not specified: You need to specify one of" \
            "MARIADB_ROOT_PASSWORD, MARIADB_ALLOW_EMPTY_ROOT_PASSWORD and MARIADB_RANDOM_ROOT_PASSWORD"
    fi

    note "Initializing database files"
    mariadb-install-db --datadir=/var/lib/mysql --auth-root-authentication-method=normal --skip-test-db --skip-log-bin >/dev/null
    note "Starting temporary server"
    # On the socket alone: nobody outside may see the server before it is complete.
    "$@" --skip-networking &
    local server=$! tries=300
    until client --execute='SELECT 1' >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ $tries -eq 0 ] || ! kill -0 $server 2>/dev/null; then
            fail "Unable to start server."
        fi
        sleep 0.1
    done

    {
        # Without a password, on the loopback addresses and the host's name.
        echo "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost';"
        echo "FLUSH PRIVILEGES;"
        echo "SET PASSWORD FOR root@localhost = PASSWORD($(quoted "$root_password"));"
        echo "CREATE USER root@$(quoted "${root_host:-%}") IDENTIFIED BY $(quoted "$root_password");"
        echo "GRANT ALL ON *.* TO root@$(quoted "${root_host:-%}") WITH GRANT OPTION;"
        if [ -n "$database" ]; then
            note "Creating database $database" >&2
            echo "CREATE DATABASE IF NOT EXISTS \`$database\`;"
        fi
        if [ -n "$user" ] && [ -n "$password" ]; then
            note "Creating user $user" >&2
            echo "CREATE USER $(quoted "$user")@'%' IDENTIFIED BY $(quoted "$password");"
            if [ -n "$database" ]; then
                echo "GRANT ALL ON \`${database//_/\\_}\`.* TO $(quoted "$user")@'%';"
            fi
        fi
    } | client --binary-mode
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        case "$file" in
        *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql) MYSQL_PWD="$root_password" client ${database:+--database="$database"} <"$file" ;;
        esac
    done
    kill $server
    wait $server
    note "MariaDB init process done. Ready for start up."
}

if [ "${1#-}" != "$1" ]; then
    set -- mariadbd "$@"
fi
if [ "$1" = mariadbd ] || [ "$1" = mysqld ]; then
    if [ "$(id -u)" = 0 ]; then
        install -d -o mysql -g mysql -m 1777 /run/mysqld
        find /var/lib/mysql /run/mysqld ! -user mysql -exec chown mysql: {} +
        exec setpriv --reuid mysql --regid mysql --init-groups -- "$0" "$@"
    fi
    if [ ! -d /var/lib/mysql/mysql ]; then
        initialize "$@"
    fi
    for name in ROOT_PASSWORD PASSWORD; do
        unset "MARIADB_$name" "MYSQL_$name"
    done
fi
exec "$@"
