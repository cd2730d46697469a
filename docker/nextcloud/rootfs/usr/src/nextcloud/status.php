<?php
declare(strict_types=1);

require __DIR__ . '/lib/base.php';

StandIn\refuse_untrusted_host();
StandIn\require_database();
header('Content-Type: application/json');
header('Access-Control-Allow-Origin: *');
echo json_encode(StandIn\status(), JSON_UNESCAPED_SLASHES);
