<?php
// Read after config.php at every request: what the environment says about the proxy in front of us.
$CONFIG = [];
$names = [
    'OVERWRITEHOST' => 'overwritehost',
    'OVERWRITEPROTOCOL' => 'overwriteprotocol',
    'OVERWRITECLIURL' => 'overwrite.cli.url',
    'OVERWRITECONDADDR' => 'overwritecondaddr',
];
foreach ($names as $variable => $key) {
    if (getenv($variable)) {
        $CONFIG[$key] = getenv($variable);
    }
}
foreach (['TRUSTED_PROXIES' => 'trusted_proxies', 'FORWARDED_FOR_HEADERS' => 'forwarded_for_headers'] as $variable => $key) {
    if (getenv($variable)) {
        $CONFIG[$key] = preg_split('/\s+/', getenv($variable), -1, PREG_SPLIT_NO_EMPTY);
    }
}
