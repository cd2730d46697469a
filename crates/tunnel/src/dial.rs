//! The dialing end: one round of attempts after the other, for ever.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use ovpn::client::ClientConfig;
use ovpn::endpoint::{EndReason, Endpoint, Retry};
use ovpn::login::{Advance, Login};
use ovpn::underlay::{Transport, Underlay};
use rand::RngExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Dial, MAX_MTU, Remote, TunnelConfig};
use crate::driver::{Driver, Error, Outcome, beating};
use crate::report::Event;
use crate::scout::Search;
use crate::sessions::Sessions;
use crate::sockets::{Opened, Sockets};

/// Wait before the attempt that follows a success or the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(16);
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the only remote may take to answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a remote may take to answer, or to accept a connection, when there are others to try. The reset has gone out
/// three times by then.
const FIRST_ANSWER_OF_SEVERAL: Duration = Duration::from_secs(4);

/// What the sessions are told.
pub(crate) fn settings(config: &TunnelConfig) -> Result<ClientConfig, Error> {
    let protection = config.protection.for_client();
    Ok(ClientConfig {
        protection: protection.ok_or(Error::Setting("a dialer needs its own tls-crypt-v2 key, not a listener's"))?,
        ciphers: config.data_ciphers.clone(),
        key_derivation: config.key_derivation,
        tun_mtu: config.tun_mtu,
        max_mtu: config.max_mtu.min(MAX_MTU),
        path_mtu: config.path_mtu,
        keepalive: config.keepalive,
        first_answer: FIRST_ANSWER,
        renewal: config.renewal,
        dynamic_tls_crypt: config.dynamic_tls_crypt,
        epochs: config.epochs,
        peer_ids: config.peer_ids,
        control_exit: config.control_exit,
        login: Login::new(config.login.clone()),
        data: config.data,
        max_packet_size: config.max_packet_size,
        pull: config.pull.clone(),
    })
}

