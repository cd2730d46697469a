//! Metrics, made from the same status that `agentctl` shows, so that the two cannot disagree, and from what is counted and
//! measured besides.

mod disks;
mod services;
mod tunnel;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control::Snapshot;
use daemon::exposition::{Family, Labels};
use model::{HostStatus, Hostname, TunnelReport};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Common;
use crate::identity::Ends;
use crate::services::Supervision;

pub use disks::{Disk, watch_disks};

/// What the last proof of a public name saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameProof {
    /// How long it took, connecting included; `None` when it failed.
    pub took: Option<Duration>,
    /// When the name's certificate ends, as it was seen last.
    pub certificate_ends: Option<SystemTime>,
}

/// The last proof of each public name.
pub type NameProofs = BTreeMap<Hostname, NameProof>;

impl Common {
    /// The port of the metrics, if it is open to the opposite host.
    #[must_use]
    pub fn metrics_opened(&self) -> Option<u16> {
        self.metrics_tunnel.then(|| self.metrics_listen.port())
    }

    /// Binds what the metrics answer on: as configured, and, if that is asked for, on `address`, this host's in the tunnel.
    ///
    /// # Errors
    /// When one cannot be bound.
    pub async fn bind_metrics(&self, address: Ipv4Addr) -> anyhow::Result<Vec<TcpListener>> {
        let opened = self.metrics_opened().map(|port| SocketAddr::from((address, port)));
        let mut listeners = vec![daemon::metrics::bind(self.metrics_listen).await?];
        if let Some(opened) = opened.filter(|opened| *opened != self.metrics_listen) {
            listeners.push(daemon::metrics::bind(opened).await?);
        }
        Ok(listeners)
    }
}

/// Where an agent's metrics come from.
#[derive(Debug)]
pub struct Metrics {
    /// How this host is.
    pub snapshot: watch::Receiver<Snapshot>,
    /// Its end of the tunnel.
    pub tunnel: watch::Receiver<TunnelReport>,
    /// What its supervisor counts.
    pub supervision: Supervision,
    /// Who proves public names has these.
    pub proofs: Option<watch::Receiver<NameProofs>>,
    /// Room on its disks.
    pub disks: watch::Receiver<Vec<Disk>>,
    /// When its identity ends.
    pub ends: watch::Receiver<Ends>,
}

impl Metrics {
    /// The metrics as they are at each call.
    #[must_use]
    pub fn source(self) -> daemon::metrics::Source {
        Arc::new(move || self.families())
    }

    /// Every metric, those without samples too. Names start with `cloudathome_`; the label `host` is in each.
    fn families(&self) -> Vec<Family> {
        let status = self.snapshot.borrow().local.clone();
        let mut families = agent(&status, self.ends.borrow().certificate);
        families.extend(control(&status));
        families.extend(tunnel::families(&status, &self.tunnel.borrow()));
        families.extend(services::families(&status, &self.supervision));
        families
            .extend(proofs(&status, self.proofs.as_ref().map(|proofs| proofs.borrow().clone()).unwrap_or_default()));
        families.extend(disks::families(&status, &self.disks.borrow()));
        families
    }
}

fn agent(status: &HostStatus, identity_ends: SystemTime) -> Vec<Family> {
    let about =
        vec![("host", status.host.to_string()), ("role", status.role.to_string()), ("version", status.version.clone())];
    vec![
        family("cloudathome_agent_info", "The agent", [(about, 1.0)]),
        one("cloudathome_uptime_seconds", "Since the agent started", status, status.uptime_seconds as f64),
        one("cloudathome_config_generation", "Edge configuration in force", status, status.generation.0 as f64),
        one(
            "cloudathome_identity_expiry_timestamp_seconds",
            "When this host's own certificate ends, Unix time",
            status,
            unix_seconds(identity_ends),
        ),
        one(
            "cloudathome_identity_renewal_failing",
            "1 while this host's certificate is due for renewal and that fails",
            status,
            status.identity.as_ref().map(|identity| f64::from(identity.trouble.is_some())),
        ),
    ]
}

fn control(status: &HostStatus) -> Vec<Family> {
    let control = &status.control;
    vec![
        one(
            "cloudathome_control_connected",
            "1 while the control channel is open",
            status,
            f64::from(control.connected),
        ),
        one(
            "cloudathome_control_silence_seconds",
            "Since the last message of the opposite agent",
            status,
            control.last_heard_seconds.map(|seconds| seconds as f64),
        ),
        one(
            "cloudathome_control_round_trip_seconds",
            "To the opposite agent and back through the tunnel",
            status,
            control.round_trip_micros.map(|micros| micros as f64 / 1e6),
        ),
        one(
            "cloudathome_control_clock_ahead_seconds",
            "How far the opposite host's clock is ahead",
            status,
            control.clock_ahead_millis.map(|millis| millis as f64 / 1e3),
        ),
    ]
}

fn proofs(status: &HostStatus, proofs: NameProofs) -> [Family; 2] {
    let labels = |name: &Hostname| labels(status, [("hostname", name.to_string())]);
    let took = proofs.iter().filter_map(|(name, proof)| Some((labels(name), proof.took?.as_secs_f64())));
    let ends = proofs.iter().filter_map(|(name, proof)| Some((labels(name), unix_seconds(proof.certificate_ends?))));
    [
        family("cloudathome_proof_duration_seconds", "A request through the public name, if the last passed", took),
        family(
            "cloudathome_certificate_expiry_timestamp_seconds",
            "When the certificate of the public name ends, Unix time",
            ends,
        ),
    ]
}

fn family(name: &'static str, help: &'static str, samples: impl IntoIterator<Item = (Labels, f64)>) -> Family {
    Family { name, help, samples: samples.into_iter().collect() }
}

/// A metric of the host as a whole; without a value it has no sample.
fn one(name: &'static str, help: &'static str, status: &HostStatus, value: impl Into<Option<f64>>) -> Family {
    family(name, help, value.into().map(|value| (labels(status, []), value)))
}

/// The reporting host and more.
fn labels(status: &HostStatus, more: impl IntoIterator<Item = (&'static str, String)>) -> Labels {
    [("host", status.host.to_string())].into_iter().chain(more).collect()
}

/// 0 for what is before 1970.
fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as f64
}

#[cfg(test)]
mod tests;
