//! The tunnel's link on this host: its device, address and routes, and what is known of the peers behind it.
//!
//! The address is on the link from the start and stays when the agent ends, so that containers can publish their
//! ports on it at any time. The route to the other addresses is there only while the opposite agent is connected:
//! without it, senders get an error at once instead of leaking to the provider.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use hostnet::guard::{self, Guarded};
use hostnet::{LinkState, Netlink, Wanted};
use model::{Role, RoleUri, TunnelReport, TunnelState, TunnelStatus};
use pki::HostIdentity;
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tunnel::{
    ClientKey, Command, ControlProtection, Device, DevicePath, Dial, Event, Handle, Keepalive, MssFix, NameCheck,
    PeerConnected, ServerKey, ServerV2, Snapshot, StaticKey, Stranger, TlsMaterial, TunnelConfig, TunnelIdentity,
};

use crate::config::{Mode, TunnelSettings};
use crate::devices::{self, ConnectedDevices};
use crate::identity::InForce;
use crate::listener;
use crate::report::report;

/// Signs of life inside the tunnel. A dialer whose listener was killed starts over after the second of them.
const KEEPALIVE: Keepalive = Keepalive { ping: Duration::from_secs(2), ping_restart: Duration::from_secs(8) };

/// Wait before the listener is dialed again after it refused us for good. Its owner may have put that right.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// Wait before the tunnel is told again of an identity that it could not use.
const IDENTIFY_AGAIN: Duration = Duration::from_secs(60);

/// What the agent sees of its tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// For people and metrics.
    pub status: TunnelStatus,
    /// Our address inside: as configured, or as the listener we dialed gave it.
    pub address: Ipv4Addr,
    /// Whether the opposite agent is connected.
    pub agent_connected: bool,
}

