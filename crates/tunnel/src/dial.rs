//! The dialing end: one session after the other, for ever.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ovpn::client::{Client, ClientConfig};
use ovpn::endpoint::Endpoint;
use rand::RngExt;

use crate::config::{Dial, MAX_MTU, TunnelConfig};
use crate::driver::{Driver, Error, Outcome, Role};
use crate::report::{Command, Event};

/// Wait before the attempt that follows a success or the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(16);
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// What the sessions are told.
pub(crate) fn settings(config: &TunnelConfig) -> Result<ClientConfig, Error> {
    let protection = config.protection.for_client();
    Ok(ClientConfig {
        protection: protection.ok_or(Error::Setting("a dialer needs its own tls-crypt-v2 key, not a listener's"))?,
        ciphers: config.data_ciphers.clone(),
        key_derivation: config.key_derivation,
        tun_mtu: config.tun_mtu,
        max_mtu: MAX_MTU,
        keepalive: config.keepalive,
        renewal: config.renewal,
        dynamic_tls_crypt: config.dynamic_tls_crypt,
        epochs: config.epochs,
    })
}

/// Connects and reconnects until the tunnel is told to stop.
pub(crate) async fn run(mut driver: Driver, client: ClientConfig, dial: Dial) -> Result<(), Error> {
    let mut wait = FIRST_WAIT;
    for remote in dial.remotes.iter().cycle() {
        let resolved = tokio::select! {
            () = driver.stop.cancelled() => return Ok(()),
            resolved = resolve(remote) => resolved,
        };
        let addresses = match resolved {
            Ok(addresses) => addresses,
            Err(reason) => {
                driver.report(Event::Unresolved { remote: remote.clone(), reason });
                Vec::new()
            }
        };
        let mut connected = false;
        for address in addresses {
            match attempt(&mut driver, &client, address).await? {
                Attempt::Stopped => return Ok(()),
                Attempt::Failed => {}
                Attempt::Over => {
                    connected = true;
                    break;
                }
            }
        }
        if driver.stop.is_cancelled() {
            return Ok(());
        }
        if connected {
            // It worked a moment ago: begin at once.
            wait = FIRST_WAIT;
            continue;
        }
        if pause(&mut driver, wait).await {
            return Ok(());
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    Ok(())
}

enum Attempt {
    Stopped,
    /// Never connected.
    Failed,
    /// Was connected, or was told to connect anew.
    Over,
}

async fn attempt(driver: &mut Driver, config: &ClientConfig, remote: SocketAddr) -> Result<Attempt, Error> {
    driver.report(Event::Connecting { remote });
    let local = match remote {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = crate::socket::bind(local).map_err(|source| Error::Bind { address: local, source })?;
    socket.writable().await.map_err(Error::Receive)?;
    let mut client = Client::new(config.clone(), remote, Instant::now(), crate::unix_time(), crate::rng());
    match driver.run(&mut client, &socket).await {
        Ok(Outcome::Stopped) => Ok(Attempt::Stopped),
        Ok(Outcome::Reconnect) => Ok(Attempt::Over),
        Ok(Outcome::Ended) if client.counters().handshakes_completed > 0 => Ok(Attempt::Over),
        Ok(Outcome::Ended) => Ok(Attempt::Failed),
        // The next attempt has a new socket.
        Err(Error::Receive(error)) => {
            tracing::debug!(%error, "the socket failed");
            Ok(Attempt::Failed)
        }
        Err(error) => Err(error),
    }
}

async fn resolve(remote: &str) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host(remote)).await;
    match lookup {
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
