//! Looks from this host at the ports that the opposite one keeps open to the world, for that host's doctor and for our own.
//!
//! Where is looked is this host's own knowledge: the tunnel's listener where our configuration says that it is, and the public
//! names that the edge publishes, at public addresses only. Nobody who asks can name anything else.

mod quic;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures_util::future::{join, join_all};
use model::{Port, PortReach, PortService, Protocol, PublicName, Role, RoleUri, Seen};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::warn;
use tunnel::TunnelConfig;

use crate::config::{Mode, TunnelSettings};
use crate::identity::InForce;
use crate::link::tunnel_config;
use hostcheck::public::{is_public, own_networks};

/// What was seen so long ago is told again: whoever asks, and how often, nobody is knocked at more often.
const FRESH: Duration = Duration::from_secs(5);
/// Questions that wait while one look is going on.
const WAITING: usize = 8;
/// For a name server to answer.
const LOOKUP: Duration = Duration::from_millis(1500);
/// For a port to answer. With the lookup it is less than a person waits for the doctor.
const ANSWER: Duration = Duration::from_secs(2);
/// Places where the listener may be; a configuration with more has them looked at up to here.
const REMOTES: usize = 4;
/// Addresses of each.
const REMOTE_ADDRESSES: usize = 2;
/// Names of the ingress that are looked up. They lead to the same host.
const NAMES: usize = 8;
/// Addresses that they lead to.
const ADDRESSES: usize = 4;
/// Where visitors come.
const INGRESS: [(PortService, Port); 3] = [
    (PortService::Http, Port { number: 80, over: Protocol::Tcp }),
    (PortService::Https, Port { number: 443, over: Protocol::Tcp }),
    (PortService::Https, Port { number: 443, over: Protocol::Udp }),
];

/// Asks the task that looks.
#[derive(Debug, Clone)]
pub struct Lookout(mpsc::Sender<oneshot::Sender<Vec<PortReach>>>);

impl Lookout {
    /// Starts a task that looks when it is asked to, and ends with the last of its askers. `role` is this host's, and `published`
    /// what its edge publishes. Needs a tokio runtime.
    #[must_use]
    pub fn start(
        settings: &TunnelSettings,
        role: Role,
        identity: watch::Receiver<InForce>,
        published: Option<watch::Receiver<Vec<PublicName>>>,
    ) -> Self {
        let (asked, questions) = mpsc::channel(WAITING);
        let opposite = if role == Role::Edge { Role::Home } else { Role::Edge };
        let looks = Looks {
            settings: settings.clone(),
            opposite: RoleUri { role: opposite, name: settings.peer.clone() },
            identity,
            published,
        };
        tokio::spawn(looks.answer(questions));
        Self(asked)
    }

    /// What is seen now, or was a few seconds ago. None when too many ask.
    pub async fn look(&self) -> Option<Vec<PortReach>> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(answer).ok()?;
        answered.await.ok()
    }
}

/// What is known of where to look.
struct Looks {
    settings: TunnelSettings,
    opposite: RoleUri,
    identity: watch::Receiver<InForce>,
    published: Option<watch::Receiver<Vec<PublicName>>>,
}

impl Looks {
    /// One look after the other, each for all who ask meanwhile.
    async fn answer(self, mut questions: mpsc::Receiver<oneshot::Sender<Vec<PortReach>>>) {
        let mut last: Option<(Instant, Vec<PortReach>)> = None;
        while let Some(question) = questions.recv().await {
            let seen = match last.take().filter(|(at, _)| at.elapsed() < FRESH) {
                Some(last) => last,
                None => {
                    let (tunnel, ingress) = join(self.listener(), self.ingress()).await;
                    (Instant::now(), tunnel.into_iter().chain(ingress).collect())
                }
            };
            // Who asked may have left.
            question.send(seen.1.clone()).ok();
            last = Some(seen);
        }
    }

