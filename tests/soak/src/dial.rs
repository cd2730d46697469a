//! Our dialer and two stock servers, one over UDP behind a relay and one over TCP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use relay::{Faults, Relay};

use crate::load::{self, PORT, Totals};
use crate::net::{Net, Process, RELAY, SERVER, Usage};
use crate::{ADDRESS_CHANGES, LOSS, Role, UNBLOCKED};

const STREAMS: u64 = 4;
const BLOCKED: Duration = Duration::from_secs(14);

/// See the module's documentation.
pub(crate) struct Dial {
    ours: Process,
    relay: Relay,
    /// None while it is dead.
    udp: Option<Process>,
    _tcp: Process,
    net: Net,
    trouble: Option<(Instant, Trouble)>,
    killed: u64,
}

#[derive(Clone, Copy)]
enum Trouble {
    Loss,
    Blocked,
    Dead,
    /// What there was is over, and time is left to get over it.
    Over,
}

impl Dial {
    pub(crate) fn start(offload: &str, rate: u64, totals: &Arc<Totals>) -> Result<Self> {
        let net = Net::new(1)?;
        let udp = udp_server(&net)?;
        let tcp = net.stock(
            &net.server,
            "tcp.log",
            "server",
            &format!("--server 10.9.0.0 255.255.255.0 --proto tcp-server {SERVERS}"),
        )?;
        relay::in_namespace(&net.server, || load::serve(rate, totals))??;
        let client = net.clients[0].clone();
        let relay = Relay::start(Some(&client), RELAY.parse()?, format!("{SERVER}:1194").parse()?, 0, ADDRESS_CHANGES)?;
        let remotes = format!("remote={RELAY},{SERVER}:1194/tcp");
        let offload = format!("offload={offload}");
        let ours = net.ours(&client, "client0", &["mode=dial", &remotes, "ping=2/8", "reneg=7", &offload])?;
        for _ in 0..STREAMS {
            let (client, totals) = (client.clone(), Arc::clone(totals));
            let targets = [format!("10.8.0.1:{PORT}").parse()?, format!("10.9.0.1:{PORT}").parse()?];
            std::thread::spawn(move || relay::in_namespace(&client, || load::keep_going(&targets, rate, &totals)));
        }
        Ok(Self { ours, relay, udp: Some(udp), _tcp: tcp, net, trouble: None, killed: 0 })
    }
}

const SERVERS: &str = "--topology subnet --dh none --keepalive 2 8 --port 1194 --reneg-sec 5 5";

fn udp_server(net: &Net) -> Result<Process> {
    net.stock(
        &net.server,
        "udp.log",
        "server",
        &format!("--server 10.8.0.0 255.255.255.0 --proto udp {SERVERS} --verb 4"),
    )
}

impl Role for Dial {
    fn name(&self) -> &'static str {
        "dial"
    }

    fn disturb(&mut self, rng: &mut StdRng) -> Result<()> {
        let now = Instant::now();
        match self.trouble {
            Some((until, _)) if until > now => return Ok(()),
            Some((_, Trouble::Over)) => self.trouble = None,
            Some((_, trouble)) => {
                self.relay.set(ADDRESS_CHANGES);
                if matches!(trouble, Trouble::Dead) {
                    self.udp = Some(udp_server(&self.net)?);
                }
                self.trouble = Some((now + UNBLOCKED, Trouble::Over));
                return Ok(());
            }
            None => {}
        }
        self.trouble = match rng.random_range(0..40) {
            0 | 1 => {
                self.relay.set(Faults { moves: ADDRESS_CHANGES.moves, ..LOSS });
                Some((now + Duration::from_secs(10), Trouble::Loss))
            }
            2..=4 => {
                self.relay.set(Faults { blocked: true, ..Faults::default() });
                Some((now + BLOCKED, Trouble::Blocked))
            }
            5 => {
                self.udp = None;
                self.killed += 1;
                Some((now + Duration::from_secs(rng.random_range(1..20)), Trouble::Dead))
            }
            _ => None,
        };
        Ok(())
    }

    fn calm(&mut self) -> Result<()> {
        self.relay.set(Faults::default());
        if self.udp.is_none() {
            self.udp = Some(udp_server(&self.net)?);
        }
        self.trouble = None;
        Ok(())
    }

    fn is_calm(&mut self) -> bool {
        let log = self.ours.log();
        let last = log.lines().rfind(|line| line.starts_with("Peer"));
        last.is_some_and(|line| line.starts_with("PeerConnected") && line.contains("transport: Udp"))
    }

    fn usage(&mut self) -> Result<Usage> {
        ensure!(self.ours.is_running(), "our dialer has ended:\n{}", self.ours.log());
        self.ours.usage()
    }

    fn namespaces(&self) -> Vec<String> {
        vec![self.net.server.clone(), self.net.clients[0].clone()]
    }

    fn finish(self: Box<Self>) -> Result<(String, Vec<String>)> {
        let counts = self.relay.counts();
        let floated = std::fs::read_to_string(self.net.path("udp.log")).unwrap_or_default();
        let facts = vec![
            format!("stock servers: 2, the one over UDP killed and started again: {}", self.killed),
            format!("source ports of the relay: {}, datagrams it lost: {}", counts.mappings, counts.lost),
            format!("floats that the stock server saw: {}", floated.matches("floated from").count()),
        ];
        let Self { ours, net, .. } = *self;
        let log = ours.finish()?;
        drop(net);
        Ok((log, facts))
    }
}
