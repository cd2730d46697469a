<?php
// Background jobs: there are none, but the time of the last run is kept.
declare(strict_types=1);

namespace StandIn;

require __DIR__ . '/lib/base.php';

if (PHP_SAPI !== 'cli') {
    exit("Background jobs are run by cron\n");
}
if (!Config::get('installed', false)) {
    exit(0);
}
if (posix_geteuid() !== Config::owner()) {
    echo "Console has to be executed with the user that owns the file config/config.php\n";
    exit(1);
}
if (needs_upgrade()) {
    echo "Update required, skipping cron\n";
    exit(0);
}
if (Config::get('maintenance', false)) {
    echo "We are in maintenance mode, skipping cron\n";
    exit(0);
}
AppConfig::set('core', 'lastcron', (string) time());
