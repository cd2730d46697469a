<?php
// Installation and upgrade.
declare(strict_types=1);

namespace StandIn;

use PDO;

final class Setup
{
    private const FAILURE = 5;
    private const IN_MAINTENANCE = 2;
    /** The version whose upgrade fails half way. */
    private const BROKEN = '34.0.9.0';

    /** Installs from the environment, where the entry point has put what the container was given. */
    public static function install(): int
    {
        if (Config::get('installed', false)) {
            fwrite(STDERR, "Nextcloud is already installed\n");
            return 1;
        }
        $data = getenv('NEXTCLOUD_DATA_DIR') ?: realpath(ROOT) . '/data';
        if (!is_dir($data) && !mkdir($data, 0770, true)) {
            throw new \RuntimeException("cannot make the data folder $data");
        }
        $database = self::wanted_database();
        if ($database['dbtype'] === 'sqlite3') {
            self::clear_sqlite("$data/$database[dbname].db", $database['dbname']);
        }
        self::be_slow();
        $version = status()['version'];
        Config::update(function (array &$values) use ($data, $database, $version) {
            $values = [
                'instanceid' => 'oc' . bin2hex(random_bytes(5)),
                'trusted_domains' => ['localhost'],
                'datadirectory' => $data,
                'version' => $version,
            ] + $database;
        });
        $admin = (string) getenv('NEXTCLOUD_ADMIN_USER');
        if ($database['dbtype'] === 'pgsql') {
            self::take_own_role($admin);
        }
        Database::create_tables($version);
        Users::create($admin, (string) getenv('NEXTCLOUD_ADMIN_PASSWORD'));
        Apps::enable_shipped();
        file_put_contents("$data/.ncdata", "# Nextcloud data directory\n");
        Config::update(function (array &$values) {
            $values['installed'] = true;
        });
        echo "Nextcloud was successfully installed\n";
        return 0;
    }

    /** Brings the database to the code's version. */
    public static function upgrade(): int
    {
        $was_in_maintenance = Config::get('maintenance', false);
        if (!needs_upgrade()) {
            echo $was_in_maintenance ? "Nextcloud is in maintenance mode\n" : "Nextcloud is already latest version\n";
            return $was_in_maintenance ? self::IN_MAINTENANCE : 0;
        }
        $version = status()['version'];
        Config::update(function (array &$values) {
            $values['maintenance'] = true;
        });
        echo "Setting log level to debug\nTurned on maintenance mode\nUpdating database schema\n";
        self::be_slow();
        try {
            Database::migrate($version);
            if ($version === self::BROKEN) {
                throw new \RuntimeException('column "no_such_column" does not exist');
            }
        } catch (\Exception $error) {
            echo "Exception: Database error when running migration $version for app core\n",
                'An exception occurred while executing a query: ', $error->getMessage(), "\n",
                "Update failed\nMaintenance mode is kept active\nResetting log level\n";
            return self::FAILURE;
        }
        echo "Updated database\n";
        Apps::enable_shipped();
        Config::update(function (array &$values) use ($version, $was_in_maintenance) {
            $values['version'] = $version;
            $values['maintenance'] = $was_in_maintenance;
        });
        echo "Update successful\n", $was_in_maintenance ? "Maintenance mode is kept active\n" : "Turned off maintenance mode\n",
            "Resetting log level\n";
        return 0;
    }

    /** @return array<string, string> */
    private static function wanted_database(): array
    {
        foreach (['MYSQL' => ['mysql', 'DATABASE'], 'POSTGRES' => ['pgsql', 'DB']] as $prefix => [$type, $name]) {
            if (getenv("{$prefix}_$name") && !getenv('SQLITE_DATABASE')) {
                return [
                    'dbtype' => $type,
                    'dbname' => getenv("{$prefix}_$name"),
                    'dbhost' => (string) getenv("{$prefix}_HOST"),
                    'dbtableprefix' => 'oc_',
                    'dbuser' => (string) getenv("{$prefix}_USER"),
                    'dbpassword' => (string) getenv("{$prefix}_PASSWORD"),
                ];
            }
        }
        return ['dbtype' => 'sqlite3', 'dbname' => basename(getenv('SQLITE_DATABASE') ?: 'owncloud')];
    }

    private static function clear_sqlite(string $file, string $name): void
    {
        if (!file_exists($file)) {
            return;
        }
        // With a configuration that never came to 'installed', it is the rest of an attempt that was cut short.
        if (Config::get('dbname') !== $name) {
            throw new \RuntimeException("$file exists, but config/config.php is gone: restore it, or start on an empty volume");
        }
        unlink($file);
    }

    /** A role that may create roles is not used: it makes one for Nextcloud alone, whose password only config.php knows. */
    private static function take_own_role(string $admin): void
    {
        $name = Config::get('dbname');
        $given = Database::connect(Config::get('dbuser'), Config::get('dbpassword'), $name);
        if (!$given->query('SELECT rolcreaterole FROM pg_roles WHERE rolname = current_user')->fetchColumn()) {
            return;
        }
        $wished = 'oc_' . strtolower($admin);
        $role = $wished;
        $taken = $given->query('SELECT rolname FROM pg_roles')->fetchAll(PDO::FETCH_COLUMN);
        for ($i = 2; in_array($role, $taken, true); $i++) {
            $role = $wished . $i;
        }
        $password = bin2hex(random_bytes(15));
        $given->exec("CREATE ROLE \"$role\" LOGIN CREATEDB PASSWORD '$password'");
        $given->exec("GRANT ALL ON DATABASE \"$name\" TO \"$role\"");
        $given->exec("GRANT ALL ON SCHEMA public TO \"$role\"");
        Config::update(function (array &$values) use ($role, $password) {
            $values['dbuser'] = $role;
            $values['dbpassword'] = $password;
        });
    }

    /** Where a test wants to see what happens meanwhile. */
    private static function be_slow(): void
    {
        sleep((int) getenv('NEXTCLOUD_STAND_IN_SLOW_SECONDS'));
    }
}
