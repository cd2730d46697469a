//! Drives `ovpn` over TUN and UDP or TCP, with TLS by OpenSSL over the reliability layer.
//!
//! [`start`] runs a tunnel on a thread. It obeys [`Command`]s and a token, and reports by [`Event`]s and a [`Snapshot`],
//! all of them plain data. It never sets addresses or routes: it says what they should be.

mod certificates;
mod config;
mod datagrams;
mod device;
mod dial;
mod driver;
mod framing;
mod listen;
mod moderation;
mod mtu;
mod path;
mod pump;
mod queue;
mod report;
mod scout;
mod sessions;
mod socket;
mod sockets;
mod streams;
mod sys;
mod tls;

pub use certificates::{Clock, Fingerprint, FingerprintError, NameCheck};
pub use config::{
    Admission, Advance, AuthDigest, BetweenPeers, CertificateDemand, Cipher, ClientKey, ControlProtection, Credentials,
    DataSettings, Decision, Dial, FilterAction, Ipv4Prefix, Ipv6Prefix, Keepalive, KeyDirection, KeyError, Listen,
    LoginRequest, MAX_MTU, Metadata, Mode, MssFix, PrefixError, PullFilter, PullRules, PushSet, PushSetError, Remote,
    RemoteError, RenewalLimits, Secret, ServerKey, ServerV2, SharedKey, StaticKey, StaticKeyError, StaticPeer,
    Stranger, TlsAuth, TlsMaterial, TlsVersion, TokenKey, Tokens, TunnelConfig, UnknownDigest,
};
pub use device::{Device, DeviceError};
pub use driver::Error;
pub use path::{DataPath, DatagramPath, DevicePath, IoCount, IoCounters, Offload, UnknownOffload};
pub use report::{
    Command, Configured, Dns, DnsAddress, DnsServer, DnsTransport, Dnssec, DropReason, Drops, EndReason, Event,
    Identity, Ifconfig, Ipv6Ifconfig, KeyDerivation, Notice, PathMtu, PeerConnected, PeerId, PeerSnapshot,
    PushedIpv6Route, PushedRoute, Redirect, RouteGateway, Snapshot, TlsKey, Traffic, Transport, TunnelIdentity,
    Underlay,
};
pub use scout::listener_answers;
pub use tls::{TlsError, check_crl};

use std::io;
use std::pin::Pin;

use ovpn::endpoint::MAX_PACKET_SIZES;
use report::Channels;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running tunnel.
#[derive(Debug)]
pub struct Handle {
    /// News. Should be read; a reader that falls far behind loses the newest.
    pub events: mpsc::Receiver<Event>,
    /// The current state and counters.
    pub snapshot: watch::Receiver<Snapshot>,
    /// Listener that asks for passwords: each of these waits for a [`Command::Decide`]. Those that find nobody reading are
    /// put off.
    pub logins: mpsc::Receiver<LoginRequest>,
    /// Orders.
    pub commands: mpsc::Sender<Command>,
    /// Counts on, every second or so, for as long as the tunnel's thread goes on with its work.
    pub pulse: watch::Receiver<u64>,
    /// Ends when the token given to [`start`] is cancelled and goodbyes are said, at most a second later, or when the
    /// tunnel cannot go on.
    pub task: JoinHandle<Result<(), Error>>,
}

/// Starts a tunnel over `device`, on a thread of its own. It ends when `stop` is cancelled. Needs a tokio runtime, on which
/// TLS runs; when that ends, the tunnel does.
///
/// # Errors
/// When the certificates or settings cannot be used, or a listener's address cannot be bound.
pub fn start(config: TunnelConfig, device: Device, stop: CancellationToken) -> Result<Handle, Error> {
    check(&config)?;
    let (role, expected) = match &config.mode {
        Mode::Listen(_) => (ovpn::wrap::Role::Server, None),
        Mode::Dial(dial) => (ovpn::wrap::Role::Client, dial.peer.clone()),
    };
    let tls = tls::TlsFactory::new(&config, role, expected)?;
    let (hand_over, taken) = std::sync::mpsc::sync_channel::<(Runtime, Tunnel)>(1);
    let (done, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("tunnel".to_owned());
    let thread = thread.spawn(move || {
        if let Ok((runtime, tunnel)) = taken.recv() {
            // Nobody asks any more when the other side is gone.
            let _ = done.send(runtime.block_on(tunnel));
        }
    });
    let thread = thread.map_err(Error::Thread)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let stop = stop.child_token();
    let prepared = {
        // What waits for packets is woken on that thread.
        let _context = runtime.enter();
        prepare(config, device, tls, stop.clone())
    };
    let (channels, tunnel) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // Here may be no place to wait for its end.
            runtime.shutdown_background();
            return Err(error);
        }
    };
    // The thread waits for nothing else, and takes it from here.
    let _ = hand_over.send((runtime, tunnel));
    let task = tokio::spawn(async move {
        // If this task goes with its runtime, the thread goes, too.
        let _stop = stop.drop_guard();
        match ended.await {
            Ok(result) => result,
            // It is over, so that nothing is waited for here.
            Err(_) => match thread.join() {
                Ok(()) => Err(Error::Thread(io::ErrorKind::BrokenPipe.into())),
                Err(panic) => std::panic::resume_unwind(panic),
            },
        }
    });
    let Channels { events, snapshot, logins, commands, pulse } = channels;
    Ok(Handle { events, snapshot, logins, commands, pulse, task })
}

