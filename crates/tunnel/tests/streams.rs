//! What strangers, slow peers and broken networks do to connections. Needs no rights.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel::{
    Device, Dial, DropReason, EndReason, Event, Handle, Ipv4Prefix, Keepalive, Listen, Mode, NameCheck, Remote,
    StaticKey, Stranger, TlsMaterial, Transport, TunnelConfig,
};

const LISTENER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const DEADLINE: Duration = Duration::from_secs(20);
const MAX_PEERS: usize = 4;
/// What a listener allows beyond its peers.
const UNDECIDED: usize = 64;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn config(&self, mode: Mode, name: &str, usage: ExtendedKeyUsagePurpose) -> TunnelConfig {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert_pem = params.signed_by(&key, &self.0).unwrap().pem();
        let tls = TlsMaterial { ca_pem: self.0.pem(), cert_pem, key_pem: key.serialize_pem().into() };
        TunnelConfig::new(mode, tls, Some(StaticKey::from_bytes([5; 256])))
    }

    /// A listener over TCP, and where.
    async fn listen(&self) -> (Running, SocketAddr) {
        self.listen_beside(None).await
    }

    /// The same, with somebody who takes connections that speak TLS.
    async fn listen_beside(&self, strangers: Option<mpsc::Sender<Stranger>>) -> (Running, SocketAddr) {
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mode = Mode::Listen(Listen {
            tcp: Some(bind),
            pool: Some(Ipv4Addr::new(10, 8, 0, 10)..=Ipv4Addr::new(10, 8, 0, 20)),
            max_peers: MAX_PEERS,
            strangers,
            ..Listen::new(bind, Some(Ipv4Prefix { address: LISTENER, prefix_len: 24 }))
        });
        let mut listener = Running::start(self.config(mode, "listener", ExtendedKeyUsagePurpose::ServerAuth));
        let tcp = |event| match event {
            Event::Listening { address } if address.transport == Transport::Tcp => Some(address.address),
            _ => None,
        };
        let address = listener.wait(tcp).await;
        (listener, address)
    }

    /// A dialer that is connected at first, and its address inside.
    async fn dial(&self, name: &str, remotes: &[String]) -> (Running, Ipv4Addr) {
        let remotes: Vec<Remote> = remotes.iter().map(|remote| remote.parse().unwrap()).collect();
        let mode = Mode::Dial(Dial { remotes, peer: Some(NameCheck::Name("listener".to_owned())), beside: true });
        let mut config = self.config(mode, name, ExtendedKeyUsagePurpose::ClientAuth);
        config.keepalive = Keepalive { ping: Duration::from_secs(1), ping_restart: Duration::from_secs(10) };
        let mut dialer = Running::start(config);
        let configured = |event| match event {
            Event::Configured(configured) => configured.address(),
            _ => None,
        };
        let address = dialer.wait(configured).await;
        (dialer, address)
    }
}

struct Running {
    handle: Handle,
    device: UnixDatagram,
    stop: CancellationToken,
}

impl Running {
    fn start(config: TunnelConfig) -> Self {
        let (device, far) = Device::pair().unwrap();
        far.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        far.set_nonblocking(false).unwrap();
        let stop = CancellationToken::new();
        Self { handle: tunnel::start(config, device, stop.clone()).unwrap(), device: far, stop }
    }

    async fn wait<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(timeout(DEADLINE, self.handle.events.recv()).await.unwrap().unwrap()) {
                return found;
            }
        }
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.handle.snapshot.borrow().drops.of(reason)
    }

    async fn finish(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.handle.task).await.unwrap().unwrap().unwrap();
    }
}