/// The running link.
#[derive(Debug)]
pub struct Link {
    /// Its latest view.
    pub view: watch::Receiver<LinkView>,
    /// The tunnel in detail, new every second.
    pub report: watch::Receiver<TunnelReport>,
    /// Whether the opposite agent can be reached through it.
    pub up: watch::Receiver<bool>,
    /// Counts on while the tunnel's thread goes on.
    pub pulse: watch::Receiver<u64>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Link {
    /// Puts the link and its address in place and starts the tunnel, through which the opposite agent's host may open
    /// the TCP ports `open_tcp` of this host, which may change, and `metrics`; nobody else may open any. A listener gives connections that
    /// speak TLS to `strangers`.
    ///
    /// # Errors
    /// When the subnet is in use on another link, the kernel refuses the device or its address, or the tunnel cannot
    /// start (port taken, unusable certificate).
    pub async fn start(
        settings: &TunnelSettings,
        mut identity: watch::Receiver<InForce>,
        role: Role,
        open_tcp: watch::Receiver<Vec<u16>>,
        metrics: Option<u16>,
        strangers: Option<mpsc::Sender<Stranger>>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let netlink = Netlink::open()?;
        if let Some(collision) = netlink.collision(settings.subnet, &settings.device).await? {
            bail!("the tunnel's subnet cannot be {}: {collision}; choose another in [tunnel] subnet", settings.subnet);
        }
        let (address, opposite_address) = match role {
            Role::Edge => (settings.edge_address(), settings.home_address()),
            Role::Home | Role::Device => (settings.home_address(), settings.edge_address()),
        };
        let opposite =
            RoleUri { role: if role == Role::Edge { Role::Home } else { Role::Edge }, name: settings.peer.clone() };
        let mut config = tunnel_config(settings, &identity.borrow_and_update(), address, &opposite)?;
        if let tunnel::Mode::Listen(listen) = &mut config.mode {
            listen.strangers = strangers;
        }
        let device = Device::open_persistent(&settings.device, config.offload)?;
        let state = match &settings.mode {
            Mode::Listen(_) => TunnelState::Listening,
            Mode::Dial(_) => TunnelState::Connecting,
        };
        let view = LinkView {
            status: TunnelStatus { state, address: Some(address), ..TunnelStatus::default() },
            address,
            agent_connected: false,
        };
        let (view, view_receiver) = watch::channel(view);
        let (report, report_receiver) = watch::channel(TunnelReport::default());
        let (up, up_receiver) = watch::channel(false);
        let mut worker = Worker {
            netlink,
            settings: settings.clone(),
            idle: state,
            opposite: opposite.to_string(),
            identity,
            identify_again: None,
            usual_mtu: config.tun_mtu,
            mtu: config.tun_mtu,
            device_path: device.path(),
            own_end: role,
            open_tcp,
            metrics,
            opposite_address,
            refused: None,
            devices: ConnectedDevices::default(),
            peer: None,
            reason: None,
            view,
            report,
            up,
        };
        devices::prepare(&settings.devices).await;
        worker.apply().await?;
        let handle = tunnel::start(config, device, stop)?;
        let pulse = handle.pulse.clone();
        let task = tokio::spawn(worker.run(handle));
        Ok(Self { view: view_receiver, report: report_receiver, up: up_receiver, pulse, task })
    }

    /// Waits until the tunnel has ended, which it does when asked to, or when its device or socket is gone.
    ///
    /// # Errors
    /// When it ended unasked.
    pub async fn ended(self) -> anyhow::Result<()> {
        self.task.await.context("the tunnel's link panicked")?
    }
}

/// How an identity's key protects the control channel: a listener needs a tls-crypt-v2 server key, a dialer its own
/// client key, or both the same static key.
pub(crate) fn protection(mode: &Mode, identity: &HostIdentity) -> anyhow::Result<ControlProtection> {
    let text = identity.tls_crypt.expose_secret();
    Ok(match (identity.is_v2(), mode) {
        (false, _) => ControlProtection::TlsCrypt(StaticKey::parse(text).context("the identity's tls-crypt key")?),
        (true, Mode::Dial(_)) => {
            let key =
                ClientKey::parse(text).context("the identity's tls-crypt-v2 key, of a client as a dialer needs it")?;
            ControlProtection::TlsCryptV2(key)
        }
        (true, Mode::Listen(_)) => {
            let key = ServerKey::parse(text)
                .context("the identity's tls-crypt-v2 key, of a server as a listener needs it")?;
            // Clients too old to send their key again would need a session before they have shown their address.
            ControlProtection::TlsCryptV2Listener(ServerV2 {
                key,
                older: Vec::new(),
                max_age: None,
                allow_noncookie: false,
                beside: None,
            })
        }
    })
}

pub(crate) fn tunnel_config(
    settings: &TunnelSettings,
    in_force: &InForce,
    address: Ipv4Addr,
    opposite: &RoleUri,
) -> anyhow::Result<TunnelConfig> {
    let TunnelIdentity { tls, crl, protection } = tunnel_identity(&settings.mode, in_force)?;
    let peer_address = match opposite.role {
        Role::Edge => settings.edge_address(),
        Role::Home | Role::Device => settings.home_address(),
    };
    let mode = match &settings.mode {
        Mode::Listen(bind) => tunnel::Mode::Listen(listener::listen(settings, *bind, address, opposite, peer_address)),
        Mode::Dial(remotes) => tunnel::Mode::Dial(Dial {
            remotes: remotes.clone(),
            peer: Some(NameCheck::Name(opposite.to_string())),
            beside: true,
        }),
    };
    let mut config = TunnelConfig::new(mode, tls, protection);
    config.data_ciphers.clone_from(&settings.data_ciphers);
    config.tls_version_min = settings.tls_version_min;
    config.crl = crl;
    config.offload = settings.offload;
    match settings.mtu {
        None => config.fit_routes(),
        Some(mtu) => {
            (config.tun_mtu, config.max_mtu, config.path_mtu) = (mtu, mtu, false);
            config.data.mss_fix = MssFix::Inner(mtu);
        }
    }
    config.keepalive = KEEPALIVE;
    config.after_refusal = Some(AFTER_REFUSAL);
    Ok(config)
}

/// What the tunnel is told of who this host is.
fn tunnel_identity(mode: &Mode, in_force: &InForce) -> anyhow::Result<TunnelIdentity> {
    let identity = &in_force.identity;
    let tls = TlsMaterial {
        ca_pem: identity.ca_pem.clone(),
        cert_pem: identity.identity.cert_pem.clone(),
        key_pem: identity.identity.key_pem.clone(),
    };
    Ok(TunnelIdentity { tls, crl: in_force.crl.clone(), protection: protection(mode, identity)? })
}

/// Owns the link's state.
struct Worker {
    netlink: Netlink,
    settings: TunnelSettings,
    /// The state without a peer.
    idle: TunnelState,
    /// The opposite agent's name in its certificate.
    opposite: String,
    /// Who this host is.
    identity: watch::Receiver<InForce>,
    /// When the tunnel is told once more, which could not use it.
    identify_again: Option<Instant>,
    /// As configured or pushed, for as long as the path is not known.
    usual_mtu: u16,
    mtu: u16,
    /// How packets pass the device.
    device_path: DevicePath,
    /// What we are in the tunnel.
    own_end: Role,
    open_tcp: watch::Receiver<Vec<u16>>,
    /// Where metrics are to be read through the tunnel.
    metrics: Option<u16>,
    /// The opposite agent's address inside.
    opposite_address: Ipv4Addr,
    /// Why what the listener gave us is not taken.
    refused: Option<String>,
    devices: ConnectedDevices,
    /// The opposite agent, while it is connected.
    peer: Option<PeerConnected>,
    /// Why it is not.
    reason: Option<String>,
    view: watch::Sender<LinkView>,
    report: watch::Sender<TunnelReport>,
    up: watch::Sender<bool>,
}

impl Worker {
    async fn run(mut self, mut handle: Handle) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                event = handle.events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => break,
                },
                Ok(()) = handle.snapshot.changed() => {}
                Ok(()) = self.open_tcp.changed() => self.settle().await,
                Ok(()) = self.identity.changed() => self.identify(&handle),
                () = at(self.identify_again) => self.identify(&handle),
            }
            let snapshot = handle.snapshot.borrow_and_update().clone();
            let link = (snapshot.data_path.device, snapshot.mtu.unwrap_or(self.usual_mtu));
            if link != (self.device_path, self.mtu) {
                (self.device_path, self.mtu) = link;
                self.settle().await;
            }
            self.publish(&snapshot);
        }
        self.peer = None;
        self.devices.clear();
        self.reason = Some("the agent stopped".to_owned());
        self.publish(&handle.snapshot.borrow().clone());
        // Nobody reads the device from here on: without the route, senders learn so at once.
        if let Err(error) = self.apply().await {
            warn!(error = format!("{error:#}"), "the tunnel's route could not be removed");
        }
        devices::end(&self.settings.devices).await;
        handle.task.await.context("the tunnel panicked")?.context("the tunnel ended")
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Listening { address } => info!(%address, "tunnel listening"),
            Event::Connecting { remote } => debug!(%remote, "tunnel dialing"),
            Event::Unresolved { remote, reason } => {
                warn!(remote, reason, "the tunnel's remote has no address");
                self.reason = Some(format!("{remote} has no address: {reason}"));
            }
            Event::LoginPending { timeout } => info!(?timeout, "the listener waits for a second factor"),
            Event::Info(text) => info!(text, "the listener says"),
            Event::Configured(configured) => {
                for option in &configured.ignored {
                    debug!(option, "pushed option not followed");
                }
                let Some(address) = configured.address() else {
                    self.refused = Some("the listener gave us no IPv4 address".to_owned());
                    return;
                };
                self.refused = refusal(&self.settings, self.own_end, address);
                if self.refused.is_none() {
                    self.usual_mtu = configured.mtu;
                    self.view.send_modify(|view| view.address = address);
                }
            }
            Event::Identified(Ok(())) => info!("the tunnel has the new identity"),
            Event::Identified(Err(reason)) => {
                warn!(reason, "the tunnel cannot use the new identity; it is tried again");
                self.identify_again = Some(Instant::now() + IDENTIFY_AGAIN);
            }
            Event::PeerConnected(peer) => self.connected(peer).await,
            Event::PeerDisconnected { peer, identity, reason } => {
                info!(peer = identity.common_name, %reason, "peer disconnected");
                if self.devices.remove(peer) {
                    self.settle().await;
                } else if self.peer.as_ref().is_some_and(|ours| ours.peer == peer) {
                    self.peer = None;
                    self.reason = Some(reason.to_string());
                    self.settle().await;
                }
            }
            Event::HandshakeFailed { remote, reason } => {
                info!(%reason, "handshake failed");
                debug!(%remote, "handshake failed");
                if self.idle == TunnelState::Connecting {
                    self.reason = Some(reason.to_string());
                }
            }
        }
    }

    /// Tells the tunnel who this host is now.
    fn identify(&mut self, handle: &Handle) {
        self.identify_again = None;
        let told = tunnel_identity(&self.settings.mode, &self.identity.borrow_and_update()).and_then(|identity| {
            let command = Command::Identify(Box::new(identity));
            handle.commands.try_send(command).context("the tunnel takes no commands")
        });
        if let Err(error) = told {
            warn!(error = format!("{error:#}"), "the tunnel does not know of the new identity; it is tried again");
            self.identify_again = Some(Instant::now() + IDENTIFY_AGAIN);
        }
    }

    async fn connected(&mut self, peer: PeerConnected) {
        info!(
            peer = peer.identity.common_name,
            transport = %peer.remote.transport,
            address = ?peer.address,
            cipher = %peer.cipher,
            tls = peer.tls_version,
            "peer connected"
        );
        if let Some(reason) = self.refused.clone() {
            warn!(reason, "the listener's configuration is refused");
            // The session before, if there was one, gave way to this one.
            if self.peer.take().is_some() {
                self.settle().await;
            }
            self.reason = Some(reason);
            return;
        }
        // A dialer has one peer, whatever it calls itself; a listener has devices as well.
        if self.idle == TunnelState::Listening && self.devices.add(&peer) {
            self.settle().await;
        } else if self.idle == TunnelState::Connecting || peer.identity.is_named(&self.opposite) {
            self.peer = Some(peer);
            self.reason = None;
            self.settle().await;
        }
    }

    /// Applies what follows from a change of the peer. What the kernel refuses is tried again with the next change.
    async fn settle(&mut self) {
        if let Err(error) = self.apply().await {
            warn!(error = format!("{error:#}"), "the tunnel's link could not be set");
            self.reason = Some(format!("the link could not be set: {error:#}"));
        }
    }

    /// Makes link, address, routes and guard what they should be now.
    async fn apply(&mut self) -> anyhow::Result<()> {
        let device = self.settings.device.clone();
        let address = self.view.borrow().address;
        let has_peers = self.peer.is_some() || self.idle == TunnelState::Listening;
        let wanted = Wanted {
            links: vec![LinkState {
                device: device.clone(),
                address,
                mtu: u32::from(self.mtu),
                tx_queue_len: self.device_path.tx_queue_len(),
                routes: if has_peers { vec![self.settings.subnet] } else { vec![] },
            }],
            unreachable: vec![self.settings.subnet],
        };
        let changes = self.netlink.apply(&wanted).await.context("the tunnel's link")?;
        for change in changes {
            debug!(%change, "link changed");
        }
        let mut open_tcp = self.open_tcp.borrow_and_update().clone();
        let permits = self.settings.devices.permits(&self.devices, self.settings.subnet, &open_tcp);
        open_tcp.extend(self.metrics);
        let opposite = self.opposite_address;
        devices::forward(&self.settings.devices, &device, opposite).await;
        let guarded = Guarded { device, address, opposite, open_tcp, permits };
        guard::ensure(&[guarded]).await.context("the guard of the tunnel")?;
        Ok(())
    }

    fn publish(&mut self, snapshot: &Snapshot) {
        let connected = self.peer.is_some();
        let address = self.view.borrow().address;
        let peer_address = |peer: &PeerConnected| snapshot.address_of(peer.peer).or(peer.address);
        let status = TunnelStatus {
            state: if connected { TunnelState::Connected } else { self.idle },
            reason: self.reason.clone(),
            address: Some(address),
            peer_address: self.peer.as_ref().and_then(peer_address),
            remote: self.peer.as_ref().map(|peer| peer.remote.canonical_address()),
            transport: self.peer.as_ref().map(|peer| peer.remote.transport.to_string()),
            cipher: self.peer.as_ref().map(|peer| peer.cipher.to_string()),
            data_path: Some(snapshot.data_path.to_string()),
            received_bytes: snapshot.traffic.received_bytes,
            sent_bytes: snapshot.traffic.sent_bytes,
            peers: u32::try_from(snapshot.peers.len()).unwrap_or(u32::MAX),
            handshakes_failed: snapshot.handshakes_failed,
            packets_dropped: snapshot.drops.iter().map(|(_, count)| count).sum(),
        };
        self.report.send_replace(report(status.clone(), &self.settings.device, self.mtu, snapshot));
        let view = LinkView { status, address, agent_connected: connected };
        self.view.send_if_modified(|old| {
            let changed = *old != view;
            *old = view;
            changed
        });
        self.up.send_if_modified(|up| std::mem::replace(up, connected) != connected);
    }
}

