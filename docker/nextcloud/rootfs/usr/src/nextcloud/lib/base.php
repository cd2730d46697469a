<?php
// What every entry point needs: configuration, the request as a proxy describes it, and the refusals.
declare(strict_types=1);

namespace StandIn;

require_once __DIR__ . '/Database.php';
require_once __DIR__ . '/Users.php';

const ROOT = __DIR__ . '/..';
const PRODUCT = 'Nextcloud stand-in (CloudAtHome lab)';

/** config/config.php, with the config/*.config.php files laid over it. */
final class Config
{
    private const FILE = ROOT . '/config/config.php';
    private static ?array $merged = null;

    public static function get(string $key, mixed $default = null): mixed
    {
        if (self::$merged === null) {
            self::$merged = self::stored();
            foreach (glob(ROOT . '/config/*.config.php') as $file) {
                self::$merged = array_merge(self::$merged, self::read($file));
            }
        }
        return self::$merged[$key] ?? $default;
    }

    /** Changes config.php alone: what the environment adds is never written down. */
    public static function update(callable $change): void
    {
        $lock = fopen(ROOT . '/config', 'r');
        flock($lock, LOCK_EX);
        $values = self::stored();
        $change($values);
        $part = self::FILE . '.part';
        $text = "<?php\n\$CONFIG = " . var_export($values, true) . ";\n";
        if (file_put_contents($part, $text) !== strlen($text) || !chmod($part, 0640) || !rename($part, self::FILE)) {
            throw new \RuntimeException('cannot write config/config.php');
        }
        self::$merged = null;
    }

    public static function owner(): int
    {
        return fileowner(is_file(self::FILE) ? self::FILE : ROOT . '/config');
    }

    private static function stored(): array
    {
        return is_file(self::FILE) ? self::read(self::FILE) : [];
    }

    private static function read(string $file): array
    {
        $CONFIG = [];
        require $file;
        return $CONFIG;
    }
}

/** The request as the visitor made it, as far as trusted proxies vouch for it. */
final class Request
{
    public static function remote_address(): string
    {
        $peer = $_SERVER['REMOTE_ADDR'] ?? '';
        if (!self::is_trusted_proxy($peer)) {
            return $peer;
        }
        foreach (Config::get('forwarded_for_headers', ['HTTP_X_FORWARDED_FOR']) as $header) {
            // The nearest proxy writes last: the first address from the right that is no proxy of ours is the visitor's.
            foreach (array_reverse(explode(',', $_SERVER[$header] ?? '')) as $address) {
                $address = trim($address);
                if (preg_match('/^\[(.+)\](?::\d+)?$/', $address, $parts) || preg_match('/^([^:]+):\d+$/', $address, $parts)) {
                    $address = $parts[1];
                }
                if (!self::is_trusted_proxy($address) && filter_var($address, FILTER_VALIDATE_IP) !== false) {
                    return $address;
                }
            }
        }
        return $peer;
    }

    /** The name by which the visitor asked, with its port. */
    public static function host(): string
    {
        $forwarded = explode(',', $_SERVER['HTTP_X_FORWARDED_HOST'] ?? '');
        if ($forwarded[0] !== '' && self::is_trusted_proxy($_SERVER['REMOTE_ADDR'] ?? '')) {
            return trim($forwarded[0]);
        }
        return $_SERVER['HTTP_HOST'] ?? 'localhost';
    }

    public static function is_trusted_host(): bool
    {
        if (Config::get('overwritehost', '') !== '') {
            return true;
        }
        $host = preg_replace('/:\d+$/', '', self::host());
        if (preg_match('/^(127\.0\.0\.1|localhost|\[::1\])$/i', $host)) {
            return true;
        }
        foreach (Config::get('trusted_domains', []) as $trusted) {
            $pattern = str_replace('\*', '[-.a-zA-Z0-9]*', preg_quote($trusted, '/'));
            if (preg_match("/^$pattern\$/i", self::host()) || preg_match("/^$pattern\$/i", $host)) {
                return true;
            }
        }
        return false;
    }

    public static function is_https(): bool
    {
        $protocol = self::overwrites() ? Config::get('overwriteprotocol', '') : '';
        if ($protocol === '' && self::is_trusted_proxy($_SERVER['REMOTE_ADDR'] ?? '')) {
            $protocol = explode(',', $_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '')[0];
        }
        return strtolower(trim($protocol)) === 'https';
    }

    /** An absolute address on this server. */
    public static function url(string $path): string
    {
        $host = self::overwrites() ? Config::get('overwritehost', '') : '';
        return (self::is_https() ? 'https' : 'http') . '://' . ($host !== '' ? $host : self::host()) . $path;
    }

