//! Both roles in this process, over loopback and devices in memory. Needs no rights.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel::{
    Command, Device, Dial, EndReason, Error, Event, Handle, Ipv4Prefix, Listen, Mode, NameCheck, Offload, Remote,
    StaticKey, StaticPeer, TlsMaterial, Transport, TunnelConfig, Underlay,
};

const LISTENER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const DIALER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
const DEADLINE: Duration = Duration::from_secs(20);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> TlsMaterial {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        TlsMaterial { ca_pem: self.0.pem(), cert_pem: certificate.pem(), key_pem: key.serialize_pem().into() }
    }

    fn listener(&self, bind: SocketAddr) -> TunnelConfig {
        let mode = Mode::Listen(Listen {
            tcp: Some(bind),
            peers: vec![StaticPeer { name: "dialer".to_owned(), address: Some(DIALER), ..StaticPeer::default() }],
            max_peers: 4,
            ..Listen::new(bind, Some(Ipv4Prefix { address: LISTENER, prefix_len: 24 }))
        });
        TunnelConfig::new(mode, self.issue("listener", ExtendedKeyUsagePurpose::ServerAuth), Some(key()))
    }

    fn dialer(&self, remote: Underlay) -> TunnelConfig {
        self.dialer_of(vec![remote.to_string().parse().unwrap()])
    }

    fn dialer_of(&self, remotes: Vec<Remote>) -> TunnelConfig {
        let mode = Mode::Dial(Dial { remotes, peer: Some(NameCheck::Name("listener".to_owned())), beside: true });
        TunnelConfig::new(mode, self.issue("dialer", ExtendedKeyUsagePurpose::ClientAuth), Some(key()))
    }
}

fn key() -> StaticKey {
    StaticKey::from_bytes([5; 256])
}

fn any() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

struct Running {
    handle: Handle,
    device: UnixDatagram,
    stop: CancellationToken,
}

impl Running {
    fn start(config: TunnelConfig) -> Self {
        let (device, far) = Device::pair().unwrap();
        far.set_read_timeout(Some(DEADLINE)).unwrap();
        let stop = CancellationToken::new();
        Self { handle: tunnel::start(config, device, stop.clone()).unwrap(), device: far, stop }
    }

    async fn event(&mut self) -> Event {
        timeout(DEADLINE, self.handle.events.recv()).await.unwrap().unwrap()
    }

    /// The first event that `pick` takes.
    async fn wait<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.event().await) {
                return found;
            }
        }
    }

    async fn connected(&mut self) {
        self.wait(|event| matches!(event, Event::PeerConnected(_)).then_some(())).await;
    }

    async fn finish(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.handle.task).await.unwrap().unwrap().unwrap();
    }
}

/// A listener at `bind`, and where it serves over UDP.
async fn listening_at(authority: &Authority, bind: SocketAddr) -> (Running, Underlay) {
    let mut listener = Running::start(authority.listener(bind));
    let Event::Listening { address } = listener.event().await else { panic!("not listening first") };
    assert_eq!(address.transport, Transport::Udp);
    (listener, address)
}

async fn listening(authority: &Authority) -> (Running, Underlay) {
    listening_at(authority, any()).await
}

fn packet(source: Ipv4Addr, destination: Ipv4Addr, mark: u8) -> Vec<u8> {
    let mut packet = vec![mark; 200];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 200]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet
}

#[track_caller]
fn receive(device: &UnixDatagram) -> Vec<u8> {
    let mut buf = vec![0; 2000];
    let length = device.recv(&mut buf).unwrap();
    buf.truncate(length);
    buf
}