/// Waits for a time; for ever where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Why an address that a listener gives us cannot be ours. It decides where services are published and what is routed
/// into the tunnel, so it must lie where this host's own configuration says that the tunnel is.
fn refusal(settings: &TunnelSettings, own_end: Role, address: Ipv4Addr) -> Option<String> {
    let subnet = settings.subnet;
    let peers = match own_end {
        Role::Edge => settings.home_address(),
        Role::Home | Role::Device => settings.edge_address(),
    };
    if !subnet.contains(&address) || address == subnet.network() || address == subnet.broadcast() {
        Some(format!("the listener gave us {address}, which is not in [tunnel] subnet {subnet}"))
    } else if address == peers {
        Some(format!("the listener gave us {address}, which is its own agent's by [tunnel] subnet {subnet}"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DevicePolicy;

    #[test]
    fn a_listener_cannot_move_us_out_of_our_subnet() {
        let settings = TunnelSettings {
            mode: Mode::Dial(vec![]),
            peer: "vps".parse().unwrap(),
            subnet: "10.86.0.0/24".parse().unwrap(),
            device: "cah0".to_owned(),
            data_ciphers: vec![],
            tls_version_min: tunnel::TlsVersion::V1_2,
            crl: None,
            offload: tunnel::Offload::Auto,
            mtu: None,
            devices: DevicePolicy::deny(Role::Home),
        };
        let refused = |end, address: &str| refusal(&settings, end, address.parse().unwrap()).is_some();
        assert!(!refused(Role::Home, "10.86.0.2"));
        assert!(!refused(Role::Home, "10.86.0.77"));
        assert!(!refused(Role::Edge, "10.86.0.1"));
        for bad in ["10.87.0.2", "192.168.1.10", "127.0.0.1", "10.86.0.0", "10.86.0.255", "10.86.0.1"] {
            assert!(refused(Role::Home, bad), "{bad}");
        }
        assert!(refused(Role::Edge, "10.86.0.2"));
    }
}