    private static function overwrites(): bool
    {
        $condition = Config::get('overwritecondaddr', '');
        return $condition === '' || preg_match('/' . $condition . '/', $_SERVER['REMOTE_ADDR'] ?? '') === 1;
    }

    private static function is_trusted_proxy(string $address): bool
    {
        foreach (Config::get('trusted_proxies', []) as $range) {
            if (self::is_within($address, $range)) {
                return true;
            }
        }
        return false;
    }

    private static function is_within(string $address, string $range): bool
    {
        [$network, $bits] = explode('/', $range, 2) + [1 => null];
        $address = @inet_pton($address);
        $network = @inet_pton($network);
        if ($address === false || $network === false || strlen($address) !== strlen($network)) {
            return false;
        }
        $bits = $bits === null ? 8 * strlen($network) : (int) $bits;
        $mask = str_pad(str_repeat("\xff", intdiv($bits, 8)) . ($bits % 8 ? chr(0xff << (8 - $bits % 8) & 0xff) : ''), strlen($network), "\0");
        return ($address & $mask) === ($network & $mask);
    }
}

function data_dir(): string
{
    return Config::get('datadirectory', ROOT . '/data');
}

/** One line in the data folder's nextcloud.log, in the form the real one writes. */
function warn(string $message): void
{
    $line = json_encode([
        'reqId' => bin2hex(random_bytes(10)),
        'level' => 2,
        'time' => date(DATE_ATOM),
        'remoteAddr' => Request::remote_address(),
        'user' => '--',
        'app' => 'core',
        'method' => $_SERVER['REQUEST_METHOD'] ?? '',
        'url' => $_SERVER['REQUEST_URI'] ?? '--',
        'message' => $message,
        'userAgent' => $_SERVER['HTTP_USER_AGENT'] ?? '--',
        'version' => status()['version'],
    ], JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
    file_put_contents(data_dir() . '/nextcloud.log', "$line\n", FILE_APPEND | LOCK_EX);
}

/** What status.php and `occ status` say. */
function status(): array
{
    require ROOT . '/version.php';
    $version = implode('.', $OC_Version);
    return [
        'installed' => Config::get('installed', false),
        'maintenance' => Config::get('maintenance', false),
        'needsDbUpgrade' => needs_upgrade($version),
        'version' => $version,
        'versionstring' => $OC_VersionString,
        'edition' => '',
        'productname' => PRODUCT,
        'extendedSupport' => false,
    ];
}

/** Whether the code is of another version than the installation. */
function needs_upgrade(?string $version = null): bool
{
    return Config::get('installed', false) && Config::get('version') !== ($version ?? status()['version']);
}

function refuse_untrusted_host(): void
{
    header('X-CloudAtHome-Stand-In: nextcloud');
    if (Config::get('installed', false) && !Request::is_trusted_host()) {
        http_response_code(400);
        header('Content-Type: text/html; charset=UTF-8');
        exit("<!DOCTYPE html><title>" . PRODUCT . "</title><h2>Access through untrusted domain</h2>\n");
    }
}

function refuse_in_maintenance(): void
{
    if (Config::get('maintenance', false) || needs_upgrade()) {
        http_response_code(503);
        header('Content-Type: text/html; charset=UTF-8');
        header('Retry-After: 120');
        if (Config::get('maintenance', false)) {
            header('X-Nextcloud-Maintenance-Mode: 1');
        }
        $what = Config::get('maintenance', false) ? 'Maintenance mode' : 'Update needed';
        exit("<!DOCTYPE html><title>" . PRODUCT . "</title><h2>$what</h2>\n");
    }
}

/** Ends the request with 500 unless everything that a page needs answers: the database in the code's own form, and Redis. */
function require_all(): void
{
    require_database();
    try {
        Database::check_form();
        connect_redis();
    } catch (\Exception $error) {
        fail($error);
    }
}

/** Ends the request with 500 where the database cannot be read. */
function require_database(): void
{
    if (!Config::get('installed', false)) {
        return;
    }
    try {
        Users::all();
    } catch (\Exception $error) {
        fail($error);
    }
}

/** Cache, file locks and sessions are kept in Redis where one is configured, and nothing works without it then. */
function connect_redis(): void
{
    $settings = Config::get('redis');
    if ($settings === null) {
        return;
    }
    $redis = new \Redis();
    $redis->connect($settings['host'], $settings['port'] ?? 6379, 2.0);
    if (($settings['password'] ?? '') !== '') {
        $redis->auth(isset($settings['user']) ? [$settings['user'], $settings['password']] : $settings['password']);
    }
    // Without a login that it asks for, it says so only here.
    $redis->ping();
}

function fail(\Exception $error): never
{
    error_log(get_class($error) . ': ' . $error->getMessage());
    http_response_code(500);
    header('Content-Type: text/plain');
    exit("Internal Server Error\n");
}
