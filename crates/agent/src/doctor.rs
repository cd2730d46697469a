//! A look at this host for `agentctl doctor`: what services and tunnel stand on.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control::Snapshot;
use futures_util::future::{BoxFuture, join, join_all};
use model::{Finding, Grade, HostStatus, Role, TunnelReport, TunnelState};
use nix::sys::statvfs::statvfs;
use supervisor::{DockerEngine, EngineInfo};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::identity::Ends;

/// For a single look.
const DEADLINE: Duration = Duration::from_secs(3);
/// With less room than this services fail.
const ROOM_BAD: u64 = 1 << 30;
/// With less room than this an upgrade may not be possible, which copies what it changes.
const ROOM_DOUBTFUL: u64 = 10 << 30;
/// Clocks that differ by so much spoil logins with one-time codes.
const CLOCK_DOUBTFUL: u64 = 5_000;
/// And by so much new certificates.
const CLOCK_BAD: u64 = 60_000;
const DAY: u64 = 24 * 3600;
/// An identity that ends so soon is to be replaced now.
const IDENTITY_BAD: Duration = Duration::from_secs(14 * DAY);
/// And so soon, when there is time.
const IDENTITY_DOUBTFUL: Duration = Duration::from_secs(60 * DAY);
/// A path narrower than this is a tunnel in a tunnel, or broken.
const PATH_DOUBTFUL: u32 = 1400;
/// HTTPS, for names to be resolved with.
const HTTPS: u16 = 443;

/// Looks at this host when it is asked to.
#[derive(Debug)]
pub struct Doctor {
    /// The engine that runs the services.
    pub engine: Arc<DockerEngine>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// When this host's identity ends.
    pub ends: watch::Receiver<Ends>,
    /// How both hosts are.
    pub snapshot: watch::Receiver<Snapshot>,
    /// This host's end of the tunnel.
    pub tunnel: watch::Receiver<TunnelReport>,
}

impl control::Doctor for Doctor {
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>> {
        let status = self.snapshot.borrow().local.clone();
        let report = self.tunnel.borrow().clone();
        let (engine, state_dir) = (Arc::clone(&self.engine), self.state_dir.clone());
        let ends = self.ends.borrow().certificate;
        Box::pin(async move {
            let asked = timeout(DEADLINE, engine.info());
            let (asked, names) = join(asked, names(&status)).await;
            let asked = match asked {
                Ok(Ok(info)) => Ok(info),
                Ok(Err(error)) => Err(crate::config::chain(&error)),
                Err(_) => Err(format!("it does not answer within {} s", DEADLINE.as_secs())),
            };
            let mut findings = vec![engine_finding(&asked, engine.socket())];
            let data_root = asked.ok().map(|info| info.data_root);
            findings.extend([Some(state_dir), data_root].into_iter().flatten().map(|dir| room(&dir)));
            findings.push(tunnel(&status));
            findings.extend(path(&report));
            findings.push(control_channel(&status));
            findings.extend(clock(&status));
            findings.push(identity(ends, SystemTime::now()));
            findings.extend(names);
            findings
        })
    }
}

fn found(check: &str, grade: Grade, text: impl Into<String>, next: Option<&str>) -> Finding {
    Finding { check: check.to_owned(), grade, text: text.into(), next: next.map(str::to_owned) }
}

fn engine_finding(asked: &Result<EngineInfo, String>, socket: &Path) -> Finding {
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

fn room(dir: &Path) -> Finding {
    let of = dir.display();
    match statvfs(dir) {
        Err(error) => found("disk", Grade::Bad, format!("{of} cannot be looked at: {error}"), None),
        Ok(stat) => {
            let (free, all) = (stat.blocks_available() * stat.fragment_size(), stat.blocks() * stat.fragment_size());
            let grade = match free {
                free if free < ROOM_BAD => Grade::Bad,
                free if free < ROOM_DOUBTFUL => Grade::Doubtful,
                _ => Grade::Good,
            };
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let next = "make room, for example with `docker image prune`; an upgrade needs a copy of what it changes";
            let text = format!("{:.1} of {:.1} GiB are free at {of}", gib(free), gib(all));
            found("disk", grade, text, (grade != Grade::Good).then_some(next))
        }
    }
}

fn tunnel(status: &HostStatus) -> Finding {
    let tunnel = &status.tunnel;
    match (tunnel.state, tunnel.transport.as_deref()) {
        (TunnelState::Connected, Some("tcp")) => found(
            "tunnel",
            Grade::Doubtful,
            "connected over TCP: UDP does not get through, which is slower",
            Some("let UDP 1194 through at the VPS and its provider; the tunnel changes over by itself"),
        ),
        (TunnelState::Connected, _) => found("tunnel", Grade::Good, "connected over UDP", None),
        _ => {
            let reason = tunnel.reason.clone().unwrap_or_else(|| "the other end has not been heard".to_owned());
            found("tunnel", Grade::Bad, format!("not connected: {reason}"), Some("agentctl tunnel; agentctl why"))
        }
    }
}

fn path(report: &TunnelReport) -> Option<Finding> {
    let narrowest = report.peers.iter().filter_map(|peer| peer.path_mtu).min()?;
    let (grade, next) = if narrowest < PATH_DOUBTFUL {
        (
            Grade::Doubtful,
            Some("a router on the way, or another tunnel, takes less than usual; it works, with smaller packets"),
        )
    } else {
        (Grade::Good, None)
    };
    Some(found("path MTU", grade, format!("packets of up to {narrowest} bytes get through"), next))
}

fn control_channel(status: &HostStatus) -> Finding {
    let control = &status.control;
    match (control.connected, control.round_trip_micros) {
        (true, Some(micros)) => {
            found("control", Grade::Good, format!("round trip {:.1} ms", micros as f64 / 1000.0), None)
        }
        (true, None) => found("control", Grade::Good, "connected", None),
        (false, _) => {
            let reason = control.reason.clone().unwrap_or_else(|| "not connected".to_owned());
            found("control", Grade::Bad, reason, Some("is the tunnel connected, and does the other agent run?"))
        }
    }
}

fn clock(status: &HostStatus) -> Option<Finding> {
    let ahead = status.control.clock_ahead_millis?;
    let apart = ahead.unsigned_abs();
    let grade = match apart {
        apart if apart >= CLOCK_BAD => Grade::Bad,
        apart if apart >= CLOCK_DOUBTFUL => Grade::Doubtful,
        _ => Grade::Good,
    };
    let text = format!("the hosts' clocks are {:.1} s apart", apart as f64 / 1000.0);
    Some(found("clock", grade, text, (grade != Grade::Good).then_some("timedatectl set-ntp true, on both hosts")))
}

fn identity(ends: SystemTime, now: SystemTime) -> Finding {
    let left = ends.duration_since(now).unwrap_or_default();
    let grade = match left {
        left if left < IDENTITY_BAD => Grade::Bad,
        left if left < IDENTITY_DOUBTFUL => Grade::Doubtful,
        _ => Grade::Good,
    };
    let text = format!("this host's certificate ends in {} days", left.as_secs() / DAY);
    found("identity", grade, text, (grade != Grade::Good).then_some("make a new one: agentctl pki issue --help"))
}

/// Whether home's public names lead to the edge. Home knows where that is: it dials it.
async fn names(status: &HostStatus) -> Vec<Finding> {
    let edge = status.tunnel.remote.map(|remote| remote.ip().to_canonical());
    let Some(edge) = edge.filter(|_| status.role == Role::Home) else { return Vec::new() };
    let looks = status.services.iter().filter_map(|service| service.hostname.clone()).map(|hostname| async move {
        let looked = timeout(DEADLINE, lookup_host((hostname.as_str(), HTTPS))).await;
        let addresses = match looked {
            Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip().to_canonical()).collect::<Vec<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no name server answers within {} s", DEADLINE.as_secs())),
        };
        name(hostname.as_str(), addresses, edge)
    });
    join_all(looks).await
}

