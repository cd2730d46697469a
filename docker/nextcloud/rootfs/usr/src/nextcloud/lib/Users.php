<?php
// The accounts.
declare(strict_types=1);

namespace StandIn;

use PDO;

final class Users
{
    public static function create(string $name, string $password): void
    {
        if (!preg_match('/^[A-Za-z0-9_@-][A-Za-z0-9_.@-]{0,63}$/', $name)) {
            throw new \InvalidArgumentException("'$name' is no user name: use letters, digits and _.@-");
        }
        if (in_array($name, self::all(), true)) {
            throw new \RuntimeException('The Login is already being used');
        }
        $hash = password_hash($password, PASSWORD_DEFAULT);
        Database::connection()->prepare('INSERT INTO oc_users (uid, password) VALUES (?, ?)')->execute([$name, $hash]);
        $home = data_dir() . "/$name/files";
        if (!is_dir($home) && !mkdir($home, 0750, true)) {
            throw new \RuntimeException("cannot make the folder $home");
        }
    }

    /** Whether the password is this user's. A wrong one is logged with the visitor's address. */
    public static function check(string $name, string $password): bool
    {
        $query = Database::connection()->prepare('SELECT password FROM oc_users WHERE uid = ?');
        $query->execute([$name]);
        if (password_verify($password, (string) $query->fetchColumn())) {
            return true;
        }
        $address = Request::remote_address();
        warn("Login failed: $name (Remote IP: $address)");
        return false;
    }

    /** @return list<string> */
    public static function all(): array
    {
        return Database::connection()->query('SELECT uid FROM oc_users ORDER BY uid')->fetchAll(PDO::FETCH_COLUMN);
    }
}
