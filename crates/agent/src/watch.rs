//! What systemd is told of an agent.

use std::time::Duration;

use control::Snapshot;
use daemon::Watchdog;
use model::{HostStatus, Serving, TunnelState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Link, Services};

/// The tunnel's thread counts every second.
const TUNNEL_DEADLINE: Duration = Duration::from_secs(15);
/// The supervisor looks at the engine every ten seconds, and each thing that it asks meanwhile has a deadline of its own.
const SUPERVISOR_DEADLINE: Duration = Duration::from_secs(180);
/// For the task of the control channel, which counts every second.
pub const CONTROL_DEADLINE: Duration = Duration::from_secs(15);
/// For the agent's core, which counts every second and writes to the disk.
pub const CORE_DEADLINE: Duration = Duration::from_secs(30);

/// A watchdog over the parts that both agents have, and a line of what is in `snapshot` for `systemctl status`.
#[must_use]
pub fn watchdog(
    link: &Link,
    services: &Services,
    snapshot: watch::Receiver<Snapshot>,
    stop: CancellationToken,
) -> Watchdog {
    let mut watchdog = Watchdog::new(stop, move || in_a_line(&snapshot.borrow().local));
    let (tunnel, passes) = (link.pulse.clone(), services.supervision().passes);
    watchdog.watch("tunnel", TUNNEL_DEADLINE, move || *tunnel.borrow());
    watchdog.watch("supervisor", SUPERVISOR_DEADLINE, move || passes.borrow().count);
    watchdog
}

/// How the host is.
fn in_a_line(status: &HostStatus) -> String {
    let tunnel = match (status.tunnel.state, &status.control.peer) {
        (TunnelState::Connected, Some(peer)) => format!("connected to {peer}"),
        (TunnelState::Connected, None) => "connected".to_owned(),
        (TunnelState::Listening, _) => "waiting for the other host".to_owned(),
        _ => match &status.tunnel.reason {
            Some(reason) => format!("connecting: {reason}"),
            None => "connecting".to_owned(),
        },
    };
    let published = || status.services.iter().filter(|service| service.hostname.is_some());
    let serving = published().filter(|service| service.serving == Serving::Yes).count();
    format!("Tunnel {tunnel}; {serving} of {} services serving", published().count())
}

#[cfg(test)]
mod tests {
    use model::Role;

    use super::*;

    #[test]
    fn a_line_says_how_the_host_is() {
        let mut status = HostStatus::new("vps".parse().unwrap(), Role::Edge);
        status.tunnel.state = TunnelState::Listening;
        assert_eq!(in_a_line(&status), "Tunnel waiting for the other host; 0 of 0 services serving");
        status.tunnel.state = TunnelState::Connected;
        status.control.peer = Some("attic".parse().unwrap());
        assert_eq!(in_a_line(&status), "Tunnel connected to attic; 0 of 0 services serving");
    }
}