/// Connects and reconnects until the tunnel is told to stop, or the server wants nothing of us; then it goes on after the
/// time of `after_refusal`, if there is one.
pub(crate) async fn run(
    mut driver: Driver,
    mut config: ClientConfig,
    dial: Dial,
    fit_route: bool,
    after_refusal: Option<Duration>,
) -> Result<(), Error> {
    if dial.remotes.len() > 1 {
        config.first_answer = FIRST_ANSWER_OF_SEVERAL;
    }
    let mut dialer = Dialer { config, fit_route, remotes: dial.remotes, beside: dial.beside };
    let mut wait = FIRST_WAIT;
    loop {
        match dialer.round(&mut driver).await? {
            Attempt::Stopped => return Ok(()),
            Attempt::Refused(reason) => {
                let Some(wait) = after_refusal else { return Err(Error::Refused(reason)) };
                if pause(&mut driver, wait).await {
                    return Ok(());
                }
            }
            // It worked a moment ago: begin at once.
            Attempt::Over => wait = FIRST_WAIT,
            Attempt::Failed | Attempt::Told { .. } => {
                if pause(&mut driver, wait).await {
                    return Ok(());
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

struct Dialer {
    config: ClientConfig,
    /// Whether the MTU is what the route carries.
    fit_route: bool,
    remotes: Vec<Remote>,
    /// Whether others are tried while a session goes on.
    beside: bool,
}

enum Attempt {
    Stopped,
    /// Never connected.
    Failed,
    /// Was connected, or was told to connect anew.
    Over,
    /// The server said when and where to try again.
    Told {
        wait: Duration,
        advance: Advance,
    },
    /// The server would refuse us again.
    Refused(EndReason),
}

impl Dialer {
    /// Tries all remotes in their order, each at all of its addresses, until one worked.
    async fn round(&mut self, driver: &mut Driver) -> Result<Attempt, Error> {
        for (place, remote) in self.remotes.clone().iter().enumerate() {
            let resolved = tokio::select! {
                () = driver.stop.cancelled() => return Ok(Attempt::Stopped),
                resolved = beating(&driver.pulse, resolve(remote)) => resolved,
            };
            let addresses = match resolved {
                Ok(addresses) => addresses,
                Err(reason) => {
                    driver.report(Event::Unresolved { remote: remote.to_string(), reason });
                    Vec::new()
                }
            };
            let mut addresses = addresses.into_iter();
            let mut next = addresses.next();
            while let Some(address) = next {
                let remote = Underlay { transport: remote.transport, address };
                match self.attempt(driver, place, remote).await? {
                    Attempt::Failed => next = addresses.next(),
                    Attempt::Told { wait, advance } => {
                        if !wait.is_zero() && pause(driver, wait).await {
                            return Ok(Attempt::Stopped);
                        }
                        match advance {
                            Advance::No => {}
                            Advance::Address => next = addresses.next(),
                            Advance::Remote => next = None,
                        }
                    }
                    ended => return Ok(ended),
                }
            }
        }
        Ok(if driver.stop.is_cancelled() { Attempt::Stopped } else { Attempt::Failed })
    }

    /// Begins a session with the server at `remote`, and goes on as long as there is one, be it over other remotes.
    async fn attempt(&mut self, driver: &mut Driver, place: usize, remote: Underlay) -> Result<Attempt, Error> {
        // A command that came too late for the session before is obeyed by what happens here.
        while let Ok(command) = driver.commands.try_recv() {
            driver.obey(&command);
        }
        if let Some(protection) = driver.protection.for_client() {
            self.config.protection = protection;
        }
        driver.report(Event::Connecting { remote });
        let opened = tokio::select! {
            () = driver.stop.cancelled() => return Ok(Attempt::Stopped),
            opened = beating(&driver.pulse, open(remote, self.config.first_answer)) => opened,
        };
        let opened = opened
            .and_then(|opened| Sockets::dialing(remote, opened, driver.offload).map_err(|error| error.to_string()));
        let mut sockets = match opened {
            Ok(sockets) => sockets,
            Err(why) => {
                driver.fail(remote, why);
                return Ok(Attempt::Failed);
            }
        };
        let (search, searches) = watch::channel(Search::default());
        let config = watch::Sender::new(self.config.clone());
        let (found, ways) = mpsc::channel(1);
        driver.ways = self.beside.then_some(ways);
        let _scout = self.beside.then(|| {
            let scout = crate::scout::run(config.subscribe(), self.remotes.clone(), searches, found);
            AbortOnDropHandle::new(tokio::spawn(scout))
        });
        let mut sessions = Sessions::new(config, self.fit_route, place, remote, Instant::now(), search);
        let outcome = driver.run(&mut sessions, &mut sockets).await;
        // What was found and not taken up is closed.
        driver.ways = None;
        self.config.login = sessions.login();
        if let (Ok(Outcome::Ended), Some(reason)) = (&outcome, sessions.end_reason()) {
            match reason.retry() {
                Retry::Usual => {}
                Retry::Told { wait, advance } => return Ok(Attempt::Told { wait, advance }),
                Retry::Never => return Ok(Attempt::Refused(reason.clone())),
            }
        }
        match outcome {
            Ok(Outcome::Stopped) => Ok(Attempt::Stopped),
            Ok(Outcome::Reconnect) => Ok(Attempt::Over),
            Ok(Outcome::Ended) if sessions.counters().handshakes_completed > 0 => Ok(Attempt::Over),
            Ok(Outcome::Ended) => Ok(Attempt::Failed),
            // The next attempt has new sockets.
            Err(Error::Receive(error)) => {
                tracing::debug!(%error, "the sockets failed");
                Ok(Attempt::Failed)
            }
            Err(error) => Err(error),
        }
    }
}

/// A socket that can send to `remote`, or why there is none.
pub(crate) async fn open(remote: Underlay, deadline: Duration) -> Result<Opened, String> {
    let opened = async {
        match remote.transport {
            Transport::Udp => {
                let socket = bind_towards(remote.address)?;
                socket.writable().await?;
                Ok(Opened::Udp(socket))
            }
            Transport::Tcp => Ok(Opened::Tcp(TcpStream::connect(remote.address).await?)),
        }
    };
    match tokio::time::timeout(deadline, opened).await {
        Err(_) => Err("nobody answered".to_owned()),
        Ok(opened) => opened.map_err(|error: io::Error| error.to_string()),
    }
}

/// A socket for datagrams to `remote`, if there is a way there.
pub(crate) fn bind_towards(remote: SocketAddr) -> io::Result<UdpSocket> {
    let local = match remote {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    // To connect sends nothing; it tells at once that a host without IPv6, say, has no route.
    std::net::UdpSocket::bind(local)?.connect(remote)?;
    crate::socket::bind(local)
}

pub(crate) async fn resolve(remote: &Remote) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host((remote.host.as_str(), remote.port));
    match tokio::time::timeout(RESOLVE_DEADLINE, lookup).await {
        Err(_) => Err("name resolution took too long".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(addresses)) => Ok(addresses.collect()),
    }
}

/// Waits about `time`; true when the tunnel is to stop. Any command ends the wait: the next attempt may do better.
async fn pause(driver: &mut Driver, time: Duration) -> bool {
    // Many dialers that lost the same server do not come back as one.
    let time = time.mul_f64(rand::rng().random_range(0.8..1.2));
    tokio::select! {
        () = driver.stop.cancelled() => true,
        Some(command) = driver.commands.recv() => {
            driver.obey(&command);
            false
        }
        () = beating(&driver.pulse, tokio::time::sleep(time)) => false,
    }
}
