<?php
// The few pages for people: a login that needs the database and a session, and a list of files behind it.
declare(strict_types=1);

namespace StandIn;

final class Pages
{
    public static function open_session(): void
    {
        session_name((string) Config::get('instanceid', 'standin'));
        session_set_cookie_params(['path' => '/', 'httponly' => true, 'samesite' => 'Lax', 'secure' => Request::is_https()]);
        session_start();
        $_SESSION['token'] ??= bin2hex(random_bytes(16));
    }

    public static function login_form(string $note = ''): void
    {
        if (isset($_SESSION['user'])) {
            self::redirect('/apps/files/');
            return;
        }
        if (($_GET['direct'] ?? '') === '1') {
            $note = 'Wrong login or password, or the page was too old: please try again.';
        }
        self::page('Login', '<form method="post" action="/login">'
            . '<p>' . self::text($note) . '</p>'
            . '<input name="user" placeholder="Account name" autofocus> '
            . '<input name="password" type="password" placeholder="Password"> '
            . '<input name="requesttoken" type="hidden" value="' . self::text($_SESSION['token']) . '">'
            . '<button type="submit">Log in</button></form>');
    }

    public static function log_in(): void
    {
        $user = self::field('user');
        $is_from_our_form = hash_equals($_SESSION['token'], self::field('requesttoken'));
        if (!$is_from_our_form || !Users::check($user, self::field('password'))) {
            // Without a host, as the real one does it here and nowhere else.
            header('Location: /login?user=' . rawurlencode($user) . '&direct=1', true, 303);
            return;
        }
        session_regenerate_id(true);
        $_SESSION['user'] = $user;
        self::redirect('/apps/files/');
    }

    public static function log_out(): void
    {
        session_destroy();
        self::redirect('/login');
    }

    public static function files(): void
    {
        if (!isset($_SESSION['user'])) {
            self::redirect('/login', 302);
            return;
        }
        $user = $_SESSION['user'];
        $items = '';
        foreach (array_diff(scandir(data_dir() . "/$user/files"), ['.', '..']) as $name) {
            $items .= '<li><a href="/remote.php/dav/files/' . rawurlencode($user) . '/' . rawurlencode($name) . '">' . self::text($name) . '</a></li>';
        }
        self::page('Files', '<p>Logged in as ' . self::text($user) . ' from ' . self::text(Request::remote_address())
            . ' - <a href="/logout">Log out</a></p><ul>' . $items . '</ul>');
    }

    public static function message(int $status, string $title, string $text): void
    {
        http_response_code($status);
        self::page($title, '<p>' . self::text($text) . '</p>');
    }

    private static function page(string $title, string $body): void
    {
        header('Content-Type: text/html; charset=UTF-8');
        header('Cache-Control: no-cache, no-store, must-revalidate');
        $token = self::text($_SESSION['token'] ?? '');
        echo '<!DOCTYPE html><html lang="en"><head data-requesttoken="', $token, '"><title>', $title, ' - ', PRODUCT,
            '</title></head><body><h2>', $title, '</h2>', $body, '<p><small>', PRODUCT, ": not Nextcloud.</small></p></body></html>\n";
    }

    private static function redirect(string $path, int $status = 303): void
    {
        header('Location: ' . Request::url($path), true, $status);
    }

    private static function field(string $name): string
    {
        $value = $_POST[$name] ?? '';
        return is_string($value) ? $value : '';
    }

    private static function text(string $text): string
    {
        return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE);
    }
}
