//! The engine that runs the services.

use std::path::Path;

use model::{Finding, Grade};
use supervisor::EngineInfo;

use super::found;

pub(super) fn engine_finding(asked: &Result<EngineInfo, String>, socket: &Path) -> Finding {
    let what = "engine";
    match asked {
        Err(reason) => {
            let next = format!("sudo systemctl status docker; the agent asks at {}", socket.display());
            found(what, Grade::Bad, reason, Some(&next))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_says_whether_services_outlive_its_restart() {
        let socket = Path::new("/run/docker.sock");
        let info = |live_restore, data_root: &str| {
            Ok(EngineInfo { version: "28.5.2".into(), live_restore, data_root: data_root.into() })
        };
        let with = engine_finding(&info(true, "/var/lib/docker"), socket);
        assert_eq!((with.grade, with.next), (Grade::Good, None));
        let without = engine_finding(&info(false, "/var/lib/docker"), socket);
        assert!(without.text.contains("started again in order") && without.next.unwrap().contains("live-restore"));
        assert_eq!(engine_finding(&info(false, "/var/snap/docker/common"), socket).grade, Grade::Doubtful);
        assert_eq!(engine_finding(&Err("gone".into()), socket).grade, Grade::Bad);
    }
}