fn name(hostname: &str, addresses: Result<Vec<IpAddr>, String>, edge: IpAddr) -> Finding {
    let record = if edge.is_ipv4() { "A" } else { "AAAA" };
    let next = format!("set its {record} record to {edge}; `*.DOMAIN` covers all but the domain itself");
    match addresses {
        Err(reason) => found("DNS", Grade::Bad, format!("{hostname} has no address: {reason}"), Some(&next)),
        Ok(addresses) if addresses.contains(&edge) => {
            found("DNS", Grade::Good, format!("{hostname} leads to the edge, {edge}"), None)
        }
        // Where the edge is by the other family is not known here.
        Ok(addresses) if addresses.iter().all(|address| address.is_ipv4() != edge.is_ipv4()) => found(
            "DNS",
            Grade::Good,
            format!("{hostname} has an address; the tunnel goes to the edge by another family"),
            None,
        ),
        Ok(addresses) => {
            let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let text = format!("{hostname} leads to {}, and the tunnel to the edge at {edge}", listed.join(" and "));
            found("DNS", Grade::Doubtful, text, Some(&next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Myself;

    fn status(role: Role) -> HostStatus {
        Myself::new("attic".parse().unwrap(), role).status()
    }

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

    #[test]
    fn what_goes_wrong_slowly_is_told_ahead() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY);
        let days = |days| identity(now + Duration::from_secs(days * DAY), now).grade;
        assert_eq!([days(400), days(30), days(3)], [Grade::Good, Grade::Doubtful, Grade::Bad]);
        assert_eq!(identity(now - Duration::from_secs(1), now).grade, Grade::Bad);

        let apart = |millis| {
            let mut status = status(Role::Home);
            status.control.clock_ahead_millis = Some(millis);
            clock(&status).unwrap().grade
        };
        assert_eq!([apart(-20), apart(-7_000), apart(90_000)], [Grade::Good, Grade::Doubtful, Grade::Bad]);
        assert_eq!(clock(&status(Role::Home)), None);
        assert_eq!(room(Path::new("/no/such/directory")).grade, Grade::Bad);
    }

    #[test]
    fn the_tunnel_is_well_over_udp_only() {
        let mut status = status(Role::Home);
        assert_eq!((tunnel(&status).grade, control_channel(&status).grade), (Grade::Bad, Grade::Bad));
        status.tunnel.state = TunnelState::Connected;
        status.tunnel.transport = Some("tcp".into());
        assert_eq!(tunnel(&status).grade, Grade::Doubtful);
        status.tunnel.transport = Some("udp".into());
        status.control.connected = true;
        assert_eq!((tunnel(&status).grade, control_channel(&status).grade), (Grade::Good, Grade::Good));
    }

    #[test]
    fn names_are_held_against_where_the_tunnel_goes() {
        let edge: IpAddr = "203.0.113.7".parse().unwrap();
        let grade = |addresses| name("cloud.example.com", addresses, edge).grade;
        assert_eq!(grade(Ok(vec!["2001:db8::7".parse().unwrap(), edge])), Grade::Good);
        assert_eq!(grade(Ok(vec!["198.51.100.1".parse().unwrap()])), Grade::Doubtful);
        assert_eq!(grade(Ok(vec!["2001:db8::7".parse().unwrap()])), Grade::Good);
        assert_eq!(grade(Err("no such name".into())), Grade::Bad);
    }
}