    /// The tunnel's listener, where we dial it: by both protocols, whichever is in use.
    async fn listener(&self) -> Vec<PortReach> {
        let Mode::Dial(remotes) = &self.settings.mode else { return Vec::new() };
        let in_force = self.identity.borrow().clone();
        let config = tunnel_config(&self.settings, &in_force, Ipv4Addr::UNSPECIFIED, &self.opposite);
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                warn!(error = format!("{error:#}"), "the tunnel's listener cannot be looked at");
                return Vec::new();
            }
        };
        let mut places: Vec<(&str, u16)> = Vec::new();
        for remote in remotes {
            let place = (remote.host.as_str(), remote.port);
            if !places.contains(&place) && places.len() < REMOTES {
                places.push(place);
            }
        }
        let looks = places.into_iter().map(|(host, number)| {
            let config = &config;
            async move {
                let addresses: Vec<_> = resolve(host, number).await.into_iter().take(REMOTE_ADDRESSES).collect();
                let both = [Protocol::Udp, Protocol::Tcp].map(|over| {
                    let port = Port { number, over };
                    look(PortService::Tunnel, port, addresses_or_none(&addresses), Some(config))
                });
                join_all(both).await.into_iter().flatten().collect::<Vec<_>>()
            }
        });
        join_all(looks).await.into_iter().flatten().collect()
    }

    /// The ingress, where the public names lead.
    async fn ingress(&self) -> Vec<PortReach> {
        let Some(published) = &self.published else { return Vec::new() };
        let mut names: Vec<_> = published.borrow().iter().map(|name| name.hostname.clone()).collect();
        names.sort();
        names.dedup();
        names.truncate(NAMES);
        if names.is_empty() {
            return Vec::new();
        }
        let own = own_networks();
        let found = join_all(names.iter().map(|name| resolve(name.as_str(), 0))).await.into_iter().flatten();
        let found: BTreeSet<IpAddr> = found.filter(|address| is_public(*address, &own)).collect();
        let found: Vec<IpAddr> = found.into_iter().take(ADDRESSES).collect();
        let looks = INGRESS.map(|(service, port)| look(service, port, addresses_or_none(&found), None));
        join_all(looks).await.into_iter().flatten().collect()
    }
}

/// Something to be told where there is nothing to be looked at, too.
fn addresses_or_none(addresses: &[IpAddr]) -> Vec<Option<IpAddr>> {
    if addresses.is_empty() { vec![None] } else { addresses.iter().copied().map(Some).collect() }
}

