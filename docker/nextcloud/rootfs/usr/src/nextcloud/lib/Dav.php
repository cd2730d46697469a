<?php
// WebDAV on real files: sabre/dav speaks the protocol, these classes say what lies where and who may see it.
declare(strict_types=1);

namespace StandIn;

use Sabre\DAV;

final class Auth extends DAV\Auth\Backend\AbstractBasic
{
    protected function validateUserPass($username, $password)
    {
        return Users::check($username, $password);
    }
}

/** files/: one home per user, of which each sees the own one only. */
final class Homes extends DAV\Collection
{
    public function __construct(private Auth $auth)
    {
    }

    public function getName()
    {
        return 'files';
    }

    public function getChildren()
    {
        return [$this->getChild($this->auth->getCurrentUser())];
    }

    public function getChild($name)
    {
        // Another's home looks empty, whether that user exists or not.
        return $name === $this->auth->getCurrentUser() ? new Home(data_dir() . "/$name/files", $name) : new DAV\SimpleCollection($name);
    }
}

class Folder extends DAV\FS\Directory
{
    public function createFile($name, $data = null)
    {
        return store($this->file($name), $data);
    }

    public function createDirectory($name)
    {
        if (!mkdir($this->file($name))) {
            throw new DAV\Exception("cannot make the folder $name");
        }
    }

    public function getChild($name)
    {
        $path = $this->file($name);
        return match (true) {
            is_dir($path) => new Folder($path),
            is_file($path) => new File($path),
            default => throw new DAV\Exception\NotFound("File with name $name could not be located"),
        };
    }

    public function childExists($name)
    {
        return file_exists($this->file($name));
    }

    public function getChildren()
    {
        $names = array_filter(scandir($this->path), fn ($name) => $name !== '.' && $name !== '..' && !str_ends_with($name, '.part'));
        return array_map(fn ($name) => $this->getChild($name), array_values($names));
    }

    private function file(string $name): string
    {
        if ($name === '' || $name === '.' || $name === '..' || strpbrk($name, "/\0") !== false || str_ends_with($name, '.part')) {
            throw new DAV\Exception\Forbidden("'$name' is not an allowed file or folder name");
        }
        return "$this->path/$name";
    }
}

/** A user's top folder, whose name on the web is the user's. */
final class Home extends Folder
{
    public function __construct(string $path, private string $user)
    {
        parent::__construct($path);
    }

    public function getName()
    {
        return $this->user;
    }

    public function setName($name)
    {
        throw new DAV\Exception\Forbidden('a home cannot be renamed');
    }

    public function delete()
    {
        throw new DAV\Exception\Forbidden('a home cannot be deleted');
    }
}

final class File extends DAV\FS\File
{
    public function put($data)
    {
        return store($this->path, $data);
    }

    public function getETag()
    {
        return etag($this->path);
    }
}

/** Writes beside the target and puts it in place only when all of it has come, so that a broken upload leaves no half file. */
function store(string $path, mixed $data): string
{
    $part = $path . '.ocTransferId' . random_int(1, PHP_INT_MAX) . '.part';
    try {
        $written = file_put_contents($part, $data ?? '');
        if ($written === false) {
            throw new DAV\Exception('Could not write file contents');
        }
        $expected = $_SERVER['REQUEST_METHOD'] === 'PUT' ? ($_SERVER['CONTENT_LENGTH'] ?? null) : null;
        if ($expected !== null && (int) $expected !== $written) {
            throw new DAV\Exception\BadRequest("Expected filesize of $expected bytes but read (from Nextcloud client) and wrote (to Nextcloud storage) $written bytes.");
        }
        if (!rename($part, $path)) {
            throw new DAV\Exception('Could not rename part file to final file');
        }
    } finally {
        if (file_exists($part)) {
            unlink($part);
        }
    }
    clearstatcache();
    return etag($path);
}

function etag(string $path): string
{
    $status = stat($path);
    return '"' . md5("$status[ino] $status[size] $status[mtime]") . '"';
}
