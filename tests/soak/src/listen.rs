//! Our listener and stock clients, each in a namespace of its own, behind a relay of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use relay::{Faults, Relay};

use crate::load::{self, PORT, Totals};
use crate::net::{Net, Process, RELAY, SERVER, Usage, client};
use crate::{ADDRESS_CHANGES, LOSS, Role, UNBLOCKED};

/// Longer than ping-restart.
const BLOCKED: Duration = Duration::from_secs(14);
const INSIDE: &str = "10.8.0.1";

/// See the module's documentation.
pub(crate) struct Listen {
    ours: Process,
    clients: Vec<Client>,
    net: Net,
    killed: u64,
}

struct Client {
    relay: Relay,
    stock: Option<Process>,
    /// What is wrong until when, and what comes then.
    trouble: Option<(Instant, Trouble)>,
}

#[derive(Clone, Copy)]
enum Trouble {
    Loss,
    Blocked,
    Dead,
    OverTcp,
}

impl Client {
    /// Ends the stock client in peace.
    fn leave(&mut self) {
        if let Some(stock) = self.stock.take() {
            // One that does not end is killed.
            let _ = stock.finish();
        }
    }
}

impl Listen {
    pub(crate) fn start(clients: u8, offload: &str, rate: u64, totals: &Arc<Totals>) -> Result<Self> {
        let net = Net::new(clients)?;
        let words = [
            "mode=listen",
            "bind=0.0.0.0:1194",
            "tcp=0.0.0.0:1194",
            "address=10.8.0.1/24",
            "pool=10.8.0.10-10.8.0.250",
            "peers=128",
            "ping=2/8",
            "reneg=7",
            &format!("offload={offload}"),
        ];
        let ours = net.ours(&net.server, "server", &words)?;
        relay::in_namespace(&net.server, || load::serve(rate, totals))??;
        let mut listen = Self { ours, clients: Vec::new(), net, killed: 0 };
        for (at, namespace) in listen.net.clients.iter().enumerate() {
            let to = format!("{SERVER}:1194").parse()?;
            let relay = Relay::start(Some(namespace), RELAY.parse()?, to, at as u64, ADDRESS_CHANGES)?;
            listen.clients.push(Client { relay, stock: Some(stock(&listen.net, at)?), trouble: None });
            let (namespace, totals) = (namespace.clone(), Arc::clone(totals));
            let target = [format!("{INSIDE}:{PORT}").parse()?];
            std::thread::spawn(move || relay::in_namespace(&namespace, || load::keep_going(&target, rate, &totals)));
        }
        Ok(listen)
    }
}

fn stock(net: &Net, at: usize) -> Result<Process> {
    let (address, port) = RELAY.split_once(':').unwrap_or((RELAY, "1195"));
    let words = format!(
        "--client --nobind --remote {address} {port} udp --remote {SERVER} 1194 tcp-client --server-poll-timeout 4 \
         --connect-retry 1 2 --remote-cert-tls server --reneg-sec 0"
    );
    net.stock(&net.clients[at], &format!("stock{at}.log"), &client(at), &words)
}

impl Role for Listen {
    fn name(&self) -> &'static str {
        "listen"
    }

    fn disturb(&mut self, rng: &mut StdRng) -> Result<()> {
        let now = Instant::now();
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            match client.trouble {
                Some((until, _)) if until > now => continue,
                Some((_, Trouble::Loss)) => client.relay.set(ADDRESS_CHANGES),
                Some((_, Trouble::Blocked)) => {
                    client.relay.set(ADDRESS_CHANGES);
                    client.trouble = Some((now + UNBLOCKED, Trouble::OverTcp));
                    continue;
                }
                // A stock client does not look for its first remote as long as another works.
                Some((_, Trouble::OverTcp | Trouble::Dead)) => {
                    client.leave();
                    client.stock = Some(stock(&self.net, at)?);
                }
                None => {}
            }
            client.trouble = match rng.random_range(0..120) {
                0 => {
                    client.relay.set(Faults { moves: ADDRESS_CHANGES.moves, ..LOSS });
                    Some((now + Duration::from_secs(10), Trouble::Loss))
                }
                1 => {
                    client.relay.set(Faults { blocked: true, ..Faults::default() });
                    Some((now + BLOCKED, Trouble::Blocked))
                }
                2 => {
                    client.stock = None;
                    self.killed += 1;
                    Some((now + Duration::from_millis(rng.random_range(500..20_000)), Trouble::Dead))
                }
                _ => None,
            };
        }
        Ok(())
    }

    fn calm(&mut self) -> Result<()> {
        for (at, client) in self.clients.iter_mut().enumerate() {
            client.relay.set(Faults::default());
            if client.stock.as_mut().is_none_or(|stock| !stock.is_running()) {
                client.stock = Some(stock(&self.net, at)?);
            }
            client.trouble = None;
        }
        Ok(())
    }

    fn is_calm(&mut self) -> bool {
        let log = self.ours.log();
        let mut transports: HashMap<&str, &str> = HashMap::new();
        let mut peers: HashMap<&str, &str> = HashMap::new();
        for line in log.lines() {
            let (Some(peer), Some(name)) = (after(line, "peer: "), after(line, "common_name: ")) else { continue };
            if line.starts_with("PeerConnected") {
                peers.insert(peer, name);
                transports.insert(name, after(line, "transport: ").unwrap_or_default());
            } else if line.starts_with("PeerDisconnected") {
                peers.remove(peer);
            }
        }
        let mut calm = true;
        for (at, one) in self.clients.iter_mut().enumerate() {
            let name = format!("\"{}\"", client(at));
            let connected = peers.values().any(|&other| other == name);
            let over_udp = transports.get(name.as_str()) == Some(&"Udp");
            if connected && !over_udp {
                one.leave();
                one.stock = stock(&self.net, at).ok();
            }
            calm &= connected && over_udp;
        }
        calm
    }

    fn usage(&mut self) -> Result<Usage> {
        ensure!(self.ours.is_running(), "our listener has ended:\n{}", self.ours.log());
        self.ours.usage()
    }

    fn namespaces(&self) -> Vec<String> {
        self.net.clients.iter().chain([&self.net.server]).cloned().collect()
    }

    fn finish(self: Box<Self>) -> Result<(String, Vec<String>)> {
        let moved: u64 = self.clients.iter().map(|client| client.relay.counts().mappings).sum();
        let lost: u64 = self.clients.iter().map(|client| client.relay.counts().lost).sum();
        let facts = vec![
            format!("stock clients: {}, killed and started again: {}", self.clients.len(), self.killed),
            format!("source ports of relays: {moved}, datagrams they lost: {lost}"),
        ];
        let Self { ours, clients, net, .. } = *self;
        let log = ours.finish()?;
        drop(clients);
        drop(net);
        Ok((log, facts))
    }
}

/// The word that follows `key`.
pub(crate) fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(key)?;
    rest.split([',', ' ', '}']).next()
}
