<?php
// `occ`: the commands that an operator of the real one, or our agents, call.
declare(strict_types=1);

namespace StandIn;

final class Occ
{
    private const COMMANDS = [
        'app:disable', 'app:enable', 'app:install', 'app:list', 'app:update', 'background:cron', 'config:app:get', 'config:app:set',
        'config:system:get', 'config:system:set', 'db:add-missing-indices', 'maintenance:install', 'maintenance:mode', 'status',
        'upgrade', 'user:list',
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
                'app:disable' => Apps::set_enabled($words[0] ?? '', false),
                'app:enable' => Apps::set_enabled($words[0] ?? '', true),
                'app:install' => Apps::install($words[0] ?? '', !isset($options['keep-disabled'])),
                'app:list' => self::apps($options),
                'app:update' => self::update($options),
                'background:cron' => self::cron(),
                'config:app:get' => self::get_of_app($words),
                'config:app:set' => self::set_of_app($words, $options),
                'db:add-missing-indices' => 0,
                'config:system:get' => self::get($words, $options),
                'config:system:set' => self::set($words, $options),
                'maintenance:install' => Setup::install(),
                'maintenance:mode' => self::maintenance($options),
                'status' => self::show(status(), $options),
                'upgrade' => Setup::upgrade(),
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

    private static function get_of_app(array $words): int
    {
        $value = AppConfig::get($words[0] ?? '', $words[1] ?? '');
        if ($value === null) {
            return 1;
        }
        echo "$value\n";
        return 0;
    }

    private static function set_of_app(array $words, array $options): int
    {
        $value = $options['value'] ?? null;
        if (count($words) !== 2 || !is_string($value)) {
            fwrite(STDERR, "config:app:set needs an app, a name and --value=...\n");
            return 1;
        }
        AppConfig::set($words[0], $words[1], $value);
        echo "Config value '$words[1]' for app '$words[0]' is now set to '$value', stored as mixed in fast cache\n";
        return 0;
    }

    private static function cron(): int
    {
        AppConfig::set('core', 'backgroundjobs_mode', 'cron');
        echo "Set mode for background jobs to 'cron'\n";
        return 0;
    }

    private static function update(array $options): int
    {
        if (!isset($options['all'])) {
            fwrite(STDERR, "Please specify an app to update or \"--all\" to update all updatable apps\n");
            return 1;
        }
        return Apps::update_all();
    }

    private static function apps(array $options): int
    {
        $listed = Apps::listed();
        if (isset($options['output']) && $options['output'] !== 'plain') {
            // Without any, an object all the same.
            echo json_encode(array_map(fn ($apps) => (object) $apps, $listed)), "\n";
            return 0;
        }
        foreach (['Enabled' => 'enabled', 'Disabled' => 'disabled'] as $title => $kind) {
            echo "$title:\n";
            foreach ($listed[$kind] as $app => $version) {
                echo "  - $app: $version\n";
            }
        }
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
