//! The listening end.

use std::time::Instant;

use ovpn::login::LoginRequest;
use ovpn::server::{Server, ServerConfig};
use ovpn::underlay::{Transport, Underlay};

use crate::config::{Listen, TunnelConfig};
use crate::driver::{Driver, Error, Role};
use crate::report::{Command, Event};
use crate::scout::Way;
use crate::sockets::Sockets;

/// Handshakes in progress at a time.
pub(crate) const MAX_HANDSHAKES: usize = 64;

/// What the server is told.
pub(crate) fn settings(config: &TunnelConfig, listen: Listen) -> Result<ServerConfig, Error> {
    let protection = config.protection.for_server();
    Ok(ServerConfig {
        protection: protection.ok_or(Error::Setting("a listener needs a tls-crypt-v2 server key, not a client's"))?,
        ciphers: config.data_ciphers.clone(),
        key_derivation: config.key_derivation,
        tun_mtu: config.tun_mtu,
        path_mtu: config.path_mtu,
        keepalive: config.keepalive,
        renewal: config.renewal,
        dynamic_tls_crypt: config.dynamic_tls_crypt,
        epochs: config.epochs,
        peer_ids: config.peer_ids,
        data: config.data,
        max_packet_size: config.max_packet_size,
        network: listen.network,
        network_ipv6: listen.network_ipv6,
        peers: listen.peers,
        pool: listen.pool,
        pool_ipv6: listen.pool_ipv6,
        push: listen.push,
        between_peers: listen.between_peers,
        max_peers: listen.max_peers,
        max_handshakes: MAX_HANDSHAKES,
        admission: config.admission.clone(),
        control_exit: config.control_exit,
    })
}

/// Serves peers until the tunnel is told to stop.
pub(crate) async fn run(
    mut driver: Driver,
    server: ServerConfig,
    mut sockets: Sockets,
    addresses: Vec<Underlay>,
) -> Result<(), Error> {
    let mut server = Server::new(server, Instant::now(), crate::unix_time(), crate::rng());
    for address in addresses {
        if address.transport == Transport::Udp {
            sockets.writable(address).await.map_err(Error::Receive)?;
        }
        driver.report(Event::Listening { address });
    }
    driver.run(&mut server, &mut sockets).await.map(drop)
}

impl Role for Server {
    fn obey(&mut self, now: Instant, command: Command) -> bool {
        match command {
            Command::Disconnect { peer } => {
                self.disconnect(now, peer);
            }
            Command::Notify { peer, notice } => {
                self.notify(now, peer, &notice);
            }
            Command::Decide { login, decision } => self.decide(now, login, decision),
            Command::Identify(identity) => {
                if let Some(protection) = identity.protection.for_server() {
                    self.set_protection(protection);
                }
            }
            // Nothing to connect to.
            Command::Reconnect => {}
        }
        false
    }

    fn poll_login(&mut self) -> Option<LoginRequest> {
        Self::poll_login(self)
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn carries(&self, _to: Underlay) -> bool {
        // A listener drops what does not fit at once.
        true
    }

    fn take(&mut self, _now: Instant, _way: Way, _sockets: &mut Sockets) {}
}
