//! A look at this host for `agentctl doctor`: what services and tunnel stand on.

mod bound;
mod certificates;
mod dns_command;
mod names;
mod ports;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control::{InspectorError, Opposite, Snapshot};
use futures_util::future::{BoxFuture, join_all};
use hostcheck::{Rooms, found};
use model::{Finding, Grade, HostId, HostStatus, IngressReport, PortReach, TunnelReport, TunnelState};
use supervisor::DockerEngine;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Lookout;
use crate::identity::Ends;
use ports::Look;

pub use hostcheck::MailServer;

/// For the engine to answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// For the opposite host to look at us. It gives up by itself before that.
const OUTSIDE: Duration = Duration::from_millis(4500);
/// Clocks that differ by so much spoil logins with one-time codes.
const CLOCK_DOUBTFUL: u64 = 5_000;
/// And by so much new certificates.
const CLOCK_BAD: u64 = 60_000;
/// A path narrower than this is a tunnel in a tunnel, or broken.
const PATH_DOUBTFUL: u32 = 1400;

/// What the doctor looks at.
#[derive(Debug)]
pub struct Looked {
    /// The engine that runs the services.
    pub engine: Arc<DockerEngine>,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// When this host's identity, and the list of revoked certificates, end.
    pub ends: watch::Receiver<Ends>,
    /// How both hosts are.
    pub snapshot: watch::Receiver<Snapshot>,
    /// This host's end of the tunnel.
    pub tunnel: watch::Receiver<TunnelReport>,
    /// The opposite host's name.
    pub peer: HostId,
    /// The way to ask it.
    pub opposite: Opposite,
    /// Whether this host keeps ports open to the world, for the opposite one to look at.
    pub is_public: bool,
    /// Looks at the opposite host's ports.
    pub lookout: Lookout,
    /// By what servers services send mail.
    pub mail: watch::Receiver<Vec<MailServer>>,
    /// What the ingress publishes, where there is one.
    pub ingress: Option<watch::Receiver<IngressReport>>,
    /// The command that changes the DNS for certificates, if there is one.
    pub dns_command: Option<PathBuf>,
}

/// Looks at this host when it is asked to.
#[derive(Debug)]
pub struct Doctor {
    looked: Arc<Looked>,
    rooms: Rooms,
}

impl Doctor {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(looked: Looked) -> Self {
        Self { looked: Arc::new(looked), rooms: Rooms::default() }
    }
}

impl control::Doctor for Doctor {
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>> {
        let (looked, rooms) = (Arc::clone(&self.looked), self.rooms.clone());
        Box::pin(async move {
            let status = looked.snapshot.borrow().local.clone();
            let report = looked.tunnel.borrow().clone();
            let (ends, servers) = (*looked.ends.borrow(), looked.mail.borrow().clone());
            let (services, names, mail, ours, theirs) = tokio::join!(
                looked.services(&rooms),
                names::names(&status),
                hostcheck::mail(servers),
                looked.ours(),
                looked.theirs()
            );
            let now = SystemTime::now();
            let mut findings = services;
            findings.push(hostcheck::tun());
            findings.push(tunnel(&status));
            findings.extend(path(&report));
            findings.push(control_channel(&status));
            findings.extend(clock(&status));
            findings.push(certificates::identity(ends.certificate, now));
            findings.push(certificates::revocation(ends.crl, now));
            findings.extend(names);
            findings.extend(looked.dns_command.as_deref().map(dns_command::dns_command));
            findings.extend(looked.ingress.iter().flat_map(|report| certificates::names(&report.borrow(), now)));
            findings.extend(mail);
            findings.extend(ours.into_iter().chain(theirs));
            findings
        })
    }

    fn reach(&self) -> BoxFuture<'static, Option<Vec<PortReach>>> {
        let lookout = self.looked.lookout.clone();
        Box::pin(async move { lookout.look().await })
    }
}

impl Looked {
    /// The engine and the disks.
    async fn services(&self, rooms: &Rooms) -> Vec<Finding> {
        let asked = match timeout(DEADLINE, self.engine.info()).await {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(error)) => Err(crate::config::chain(&error)),
            Err(_) => Err(format!("it does not answer within {} s", DEADLINE.as_secs())),
        };
        let mut findings = vec![hostcheck::engine(&asked, self.engine.socket())];
        let dirs = std::iter::once(self.state_dir.clone()).chain(asked.ok().map(|info| info.data_root));
        findings.extend(join_all(dirs.map(|dir| rooms.look(dir))).await);
        findings
    }

    /// Our ports as the opposite host sees them.
    async fn ours(&self) -> Vec<Finding> {
        if !self.is_public {
            return Vec::new();
        }
        let asked = async { self.opposite.inspector()?.reach().await };
        let seen = timeout(OUTSIDE, asked).await;
        let seen = seen.unwrap_or_else(|_| {
            let within = OUTSIDE.as_secs_f32();
            Err(InspectorError::Away(format!("{} did not answer within {within} s", self.peer)))
        });
        match seen {
            Ok(seen) => ports::findings(Look::ByPeer(&self.peer), seen),
            Err(error) => vec![ports::not_told(&self.peer, &error)],
        }
    }

    /// Its ports as we see them.
    async fn theirs(&self) -> Vec<Finding> {
        let seen = self.lookout.look().await.unwrap_or_default();
        ports::findings(Look::AtPeer(&self.peer), seen)
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

#[cfg(test)]
mod tests {
    use model::Role;

    use super::*;
    use crate::Myself;

    fn status(role: Role) -> HostStatus {
        Myself::new("attic".parse().unwrap(), role).status()
    }

    #[test]
    fn what_goes_wrong_slowly_is_told_ahead() {
        let apart = |millis| {
            let mut status = status(Role::Home);
            status.control.clock_ahead_millis = Some(millis);
            clock(&status).unwrap().grade
        };
        assert_eq!([apart(-20), apart(-7_000), apart(90_000)], [Grade::Good, Grade::Doubtful, Grade::Bad]);
        assert_eq!(clock(&status(Role::Home)), None);
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
}