async fn carries_packets_and_says_goodbye(bind: SocketAddr, transport: Transport) {
    let authority = Authority::new();
    let (mut listener, mut address) = listening_at(&authority, bind).await;
    let Event::Listening { address: tcp } = listener.event().await else { panic!("not listening over TCP") };
    if transport == Transport::Tcp {
        address = tcp;
    }
    if bind.ip().is_unspecified() {
        address.address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let mut dialer = Running::start(authority.dialer(address));
    assert!(matches!(dialer.event().await, Event::Connecting { .. }));
    let Event::Configured(configured) = dialer.event().await else { panic!("not configured") };
    assert_eq!((configured.address(), configured.gateway, configured.mtu), (Some(DIALER), Some(LISTENER), 1420));
    let at = |event| match event {
        Event::PeerConnected(peer) => Some(peer.remote),
        _ => None,
    };
    assert_eq!(dialer.wait(at).await, address);
    let dialer_at = listener.wait(at).await;
    assert_eq!((dialer_at.transport, dialer_at.canonical_address().ip()), (transport, address.address.ip()));

    for mark in 0..100 {
        let (there, back) = (packet(DIALER, LISTENER, mark), packet(LISTENER, DIALER, mark));
        dialer.device.send(&there).unwrap();
        assert_eq!(receive(&listener.device), there);
        listener.device.send(&back).unwrap();
        assert_eq!(receive(&dialer.device), back);
    }
    let snapshot = timeout(DEADLINE, listener.handle.snapshot.wait_for(|now| now.traffic.sent_packets == 100));
    let snapshot = snapshot.await.unwrap().unwrap().clone();
    assert_eq!((snapshot.peers.len(), snapshot.traffic.received_packets), (1, 100));
    assert_eq!(snapshot.address_of(snapshot.peers[0].peer.peer), Some(DIALER));

    dialer.finish().await;
    let ended = |event| match event {
        Event::PeerDisconnected { reason, .. } => Some(reason),
        _ => None,
    };
    // The end of a connection may be seen before the goodbye that came over it is decrypted.
    let reason = listener.wait(ended).await;
    let over_tcp = transport == Transport::Tcp && reason == EndReason::ConnectionClosed;
    assert!(over_tcp || reason == EndReason::PeerExit, "{reason}");
    listener.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carries_over_udp() {
    carries_packets_and_says_goodbye(any(), Transport::Udp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carries_over_tcp() {
    carries_packets_and_says_goodbye(any(), Transport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carries_over_ipv6() {
    for transport in [Transport::Udp, Transport::Tcp] {
        carries_packets_and_says_goodbye("[::1]:0".parse().unwrap(), transport).await;
    }
}

/// One socket for both families: an IPv4 dialer is known by its IPv4 address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_ipv4_on_the_unspecified_ipv6_address() {
    for transport in [Transport::Udp, Transport::Tcp] {
        carries_packets_and_says_goodbye("[::]:0".parse().unwrap(), transport).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn obeys_commands() {
    let authority = Authority::new();
    let (mut listener, address) = listening(&authority).await;
    let mut dialer = Running::start(authority.dialer(address));
    dialer.connected().await;
    listener.connected().await;
    dialer.handle.commands.send(Command::Reconnect).await.unwrap();
    dialer.connected().await;
    listener.connected().await;
    let peer = listener.handle.snapshot.borrow().peers[0].peer.peer;
    listener.handle.commands.send(Command::Disconnect { peer }).await.unwrap();
    let left = |event| match event {
        Event::PeerDisconnected { reason, .. } => Some(reason),
        _ => None,
    };
    assert_eq!(dialer.wait(left).await, EndReason::PeerExit);
    dialer.connected().await;
    dialer.finish().await;
    listener.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_fail_and_are_counted() {
    let authority = Authority::new();
    let (mut listener, address) = listening(&authority).await;
    let mut stranger = authority.dialer(address);
    let ca_pem = stranger.tls.ca_pem.clone();
    stranger.tls = TlsMaterial { ca_pem, ..Authority::new().issue("dialer", ExtendedKeyUsagePurpose::ClientAuth) };
    // It is of the right authority, but marked for the other role.
    let mut unmarked = authority.dialer(address);
    unmarked.tls = authority.issue("dialer", ExtendedKeyUsagePurpose::ServerAuth);
    for config in [stranger, unmarked] {
        let dialer = Running::start(config);
        let failed = |event| match event {
            Event::HandshakeFailed { reason, .. } => Some(reason),
            _ => None,
        };
        let reason = listener.wait(failed).await;
        assert!(matches!(reason, EndReason::Tls(_)), "{reason}");
        dialer.finish().await;
    }
    assert!(listener.handle.snapshot.borrow().handshakes_failed >= 2);
    let mut dialer = Running::start(authority.dialer(address));
    dialer.connected().await;
    dialer.finish().await;
    listener.finish().await;
}

#[tokio::test]
async fn refuses_what_cannot_work() {
    let authority = Authority::new();
    let start = |config| tunnel::start(config, Device::pair().unwrap().0, CancellationToken::new()).map(drop);
    let any = any();
    let nowhere = Underlay::udp("192.0.2.1:9".parse().unwrap());
    let mut config = authority.dialer(nowhere);
    config.tls.key_pem = authority.issue("other", ExtendedKeyUsagePurpose::ClientAuth).key_pem;
    assert!(matches!(start(config), Err(Error::Tls(_))));
    let mut config = authority.dialer(nowhere);
    config.tls.ca_pem = "nothing".to_owned();
    assert!(matches!(start(config), Err(Error::Tls(_))));
    let mut config = authority.dialer(nowhere);
    config.tun_mtu = 100;
    assert!(matches!(start(config), Err(Error::Setting(_))));
    let mut config = authority.dialer(nowhere);
    config.mode = Mode::Dial(Dial { remotes: Vec::new(), peer: None, beside: false });
    assert!(matches!(start(config), Err(Error::Setting(_))));
    let taken = std::net::UdpSocket::bind(any).unwrap();
    let config = authority.listener(taken.local_addr().unwrap());
    assert!(matches!(start(config), Err(Error::Bind { .. })));
    let taken = std::net::TcpListener::bind(any).unwrap();
    let config = authority.listener(taken.local_addr().unwrap());
    let error = start(config).unwrap_err().to_string();
    assert!(error.contains(&format!("{}/tcp", taken.local_addr().unwrap())), "{error}");
    let open = |name| Device::open_persistent(name, Offload::Auto);
    assert!(open("").is_err() && open("has/slash").is_err());
    let shown = format!("{:?}", authority.dialer(nowhere));
    assert!(!shown.contains("PRIVATE") && !shown.contains("0505"));
}

/// A name that does not resolve, and a listener that is not there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_until_somebody_answers() {
    let authority = Authority::new();
    // Nobody else gets the port meanwhile; a listener serves UDP and TCP.
    let place = std::iter::repeat_with(|| std::net::UdpSocket::bind(any()).unwrap())
        .find_map(|udp| Some((std::net::TcpListener::bind(udp.local_addr().unwrap()).ok()?, udp)))
        .unwrap();
    let address = place.1.local_addr().unwrap();
    let remotes = ["not-a-name.invalid:1194".parse().unwrap(), address.to_string().parse().unwrap()];
    let config = authority.dialer_of(remotes.into());
    let mut dialer = Running::start(config);
    dialer.wait(|event| matches!(event, Event::Unresolved { .. }).then_some(())).await;
    dialer.wait(|event| matches!(event, Event::Connecting { .. }).then_some(())).await;
    drop(place);
    let listener = Running::start(authority.listener(address));
    dialer.connected().await;
    dialer.finish().await;
    listener.finish().await;
}

/// Whether a listener is there can be asked without a session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_answers_who_looks_for_it_and_counts_nothing() {
    let authority = Authority::new();
    let (listener, address) = listening(&authority).await;
    let asked = authority.dialer(address);
    assert!(tunnel::listener_answers(&asked, address.address, DEADLINE).await.unwrap());
    let snapshot = listener.handle.snapshot.borrow().clone();
    assert_eq!((snapshot.peers.len(), snapshot.handshakes_failed), (0, 0));
    let mut stranger = authority.dialer(address);
    stranger.protection = Some(StaticKey::from_bytes([6; 256])).into();
    let little = Duration::from_millis(500);
    assert!(!tunnel::listener_answers(&stranger, address.address, little).await.unwrap(), "with another key");
    listener.finish().await;
    assert!(!tunnel::listener_answers(&asked, address.address, little).await.unwrap(), "nobody is there");
}
