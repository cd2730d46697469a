//! What the agent needs of its host: the device for the tunnel, and the command of DNS-01.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use model::{Finding, Grade};

use super::found;

/// Where the kernel makes links that a program carries packets for.
const TUN: &str = "/dev/net/tun";

/// Whether the tunnel's device could be made anew.
pub(super) fn tun() -> Finding {
    judged(OpenOptions::new().read(true).write(true).open(TUN).map(drop))
}

fn judged(opened: io::Result<()>) -> Finding {
    let what = "TUN";
    match opened {
        Ok(()) => found(what, Grade::Good, format!("{TUN} can be opened"), None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => found(
            what,
            Grade::Bad,
            format!("{TUN} is missing: the next start of the agent fails"),
            Some("`modprobe tun`; in a container or a VPS of one, switch TUN on in its provider's panel"),
        ),
        Err(error) => found(
            what,
            Grade::Bad,
            format!("{TUN} cannot be opened: {error}; the next start of the agent fails"),
            Some(
                "the agent needs CAP_NET_ADMIN and DeviceAllow=/dev/net/tun, as its unit has them; in a container that device",
            ),
        ),
    }
}

/// Whether the command that changes the DNS for certificates can still be run.
pub(super) fn dns_command(path: &Path) -> Finding {
    let what = "DNS-01";
    let shown = path.display();
    let next = format!("certificates are not renewed without it: put it back, and `chmod 755 {shown}`");
    match path.metadata() {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
            found(what, Grade::Good, format!("the command {shown} is there"), None)
        }
        Ok(_) => found(what, Grade::Bad, format!("{shown} is no program that can be run"), Some(&next)),
        Err(error) => found(what, Grade::Bad, format!("{shown} cannot be run: {error}"), Some(&next)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_device_is_told_from_a_forbidden_one() {
        assert_eq!(judged(Ok(())).grade, Grade::Good);
        let missing = judged(Err(io::ErrorKind::NotFound.into()));
        assert!(missing.grade == Grade::Bad && missing.next.unwrap().contains("modprobe tun"));
        let forbidden = judged(Err(io::ErrorKind::PermissionDenied.into()));
        assert!(forbidden.grade == Grade::Bad && forbidden.next.unwrap().contains("CAP_NET_ADMIN"));
    }

    #[test]
    fn a_command_that_is_gone_is_told_before_certificates_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dns");
        assert_eq!(dns_command(&path).grade, Grade::Bad);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(dns_command(&path).grade, Grade::Bad);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(dns_command(&path).grade, Grade::Good);
        assert_eq!(dns_command(dir.path()).grade, Grade::Bad);
    }
}
