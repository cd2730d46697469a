<?php
declare(strict_types=1);

namespace StandIn;

use Sabre\DAV;

require __DIR__ . '/lib/base.php';
require '/usr/share/php/Sabre/autoload.php';
require __DIR__ . '/lib/Dav.php';

refuse_untrusted_host();
if (!Config::get('installed', false) || Config::get('maintenance', false) || needs_upgrade()) {
    http_response_code(503);
    header('Content-Type: application/xml; charset=utf-8');
    header('Retry-After: 120');
    header('X-Nextcloud-Maintenance-Mode: 1');
    echo '<?xml version="1.0" encoding="utf-8"?>', "\n",
        '<d:error xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns">', "\n",
        '  <s:exception>Sabre\DAV\Exception\ServiceUnavailable</s:exception>', "\n",
        '  <s:message>System in maintenance mode.</s:message>', "\n",
        '</d:error>', "\n";
    exit;
}
require_all();
// PHP counts no waiting, so this bounds our own work and not a slow upload.
set_time_limit(3600);

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/';
if (!str_starts_with("$path/", '/remote.php/dav/')) {
    http_response_code(404);
    exit;
}
$backend = new Auth();
$server = new DAV\Server(new DAV\SimpleCollection('root', [new Homes($backend)]));
$server->setBaseUri('/remote.php/dav/');
$server->addPlugin(new DAV\Auth\Plugin($backend, 'Nextcloud'));
$server->exec();
