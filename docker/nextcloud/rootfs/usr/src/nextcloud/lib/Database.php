<?php
// The database: SQLite under the data folder, PostgreSQL, or MariaDB and MySQL.
declare(strict_types=1);

namespace StandIn;

use PDO;

final class Database
{
    private static ?PDO $connection = null;

    public static function connection(): PDO
    {
        return self::$connection ??= self::connect(Config::get('dbuser'), Config::get('dbpassword'), Config::get('dbname', 'owncloud'));
    }

    public static function connect(?string $user, ?string $password, string $name): PDO
    {
        $options = [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_TIMEOUT => 10];
        $type = Config::get('dbtype', 'sqlite3');
        if ($type === 'sqlite3') {
            // Opened only where it exists, so that a lost file is an error and not an empty database. The installer makes it.
            $flags = Config::get('installed', false) ? PDO::SQLITE_OPEN_READWRITE : PDO::SQLITE_OPEN_READWRITE | PDO::SQLITE_OPEN_CREATE;
            return new PDO('sqlite:' . data_dir() . "/$name.db", null, null, $options + [PDO::SQLITE_ATTR_OPEN_FLAGS => $flags]);
        }
        [$host, $port] = explode(':', Config::get('dbhost', 'localhost'), 2) + [1 => $type === 'pgsql' ? '5432' : '3306'];
        return new PDO("$type:host=$host;port=$port;dbname=$name", $user, $password, $options);
    }

    public static function create_tables(string $version): void
    {
        $tables = [
            'oc_users (uid VARCHAR(64) PRIMARY KEY, password VARCHAR(255) NOT NULL)',
            'oc_appconfig (appid VARCHAR(32), configkey VARCHAR(64), configvalue TEXT, PRIMARY KEY (appid, configkey))',
            'oc_migrations (app VARCHAR(64), version VARCHAR(64), PRIMARY KEY (app, version))',
        ];
        foreach ($tables as $table) {
            self::connection()->exec("CREATE TABLE IF NOT EXISTS $table");
        }
        self::note_migration($version);
    }

    /** Changes the form of the tables to that of a version; there is no way back but a copy from before. */
    public static function migrate(string $version): void
    {
        self::connection()->exec('ALTER TABLE oc_users ADD COLUMN since_' . str_replace('.', '_', $version) . ' INTEGER');
        self::note_migration($version);
    }

    /** Fails where a newer version has changed the tables. The real one does not look: what then breaks is a matter of chance. */
    public static function check_form(): void
    {
        $known = self::connection()->query('SELECT version FROM oc_migrations')->fetchAll(PDO::FETCH_COLUMN);
        foreach ($known as $version) {
            if (version_compare($version, status()['version'], '>')) {
                throw new \RuntimeException("the database is of version $version, the code is older");
            }
        }
    }

    private static function note_migration(string $version): void
    {
        self::connection()->prepare('DELETE FROM oc_migrations WHERE version = ?')->execute([$version]);
        self::connection()->prepare("INSERT INTO oc_migrations VALUES ('core', ?)")->execute([$version]);
    }
}

/** Settings of apps, in the database. */
final class AppConfig
{
    public static function get(string $app, string $key): ?string
    {
        $query = Database::connection()->prepare('SELECT configvalue FROM oc_appconfig WHERE appid = ? AND configkey = ?');
        $query->execute([$app, $key]);
        $value = $query->fetchColumn();
        return $value === false ? null : $value;
    }

    public static function set(string $app, string $key, string $value): void
    {
        self::delete($app, $key);
        Database::connection()->prepare('INSERT INTO oc_appconfig VALUES (?, ?, ?)')->execute([$app, $key, $value]);
    }

    public static function delete(string $app, string $key): void
    {
        Database::connection()->prepare('DELETE FROM oc_appconfig WHERE appid = ? AND configkey = ?')->execute([$app, $key]);
    }
}