fn packet(source: Ipv4Addr, destination: Ipv4Addr, mark: u8) -> Vec<u8> {
    let mut packet = vec![mark; 1400];
    packet[..4].copy_from_slice(&[0x45, 0, 5, 120]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet
}

/// A packet each way. Others that are still on their way may come first.
#[track_caller]
fn assert_carries(listener: &Running, dialer: &Running, address: Ipv4Addr, mark: u8) {
    for (from, to, sent) in [
        (&dialer.device, &listener.device, packet(address, LISTENER, mark)),
        (&listener.device, &dialer.device, packet(LISTENER, address, mark)),
    ] {
        from.send(&sent).unwrap();
        let mut buf = [0; 2000];
        loop {
            let length = to.recv(&mut buf).unwrap();
            if buf[..length] == sent {
                break;
            }
        }
    }
}

/// Waits until the other end closes, and tells after how long.
#[track_caller]
fn closed_after(mut stream: TcpStream) -> Duration {
    let since = Instant::now();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    match stream.read(&mut [0; 100]) {
        Ok(0) => {}
        Ok(length) => panic!("{length} bytes for a stranger"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_closed_and_others_go_on() {
    let authority = Authority::new();
    let (mut listener, address) = authority.listen().await;
    let (dialer, inside) = authority.dial("dialer", &[format!("{address}/tcp")]).await;
    let connect = || TcpStream::connect(address).unwrap();
    let say = |bytes: &[u8]| {
        let mut stream = connect();
        stream.write_all(bytes).unwrap();
        stream
    };
    // Lengths that cannot be, TLS, a packet that is none, one that is too short, one under another key.
    let foreign_key = [&[0, 60, 0x38][..], &[7; 59]].concat();
    let nonsense: [&[u8]; 7] =
        [&[0, 0], &[0xff, 0xff], &[8, 1], &[0x16, 3, 1, 2, 0, 1], &[0, 3, 1, 2, 3], &[0, 1, 0x38], &foreign_key];
    for bytes in nonsense {
        assert!(closed_after(say(bytes)) < Duration::from_secs(2), "{bytes:?}");
    }
    // Those who leave by themselves, at any point.
    for bytes in [&[][..], &[0], &[0, 54], &[0, 54, 0x38, 1, 2, 3]] {
        drop(say(bytes));
        let stream = say(bytes);
        stream.shutdown(Shutdown::Write).unwrap();
        closed_after(stream);
    }
    assert_carries(&listener, &dialer, inside, 1);
    // Those who say nothing, or begin and never end, have a few seconds.
    let waiting = [connect(), say(&[0]), say(&[0, 54, 0x38])];
    for stream in waiting {
        let waited = closed_after(stream);
        assert!(waited < Duration::from_secs(8), "{waited:?}");
    }
    assert_carries(&listener, &dialer, inside, 2);
    assert!(listener.drops(DropReason::Wrap) > 0 && listener.drops(DropReason::Malformed) > 0);
    // The one who has a session stays, and its end is known at once.
    let ended = |event| match event {
        Event::PeerDisconnected { reason, .. } => Some(reason),
        _ => None,
    };
    dialer.finish().await;
    let reason = listener.wait(ended).await;
    assert!(matches!(reason, EndReason::PeerExit | EndReason::ConnectionClosed), "{reason}");
    listener.finish().await;
}

/// More idle connections than are allowed keep others out for seconds, and not for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_bounded_and_replaced() {
    let authority = Authority::new();
    let (listener, address) = authority.listen().await;
    let (early, inside) = authority.dial("early", &[format!("{address}/tcp")]).await;
    let idle: Vec<TcpStream> = (0..MAX_PEERS + UNDECIDED + 20).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_carries(&listener, &early, inside, 1);
    let (late, late_inside) = authority.dial("late", &[format!("{address}/tcp")]).await;
    assert_carries(&listener, &late, late_inside, 2);
    assert_carries(&listener, &early, inside, 3);
    drop(idle);
    late.finish().await;
    early.finish().await;
    listener.finish().await;
}

/// Relays one connection after the other, at most so many bytes towards the client in all.
fn relay(
    to: SocketAddr,
    budget: Arc<AtomicUsize>,
    when_spent: impl Fn(&TcpStream) + Send + Sync + Copy + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let Ok(far) = TcpStream::connect(to) else { return };
            let near = near.unwrap();
            let (near_read, far_write) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut &near_read, &mut &far_write);
                let _ = far_write.shutdown(Shutdown::Both);
            });
            let budget = Arc::clone(&budget);
            std::thread::spawn(move || {
                let mut buf = [0; 4096];
                loop {
                    let left = budget.load(Ordering::SeqCst).min(buf.len());
                    if left == 0 {
                        return when_spent(&near);
                    }
                    match (&far).read(&mut buf[..left]) {
                        Ok(length @ 1..) if (&near).write_all(&buf[..length]).is_ok() => {
                            let spend = |left: usize| Some(left.saturating_sub(length));
                            let _ = budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend);
                        }
                        _ => break,
                    }
                }
                let _ = near.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// A handshake that breaks off after any number of bytes is tried again at once or after a wait, and succeeds when the
/// network lets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_the_middle_leaves_nothing_behind() {
    let authority = Authority::new();
    let (listener, address) = authority.listen().await;
    let (other, inside) = authority.dial("other", &[format!("{address}/tcp")]).await;
    for cut in [1, 2, 30, 80, 300, 900] {
        let budget = Arc::new(AtomicUsize::new(cut));
        let relay = relay(address, Arc::clone(&budget), |near| {
            let _ = near.shutdown(Shutdown::Both);
        });
        let mode =
            Mode::Dial(Dial { remotes: vec![format!("{relay}/tcp").parse().unwrap()], peer: None, beside: false });
        let mut dialer = Running::start(authority.config(mode, "cut", ExtendedKeyUsagePurpose::ClientAuth));
        let failed = |event| match event {
            Event::HandshakeFailed { reason, .. } => Some(reason),
            _ => None,
        };
        assert_eq!(dialer.wait(failed).await, EndReason::ConnectionClosed, "cut after {cut}");
        budget.store(usize::MAX / 2, Ordering::SeqCst);
        dialer.wait(|event| matches!(event, Event::PeerConnected(_)).then_some(())).await;
        assert_carries(&listener, &other, inside, 1);
        dialer.finish().await;
    }
    other.finish().await;
    listener.finish().await;
}

/// A peer that stops reading costs a bounded queue, its packets are dropped and counted, and its neighbour has no
/// disadvantage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_peer_delays_nobody() {
    let authority = Authority::new();
    let (mut listener, address) = authority.listen().await;
    let (quick, quick_inside) = authority.dial("quick", &[format!("{address}/tcp")]).await;
    let budget = Arc::new(AtomicUsize::new(usize::MAX / 2));
    let slow_relay = relay(address, Arc::clone(&budget), |_| std::thread::sleep(DEADLINE));
    let (slow, slow_inside) = authority.dial("slow", &[format!("{slow_relay}/tcp")]).await;
    assert_carries(&listener, &slow, slow_inside, 1);
    budget.store(0, Ordering::SeqCst);
    // Far more than queues and socket buffers on the way hold.
    for _ in 0..20 {
        for _ in 0..1000 {
            listener.device.send(&packet(LISTENER, slow_inside, 2)).unwrap();
        }
        let began = Instant::now();
        assert_carries(&listener, &quick, quick_inside, 3);
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    let blocked = listener.handle.snapshot.wait_for(|now| now.drops.of(DropReason::Blocked) > 10_000);
    timeout(DEADLINE, blocked).await.unwrap().unwrap();
    quick.finish().await;
    slow.finish().await;
    listener.finish().await;
}

/// A dialer whose first remote is silent is connected through the second within seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_remote_is_left_for_the_next() {
    let authority = Authority::new();
    let (listener, address) = authority.listen().await;
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let refused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let began = Instant::now();
    let remotes = [silent.local_addr().unwrap().to_string(), format!("{refused}/tcp"), format!("{address}/tcp")];
    let (dialer, inside) = authority.dial("dialer", &remotes).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_carries(&listener, &dialer, inside, 1);
    dialer.finish().await;
    listener.finish().await;
}