async fn resolve(host: &str, port: u16) -> Vec<IpAddr> {
    match timeout(LOOKUP, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// Knocks at a port at each of the addresses; `listener` are the keys for the tunnel's.
async fn look(
    service: PortService,
    port: Port,
    addresses: Vec<Option<IpAddr>>,
    listener: Option<&TunnelConfig>,
) -> Vec<PortReach> {
    let looks = addresses.into_iter().map(|address| async move {
        let seen = match address {
            Some(address) => knock(port.over, SocketAddr::new(address, port.number), listener).await,
            None => Seen::NoAddress,
        };
        PortReach { service, port, address, seen }
    });
    join_all(looks).await
}

async fn knock(over: Protocol, address: SocketAddr, listener: Option<&TunnelConfig>) -> Seen {
    if !has_way(address) {
        return Seen::NoWay;
    }
    let answered = match (over, listener) {
        (Protocol::Tcp, _) => match timeout(ANSWER, TcpStream::connect(address)).await {
            Ok(connected) => connected.map(drop),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
        (Protocol::Udp, None) => quic::answers(address, ANSWER).await,
        (Protocol::Udp, Some(config)) => match tunnel::listener_answers(config, address, ANSWER).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(io::Error::other(error)),
        },
    };
    match answered {
        Ok(()) => Seen::Answers,
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Seen::Refused,
            // A firewall that forbids it says so.
            io::ErrorKind::HostUnreachable | io::ErrorKind::PermissionDenied => Seen::Refused,
            io::ErrorKind::NetworkUnreachable => Seen::NoWay,
            _ => Seen::Silent,
        },
    }
}

/// Whether this host has a route there: one without IPv6 has none to half of a name's addresses, which is no fault of theirs.
fn has_way(address: SocketAddr) -> bool {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    // To connect a socket for datagrams sends nothing.
    UdpSocket::bind(local).and_then(|socket| socket.connect(address)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use pki::{Ca, HostIdentity, Subject, Validity, generate_static_key};
    use tokio::net::TcpListener;

    use super::*;
    use crate::devices::DevicePolicy;

    fn in_force() -> watch::Receiver<InForce> {
        let ca = Ca::generate("ours", Validity::from_now(Validity::CA)).unwrap();
        let name = "attic".parse().unwrap();
        let subject = Subject { role: Role::Home, name, validity: Validity::from_now(Validity::LEAF) };
        let identity = ca.issue(&subject).unwrap();
        let identity = HostIdentity { ca_pem: ca.cert_pem().to_owned(), identity, tls_crypt: generate_static_key() };
        watch::channel(InForce { identity, crl: None }).1
    }

    fn dials(remotes: &[String]) -> TunnelSettings {
        TunnelSettings {
            mode: Mode::Dial(remotes.iter().map(|remote| remote.parse().unwrap()).collect()),
            peer: "vps".parse().unwrap(),
            subnet: "10.86.0.0/24".parse().unwrap(),
            device: "cah0".to_owned(),
            data_ciphers: tunnel::Cipher::ALL.to_vec(),
            tls_version_min: tunnel::TlsVersion::V1_2,
            crl: None,
            offload: tunnel::Offload::Auto,
            mtu: None,
            devices: DevicePolicy::deny(Role::Home),
        }
    }

    fn seen(ports: &[PortReach]) -> Vec<(String, Option<String>, Seen)> {
        ports.iter().map(|one| (one.port.to_string(), one.address.map(|at| at.to_string()), one.seen)).collect()
    }

    #[tokio::test]
    async fn who_asks_often_is_told_again_what_was_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        let knocks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&knocks);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        // The same place twice: it is looked at by both protocols anyway.
        let settings = dials(&[place.to_string(), format!("{place}/tcp")]);
        let lookout = Lookout::start(&settings, Role::Home, in_force(), None);
        let answers = join_all((0..2 * WAITING).map(|_| lookout.look())).await;
        let told: Vec<_> = answers.into_iter().flatten().collect();
        assert!((WAITING..2 * WAITING).contains(&told.len()), "{} are told; the rest are too many", told.len());
        let port = place.port();
        for ports in told.into_iter().chain(lookout.look().await) {
            // Whoever listens there has no key of the tunnel.
            let expected = [(format!("{port}/udp"), Seen::Silent), (format!("{port}/tcp"), Seen::Answers)];
            assert_eq!(seen(&ports), expected.map(|(port, seen)| (port, Some("127.0.0.1".to_owned()), seen)));
        }
        assert_eq!(knocks.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_edge_leads_home_to_no_place_of_its_own_choice() {
        // By name and by address it is this host's own network.
        let name = |name: &str| PublicName {
            hostname: name.parse().unwrap(),
            path: "/".to_owned(),
            status: None,
            guarded: false,
        };
        let (_published, published) =
            watch::channel(vec![name("localhost.localdomain"), name("ip6-localhost.invalid")]);
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let settings = dials(&[format!("{closed}/tcp")]);
        let lookout = Lookout::start(&settings, Role::Home, in_force(), Some(published));
        let ports = seen(&lookout.look().await.unwrap());
        let at = |port: &str| ports.iter().find(|(of, _, _)| of == port).unwrap().clone();
        assert_eq!(at(&format!("{}/tcp", closed.port())).2, Seen::Refused);
        for port in ["80/tcp", "443/tcp", "443/udp"] {
            assert_eq!(at(port), (port.to_owned(), None, Seen::NoAddress));
        }
        // A listener dials nobody, so it looks nowhere.
        let listens = TunnelSettings { mode: Mode::Listen(closed), ..settings };
        assert_eq!(Lookout::start(&listens, Role::Edge, in_force(), None).look().await, Some(vec![]));
    }
}