type Tunnel = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Makes a tunnel that waits to be run.
fn prepare(
    config: TunnelConfig,
    device: Device,
    tls: tls::TlsFactory,
    stop: CancellationToken,
) -> Result<(Channels, Tunnel), Error> {
    let (channels, outlets) = report::channels();
    let device = device.watch().map_err(Error::Device)?;
    let driver = driver::Driver::new(device, config.offload, tls, config.protection.clone(), stop, outlets);
    let tunnel: Tunnel = match config.mode.clone() {
        Mode::Listen(listen) => {
            let (sockets, addresses) = open(&listen, config.offload)?;
            Box::pin(listen::run(driver, listen::settings(&config, listen)?, sockets, addresses))
        }
        Mode::Dial(dial) => {
            Box::pin(dial::run(driver, dial::settings(&config)?, dial, config.fit_route, config.after_refusal))
        }
    };
    Ok((channels, tunnel))
}

/// Opens a listener's sockets; tells where they are.
fn open(listen: &Listen, offload: Offload) -> Result<(sockets::Sockets, Vec<Underlay>), Error> {
    let address = Underlay::udp(listen.bind);
    let bind = |source| Error::Bind { address, source };
    let udp = socket::bind(listen.bind).map_err(bind)?;
    let mut addresses = vec![Underlay::udp(udp.local_addr().map_err(bind)?)];
    let mut streams = None;
    if let Some(tcp) = listen.tcp {
        let address = Underlay::tcp(tcp);
        let bind = |source| Error::Bind { address, source };
        let listening =
            streams::Streams::listen(tcp, listen.max_peers + listen::MAX_HANDSHAKES, listen.strangers.clone())
                .map_err(bind)?;
        addresses.push(Underlay::tcp(listening.local_addr().map_err(bind)?));
        streams = Some(listening);
    }
    Ok((sockets::Sockets::listening(udp, streams, offload), addresses))
}

fn check(config: &TunnelConfig) -> Result<(), Error> {
    if !(576..=MAX_MTU).contains(&config.tun_mtu) {
        return Err(Error::Setting("the tunnel's MTU must be from 576 to 9000"));
    }
    if config.renewal.hand_window.is_zero() || config.renewal.overlap.is_zero() {
        return Err(Error::Setting("the times of a key renewal must not be zero"));
    }
    if config.data_ciphers.is_empty() {
        return Err(Error::Setting("there must be at least one data cipher"));
    }
    let is_long = |known: &Credentials| known.username.len().max(known.password.expose().len()) > Credentials::MAX;
    if config.login.as_ref().is_some_and(is_long) {
        return Err(Error::Setting("the user name and the password may be up to 127 bytes long"));
    }
    if config.admission.certificate != CertificateDemand::Required && !config.admission.passwords {
        return Err(Error::Setting("a listener that demands no certificate must ask for passwords"));
    }
    if !MAX_PACKET_SIZES.contains(&config.max_packet_size) {
        return Err(Error::Setting("the largest packet of the control channel must be from 154 to 2048 bytes"));
    }
    if let MssFix::Datagram(bytes) | MssFix::Payload(bytes) | MssFix::Inner(bytes) = config.data.mss_fix
        && bytes < MssFix::LEAST
    {
        return Err(Error::Setting("TCP connections cannot be made to fit into less than 256 bytes"));
    }
    match &config.mode {
        Mode::Listen(listen) => check_listen(listen),
        Mode::Dial(dial) if dial.remotes.is_empty() => Err(Error::Setting("there must be at least one remote to dial")),
        Mode::Dial(_) => Ok(()),
    }
}

fn check_listen(listen: &Listen) -> Result<(), Error> {
    if listen.network.is_none() && listen.network_ipv6.is_none() {
        return Err(Error::Setting("a listener needs an address of at least one family inside of the tunnel"));
    }
    if listen.network.is_some_and(|network| network.prefix_len > 32) {
        return Err(Error::Setting("the prefix length must be from 0 to 32"));
    }
    if listen.network_ipv6.is_some_and(|network| network.prefix_len > 128) {
        return Err(Error::Setting("the prefix length of IPv6 must be from 0 to 128"));
    }
    listen.push.check()?;
    for peer in &listen.peers {
        peer.push.check()?;
    }
    Ok(())
}

/// Seconds since 1970 as far as the clock knows. Only compared with itself.
fn unix_time() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as u32
}

fn rng() -> Box<dyn rand::CryptoRng + Send> {
    Box::new(rand::make_rng::<rand::rngs::StdRng>())
}
