//! The engine that runs the services.

use std::path::Path;

use model::{Finding, Grade};
use supervisor::EngineInfo;

use crate::found;

/// The oldest engine that this is tried with: that of Debian 12.
const OLDEST: (u32, u32) = (20, 10);

/// How the engine is, by what it says of itself when asked at `socket`, or why it says nothing.
#[must_use]
pub fn engine(asked: &Result<EngineInfo, String>, socket: &Path) -> Finding {
    let what = "engine";
    match asked {
        Err(reason) => {
            let next = format!("sudo systemctl status docker; the agent asks at {}", socket.display());
            found(what, Grade::Bad, reason, Some(&next))
        }
        Ok(info) if release(&info.version).is_some_and(|release| release < OLDEST) => found(
            what,
            Grade::Bad,
            format!("Docker {} is older than {}.{}, the oldest that is supported", info.version, OLDEST.0, OLDEST.1),
            Some("upgrade it: docker.io of your distribution, or docker-ce"),
        ),
        Ok(info) if info.data_root.starts_with("/var/snap") => found(
            what,
            Grade::Doubtful,
            format!("Docker {} from a snap, which updates and restarts itself at any time", info.version),
            Some("install docker.io or docker-ce in its place"),
        ),
        Ok(info) if info.live_restore => {
            found(what, Grade::Good, format!("Docker {}; services go on while it restarts", info.version), None)
        }
        Ok(info) => found(
            what,
            Grade::Good,
            format!("Docker {}; when it restarts, services stop and are started again in order", info.version),
            Some("{\"live-restore\": true} in /etc/docker/daemon.json keeps them running meanwhile"),
        ),
    }
}

/// The two numbers that a version begins with; none of what is no Docker's.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_says_whether_services_outlive_its_restart() {
        let socket = Path::new("/run/docker.sock");
        let info = |live_restore, data_root: &str| {
            Ok(EngineInfo { version: "28.5.2".into(), live_restore, data_root: data_root.into() })
        };
        let with = engine(&info(true, "/var/lib/docker"), socket);
        assert_eq!((with.grade, with.next), (Grade::Good, None));
        let without = engine(&info(false, "/var/lib/docker"), socket);
        assert!(without.text.contains("started again in order") && without.next.unwrap().contains("live-restore"));
        let old = |version: &str| {
            let info = EngineInfo { version: version.into(), live_restore: true, data_root: "/var/lib/docker".into() };
            engine(&Ok(info), socket).grade
        };
        assert_eq!(["19.03.15", "1.13.1", "18.09.1-ce"].map(old), [Grade::Bad; 3]);
        assert_eq!(["20.10.24+dfsg1", "28.5.2", "dev"].map(old), [Grade::Good; 3]);
        assert_eq!(engine(&info(false, "/var/snap/docker/common"), socket).grade, Grade::Doubtful);
        assert_eq!(engine(&Err("gone".into()), socket).grade, Grade::Bad);
    }
}
