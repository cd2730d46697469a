//! The dialing end: one session after the other, for ever.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use ovpn::client::{Client, ClientConfig};
use ovpn::endpoint::Endpoint;
use ovpn::underlay::{Transport, Underlay};
use rand::RngExt;
use tokio::net::TcpStream;

use crate::config::{Dial, MAX_MTU, Remote, TunnelConfig};
use crate::driver::{Driver, Error, Outcome, Role};
use crate::report::{Command, Event};
use crate::sockets::Sockets;

/// Wait before the attempt that follows a success or the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(16);
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the only remote may take to answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a remote may take to answer, or to accept a connection, when there are others to try. The reset has gone out
/// three times by then.
const FIRST_ANSWER_OF_SEVERAL: Duration = Duration::from_secs(4);

/// Connects and reconnects until the tunnel is told to stop.
pub(crate) async fn run(mut driver: Driver, config: TunnelConfig, dial: Dial) -> Result<(), Error> {
    let client = ClientConfig {
        tls_crypt: config.tls_crypt,
        ciphers: config.data_ciphers,
        key_derivation: config.key_derivation,
        tun_mtu: config.tun_mtu,
        max_mtu: MAX_MTU,
        keepalive: config.keepalive,
        first_answer: if dial.remotes.len() > 1 { FIRST_ANSWER_OF_SEVERAL } else { FIRST_ANSWER },
    };
    let mut wait = FIRST_WAIT;
    loop {
        match round(&mut driver, &client, &dial.remotes).await? {
            Attempt::Stopped => return Ok(()),
            // It worked a moment ago: begin at once.
            Attempt::Over => wait = FIRST_WAIT,
            Attempt::Failed => {
                if pause(&mut driver, wait).await {
                    return Ok(());
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Tries all remotes in their order, each at all of its addresses, until one worked.
async fn round(driver: &mut Driver, config: &ClientConfig, remotes: &[Remote]) -> Result<Attempt, Error> {
    for remote in remotes {
        let resolved = tokio::select! {
            () = driver.stop.cancelled() => return Ok(Attempt::Stopped),
            resolved = resolve(remote) => resolved,
        };
        let addresses = match resolved {
            Ok(addresses) => addresses,
            Err(reason) => {
                driver.report(Event::Unresolved { remote: remote.to_string(), reason });
                Vec::new()
            }
        };
        for address in addresses {
            match attempt(driver, config, Underlay { transport: remote.transport, address }).await? {
                Attempt::Failed => {}
                decided => return Ok(decided),
            }
        }
    }
    Ok(if driver.stop.is_cancelled() { Attempt::Stopped } else { Attempt::Failed })
}

enum Attempt {
    Stopped,
    /// Never connected.
    Failed,
    /// Was connected, or was told to connect anew.
    Over,
}

async fn attempt(driver: &mut Driver, config: &ClientConfig, remote: Underlay) -> Result<Attempt, Error> {
    driver.report(Event::Connecting { remote });
    let mut sockets = match remote.transport {
        Transport::Udp => open(remote.address).await?,
        Transport::Tcp => {
            let stop = driver.stop.clone();
            let connected = tokio::select! {
                () = stop.cancelled() => return Ok(Attempt::Stopped),
                connected = connect(remote.address, config.first_answer) => connected,
            };
            match connected {
                Ok(sockets) => sockets,
                Err(why) => {
                    driver.fail(remote, why);
                    return Ok(Attempt::Failed);
                }
            }
        }
    };
    let mut client = Client::new(config.clone(), remote, Instant::now(), crate::unix_time(), crate::rng());
    match driver.run(&mut client, &mut sockets).await {
        Ok(Outcome::Stopped) => Ok(Attempt::Stopped),
        Ok(Outcome::Reconnect) => Ok(Attempt::Over),
        Ok(Outcome::Ended) if client.counters().handshakes_completed > 0 => Ok(Attempt::Over),
        Ok(Outcome::Ended) => Ok(Attempt::Failed),
        // The next attempt has new sockets.
        Err(Error::Receive(error)) => {
            tracing::debug!(%error, "the sockets failed");
            Ok(Attempt::Failed)
        }
        Err(error) => Err(error),
    }
}

/// A socket that can send datagrams to `remote`.
async fn open(remote: SocketAddr) -> Result<Sockets, Error> {
    let local = match remote {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = crate::socket::bind(local).map_err(|source| Error::Bind { address: Underlay::udp(local), source })?;
    socket.writable().await.map_err(Error::Receive)?;
    Ok(Sockets::dialing(socket))
}

/// A connection with `remote`, or why there is none.
async fn connect(remote: SocketAddr, deadline: Duration) -> Result<Sockets, String> {
    match tokio::time::timeout(deadline, TcpStream::connect(remote)).await {
        Err(_) => Err("nobody answered".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(stream)) => Sockets::connected(stream).map_err(|error| error.to_string()),
    }
}

async fn resolve(remote: &Remote) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host((remote.host.as_str(), remote.port));
    match tokio::time::timeout(RESOLVE_DEADLINE, lookup).await {
        Err(_) => Err("name resolution took too long".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(addresses)) => Ok(addresses.collect()),
    }
}

/// Waits about `time`; true when the tunnel is to stop. Any command ends the wait: none has another meaning now.
async fn pause(driver: &mut Driver, time: Duration) -> bool {
    // Many dialers that lost the same server do not come back as one.
    let time = time.mul_f64(rand::rng().random_range(0.8..1.2));
    tokio::select! {
        () = driver.stop.cancelled() => true,
        Some(_) = driver.commands.recv() => false,
        () = tokio::time::sleep(time) => false,
    }
}

impl Role for Client {
    fn obey(&mut self, _now: Instant, command: Command) -> bool {
        match command {
            Command::Reconnect => true,
            // A dialer's only peer is left by stopping the tunnel.
            Command::Disconnect { .. } => false,
        }
    }

    fn has_ended(&self) -> bool {
        Self::has_ended(self)
    }
}
