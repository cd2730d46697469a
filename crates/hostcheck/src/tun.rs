//! The device that the tunnel needs.

use std::fs::OpenOptions;
use std::io;

use model::{Finding, Grade};

use crate::found;

/// Where the kernel makes links that a program carries packets for.
const TUN: &str = "/dev/net/tun";

/// Whether the tunnel's device could be made anew.
#[must_use]
pub fn tun() -> Finding {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_told_from_a_forbidden_one() {
        assert_eq!(judged(Ok(())).grade, Grade::Good);
        let missing = judged(Err(io::ErrorKind::NotFound.into()));
        assert!(missing.grade == Grade::Bad && missing.next.unwrap().contains("modprobe tun"));
        let forbidden = judged(Err(io::ErrorKind::PermissionDenied.into()));
        assert!(forbidden.grade == Grade::Bad && forbidden.next.unwrap().contains("CAP_NET_ADMIN"));
    }
}
