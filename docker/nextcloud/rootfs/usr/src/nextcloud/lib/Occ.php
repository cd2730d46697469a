<?php
// `occ`: the commands that an operator of the real one, or our agents, call.
declare(strict_types=1);

namespace StandIn;

final class Occ
{
    private const COMMANDS = [
        'config:system:get', 'config:system:set', 'maintenance:install', 'maintenance:mode', 'status', 'upgrade', 'user:list',
    ];

    /** @param list<string> $arguments */
    public static function run(array $arguments): int
    {
        $owner = Config::owner();
        if (posix_geteuid() !== $owner) {
            echo "Console has to be executed with the user that owns the file config/config.php\n",
                'Current user id: ', posix_geteuid(), "\n", "Owner id of config.php: $owner\n",
                "Try adding 'sudo -u #$owner' to the beginning of the command (without the single quotes)\n",
                "If running with 'docker exec' try adding the option '-u $owner' to the docker command (without the single quotes)\n";
            return 1;
        }
        $options = [];
        $words = [];
        foreach ($arguments as $argument) {
            if (preg_match('/^--([a-z-]+)(?:=(.*))?$/s', $argument, $parts)) {
                $options[$parts[1]] = $parts[2] ?? true;
            } else {
                $words[] = $argument;
            }
        }
        $command = array_shift($words) ?? '';
        if (!in_array($command, self::COMMANDS, true)) {
            fwrite(STDERR, "Command \"$command\" is not defined. This stand-in for Nextcloud knows: " . implode(', ', self::COMMANDS) . "\n");
            return 1;
        }
        if (!Config::get('installed', false) && !in_array($command, ['maintenance:install', 'status'], true)) {
            fwrite(STDERR, "Nextcloud is not installed - only a limited number of commands are available\n");
            return 1;
        }
        if (Config::get('maintenance', false)) {
            fwrite(STDERR, "Nextcloud is in maintenance mode, no apps are loaded.\nCommands provided by apps are unavailable.\n");
        }
        try {
            return match ($command) {
                'config:system:get' => self::get($words, $options),
                'config:system:set' => self::set($words, $options),
                'maintenance:install' => self::install(),
                'maintenance:mode' => self::maintenance($options),
                'status' => self::show(status(), $options),
                'upgrade' => self::upgrade(),
                'user:list' => self::show(array_combine(Users::all(), Users::all()), $options),
            };
        } catch (\Exception $error) {
            fwrite(STDERR, $error->getMessage() . "\n");
            return 1;
        }
    }

    private static function get(array $names, array $options): int
    {
        $value = Config::get($names[0] ?? '');
        foreach (array_slice($names, 1) as $name) {
            $value = is_array($value) ? $value[$name] ?? null : null;
        }
        if ($value === null) {
            return 1;
        }
        if (isset($options['output'])) {
            echo json_encode($value, JSON_UNESCAPED_SLASHES), "\n";
        } else {
            echo is_array($value) ? implode("\n", array_map(self::plain(...), $value)) : self::plain($value), "\n";
        }
        return 0;
    }

    private static function set(array $names, array $options): int
    {
        $text = $options['value'] ?? null;
        $type = $options['type'] ?? 'string';
        if ($names === [] || !is_string($text)) {
            fwrite(STDERR, "config:system:set needs a name and --value=...\n");
            return 1;
        }
        $value = match ($type) {
            'string' => $text,
            'integer', 'int' => is_numeric($text) ? (int) $text : throw new \InvalidArgumentException('Non-numeric value specified'),
            'double', 'float' => is_numeric($text) ? (float) $text : throw new \InvalidArgumentException('Non-numeric value specified'),
            'boolean', 'bool' => match (strtolower($text)) {
                'true' => true,
                'false' => false,
                default => throw new \InvalidArgumentException('Unable to parse value as boolean'),
            },
            'json' => json_decode($text, true, 512, JSON_THROW_ON_ERROR),
            default => throw new \InvalidArgumentException('Invalid type'),
        };
        Config::update(function (array &$values) use ($names, $value) {
            $place = &$values;
            foreach ($names as $name) {
                if (!is_array($place)) {
                    $place = [];
                }
                $place = &$place[$name];
            }
            $place = $value;
        });
        $kind = $type === 'json' ? 'json' : (is_string($value) ? 'string' : $type);
        echo 'System config value ', implode(' => ', $names), " set to $kind ", is_array($value) ? json_encode($value) : self::plain($value), "\n";
        return 0;
    }

    /** Installs from the environment, where the entry point has put what the container was given. */
    private static function install(): int
    {
        if (Config::get('installed', false)) {
            fwrite(STDERR, "Nextcloud is already installed\n");
            return 1;
        }
        $data = getenv('NEXTCLOUD_DATA_DIR') ?: realpath(ROOT) . '/data';
        if (!is_dir($data) && !mkdir($data, 0770, true)) {
            throw new \RuntimeException("cannot make the data folder $data");
        }
        $name = basename(getenv('SQLITE_DATABASE') ?: 'owncloud');
        if (file_exists("$data/$name.db")) {
            // With a configuration that never came to 'installed', it is the rest of an attempt that was cut short.
            if (Config::get('dbname') !== $name) {
                throw new \RuntimeException("$data/$name.db exists, but config/config.php is gone: restore it, or start on an empty volume");
            }
            unlink("$data/$name.db");
        }
        Config::update(function (array &$values) use ($data, $name) {
            $values = [
                'instanceid' => 'oc' . bin2hex(random_bytes(5)),
                'trusted_domains' => ['localhost'],
                'datadirectory' => $data,
                'dbtype' => 'sqlite3',
                'dbname' => $name,
                'version' => status()['version'],
            ];
        });
        Users::create((string) getenv('NEXTCLOUD_ADMIN_USER'), (string) getenv('NEXTCLOUD_ADMIN_PASSWORD'));
        file_put_contents("$data/.ncdata", "# Nextcloud data directory\n");
        Config::update(function (array &$values) {
            $values['installed'] = true;
        });
        echo "Nextcloud was successfully installed\n";
        return 0;
    }

    private static function maintenance(array $options): int
    {
        $is_on = Config::get('maintenance', false);
        if (!isset($options['on']) && !isset($options['off'])) {
            echo 'Maintenance mode is currently ', $is_on ? 'enabled' : 'disabled', "\n";
            return 0;
        }
        $on = isset($options['on']);
        if ($on === $is_on) {
            echo 'Maintenance mode already ', $on ? 'enabled' : 'disabled', "\n";
            return 0;
        }
        Config::update(function (array &$values) use ($on) {
            $values['maintenance'] = $on;
        });
        echo 'Maintenance mode ', $on ? 'enabled' : 'disabled', "\n";
        return 0;
    }

    private static function upgrade(): int
    {
        Config::update(function (array &$values) {
            $values['version'] = status()['version'];
        });
        echo "Update successful\n";
        return 0;
    }

    private static function show(array $values, array $options): int
    {
        if (isset($options['output']) && $options['output'] !== 'plain') {
            echo json_encode($values, JSON_UNESCAPED_SLASHES), "\n";
            return 0;
        }
        foreach ($values as $key => $value) {
            echo "  - $key: ", self::plain($value), "\n";
        }
        return 0;
    }

    private static function plain(mixed $value): string
    {
        return match (true) {
            is_bool($value) => $value ? 'true' : 'false',
            is_array($value) => (string) json_encode($value, JSON_UNESCAPED_SLASHES),
            default => (string) $value,
        };
    }
}
