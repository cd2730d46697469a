<?php
declare(strict_types=1);

namespace StandIn;

require __DIR__ . '/lib/base.php';
require __DIR__ . '/lib/Pages.php';

refuse_untrusted_host();
refuse_in_maintenance();
if (!Config::get('installed', false)) {
    Pages::message(503, 'Not installed', 'This stand-in is installed from its environment: see its log.');
    exit;
}
require_all();

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/';
$path = preg_replace('#^/index\.php(?=/|$)#', '', $path);
Pages::open_session();
match (true) {
    $path === '/login' && $_SERVER['REQUEST_METHOD'] === 'POST' => Pages::log_in(),
    $path === '/login' => Pages::login_form(),
    $path === '/logout' => Pages::log_out(),
    in_array($path, ['', '/', '/apps/files', '/apps/files/'], true) => Pages::files(),
    default => Pages::message(404, 'Page not found', 'The page could not be found on the server.'),
};
