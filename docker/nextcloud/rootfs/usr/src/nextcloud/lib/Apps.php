<?php
// Apps: what is shipped, what can be had (one), and which are enabled.
declare(strict_types=1);

namespace StandIn;

final class Apps
{
    private const SHIPPED = ['dav', 'files', 'photos'];
    /** In place of the app store. */
    private const STORE = '/usr/share/nextcloud-stand-in/store';

    public static function enable_shipped(): void
    {
        foreach (self::SHIPPED as $app) {
            if (AppConfig::get($app, 'enabled') === null) {
                AppConfig::set($app, 'enabled', 'yes');
            }
            AppConfig::set($app, 'installed_version', self::version($app));
        }
    }

    public static function install(string $app, bool $enable): int
    {
        if (self::version($app) !== null) {
            echo "$app already installed\n";
            return 1;
        }
        try {
            self::download($app);
        } catch (\RuntimeException $error) {
            echo 'Error: ', $error->getMessage(), "\n";
            return 1;
        }
        $version = self::version($app);
        AppConfig::set($app, 'installed_version', $version);
        AppConfig::set($app, 'enabled', $enable ? 'yes' : 'no');
        echo "$app $version installed\n", $enable ? "$app enabled\n" : '';
        return 0;
    }

    public static function set_enabled(string $app, bool $enabled): int
    {
        $version = self::version($app);
        $word = $enabled ? 'enabled' : 'disabled';
        if ($version === null && $enabled) {
            return self::install($app, true);
        }
        if ((AppConfig::get($app, 'enabled') === 'yes') === $enabled) {
            echo $enabled ? "$app already enabled\n" : "No such app enabled: $app\n";
            return 0;
        }
        AppConfig::set($app, 'installed_version', $version);
        AppConfig::set($app, 'enabled', $enabled ? 'yes' : 'no');
        echo "$app $version $word\n";
        return 0;
    }

    public static function update_all(): int
    {
        foreach (array_keys(self::all()) as $app) {
            $newer = in_array($app, self::SHIPPED, true) ? null : self::offered($app);
            if ($newer !== null && version_compare($newer, self::version($app), '>')) {
                echo "$app new version available: $newer\n";
                self::download($app);
                AppConfig::set($app, 'installed_version', $newer);
                echo "$app updated\n";
            }
        }
        return 0;
    }

    /** @return array{enabled: array<string, string>, disabled: array<string, string>} */
    public static function listed(): array
    {
        $listed = ['enabled' => [], 'disabled' => []];
        foreach (self::all() as $app => $version) {
            $listed[AppConfig::get($app, 'enabled') === 'yes' ? 'enabled' : 'disabled'][$app] = $version;
        }
        return $listed;
    }

    /** @return array<string, string> */
    private static function all(): array
    {
        $all = array_combine(self::SHIPPED, array_map(self::version(...), self::SHIPPED));
        foreach (glob(ROOT . '/custom_apps/*/appinfo/info.xml') as $file) {
            $app = basename(dirname($file, 2));
            $all[$app] = self::version($app);
        }
        ksort($all);
        return $all;
    }

    private static function version(string $app): ?string
    {
        if (in_array($app, self::SHIPPED, true)) {
            return status()['versionstring'];
        }
        $file = ROOT . "/custom_apps/$app/appinfo/info.xml";
        return is_file($file) ? (string) simplexml_load_file($file)->version : null;
    }

    /** The version in the store: there is a new one for every major version of Nextcloud. */
    private static function offered(string $app): ?string
    {
        return is_dir(self::STORE . "/$app") ? '5.' . explode('.', status()['version'])[0] . '.0' : null;
    }

    private static function download(string $app): void
    {
        $version = preg_match('/^[a-z0-9_]+$/', $app) ? self::offered($app) : null;
        if ($version === null) {
            throw new \RuntimeException("Could not download app $app, it was not found on the appstore");
        }
        $target = ROOT . "/custom_apps/$app/appinfo";
        if (!is_dir($target) && !mkdir($target, 0755, true)) {
            throw new \RuntimeException("Could not download app $app: cannot write into the apps folder");
        }
        $info = file_get_contents(self::STORE . "/$app/appinfo/info.xml");
        if (file_put_contents("$target/info.xml", str_replace('@VERSION@', $version, $info)) === false) {
            throw new \RuntimeException("Could not download app $app: cannot write into the apps folder");
        }
    }
}
