<?php
// Read after config.php at every request: Redis, as the environment names it.
if (getenv('REDIS_HOST')) {
    $secret = getenv('REDIS_HOST_PASSWORD_FILE');
    $CONFIG = [
        'memcache.distributed' => '\OC\Memcache\Redis',
        'memcache.locking' => '\OC\Memcache\Redis',
        'redis' => [
            'host' => getenv('REDIS_HOST'),
            'port' => (int) (getenv('REDIS_HOST_PORT') ?: 6379),
            'password' => $secret ? trim(file_get_contents($secret)) : (string) getenv('REDIS_HOST_PASSWORD'),
        ],
    ];
    if (getenv('REDIS_HOST_USER')) {
        $CONFIG['redis']['user'] = getenv('REDIS_HOST_USER');
    }
}