#[tokio::test]
async fn who_speaks_tls_is_given_to_who_takes_such() {
    let authority = Authority::new();
    let (sender, mut strangers) = mpsc::channel(1);
    let (listener, address) = authority.listen_beside(Some(sender)).await;
    let (friend, inside) = authority.dial("friend", &[format!("{address}/tcp")]).await;

    // All at once, and byte by byte: what was read goes along, and nothing is lost.
    for cut in [5, 1] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        for part in b"\x16\x03\x01\x02\x00hello".chunks(cut) {
            stream.write_all(part).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stranger = timeout(DEADLINE, strangers.recv()).await.unwrap().unwrap();
        assert_eq!(stranger.peer, stream.local_addr().unwrap());
        assert!(stranger.read.starts_with(b"\x16\x03"), "{:?}", stranger.read);
        let mut socket = tokio::net::TcpStream::from_std(stranger.socket).unwrap();
        let mut read = stranger.read;
        while read.len() < 10 {
            timeout(DEADLINE, tokio::io::AsyncReadExt::read_buf(&mut socket, &mut read)).await.unwrap().unwrap();
        }
        assert_eq!(read, b"\x16\x03\x01\x02\x00hello");
    }

    // Nobody waits for who is behind: one waits in the channel, the next is closed. So is what is neither.
    let closed = |bytes: &'static [u8]| {
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(bytes).unwrap();
            !matches!(stream.read(&mut [0; 1]), Ok(1..))
        })
    };
    let mut waiting = TcpStream::connect(address).unwrap();
    waiting.write_all(b"\x16\x03\x01").unwrap();
    let taken = timeout(DEADLINE, async {
        while strangers.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    taken.await.unwrap();
    assert!(closed(b"\x16\x03\x01").await.unwrap());
    assert!(closed(b"GET / HTTP/1.1\r\n\r\n").await.unwrap());
    // Undecided: one byte and no more.
    assert!(closed(b"\x16").await.unwrap());

    // Within a session the same bytes are what they always were.
    friend.device.send(&packet(inside, LISTENER, 0x16)).unwrap();
    assert_eq!(listener.device.recv(&mut [0; 2000]).unwrap(), 1400);
    friend.finish().await;
    listener.finish().await;
}
