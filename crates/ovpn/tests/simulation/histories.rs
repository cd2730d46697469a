//! Generated histories: packets in any order, repeated, forged and late, moves and faults, while keys are renewed. What
//! must hold in each is in [`Model`].

use std::collections::BTreeSet;
use std::time::Duration;

use ovpn::endpoint::{Endpoint, Event, RenewalLimits};
use ovpn::underlay::Underlay;
use proptest::prelude::*;

use crate::network::{Fault, Network, SERVER, client_config, packet, server_config};
use crate::{assert_carries, seconds};

#[derive(Clone, Debug)]
enum Step {
    /// Time passes, milliseconds.
    Run(u16),
    /// A packet is sealed, and is on its way from then on.
    Send { to_server: bool },
    /// A packet that was sealed at some time arrives, perhaps not for the first time, perhaps from elsewhere.
    Arrive { which: usize, elsewhere: bool },
    /// The same, with a bit flipped.
    Forge { which: usize, place: usize, bit: u8 },
    /// A control packet of the past arrives once more at both ends, perhaps with a bit flipped.
    Control { which: usize, flip: Option<(usize, u8)> },
    /// What the network does to control packets, percent and milliseconds.
    Fault { loss: u8, repeat: u8, delay: u16 },
    /// The client moves to another address.
    Move(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u16..4000).prop_map(Step::Run),
        4 => any::<bool>().prop_map(|to_server| Step::Send { to_server }),
        4 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(which, elsewhere)| Step::Arrive { which, elsewhere }),
        1 => (any::<usize>(), any::<usize>(), 0u8..8).prop_map(|(which, place, bit)| Step::Forge { which, place, bit }),
        1 => (any::<usize>(), prop::option::of((any::<usize>(), 0u8..8)))
            .prop_map(|(which, flip)| Step::Control { which, flip }),
        1 => (0u8..40, 0u8..30, 0u16..300).prop_map(|(loss, repeat, delay)| Step::Fault { loss, repeat, delay }),
        1 => any::<u8>().prop_map(Step::Move),
    ]
}

/// A packet that was sealed.
struct Sealed {
    to_server: bool,
    inner: Vec<u8>,
    datagram: Vec<u8>,
}

/// A connected pair, and what was sent and delivered.
struct Model {
    net: Network,
    sealed: Vec<Sealed>,
    delivered: BTreeSet<usize>,
}

impl Model {
    fn new(seed: u64, epochs: bool, limits: [RenewalLimits; 2]) -> Self {
        let (mut server, mut client) = (server_config(), client_config());
        (server.epochs, server.renewal, client.renewal) = (epochs, limits[0], limits[1]);
        // Silence is part of a history, and is not what is asked about here.
        (server.keepalive.ping_restart, client.keepalive.ping_restart) = (Duration::ZERO, Duration::ZERO);
        let mut net = Network::new(seed, server);
        net.add_client("a", client);
        net.run(seconds(2));
        assert!(net.is_connected(0));
        Self { net, sealed: Vec::new(), delivered: BTreeSet::new() }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Run(time) => self.net.run(Duration::from_millis(time.into())),
            Step::Send { to_server } => self.send(to_server),
            Step::Arrive { which, elsewhere } if !self.sealed.is_empty() => {
                self.arrive(which % self.sealed.len(), elsewhere);
            }
            Step::Forge { which, place, bit } if !self.sealed.is_empty() => {
                let Sealed { to_server, datagram, .. } = &self.sealed[which % self.sealed.len()];
                let (to_server, mut forged) = (*to_server, datagram.clone());
                let place = place % forged.len();
                forged[place] ^= 1 << bit;
                // The peer id that the server puts into its packets is not looked at, but it is authenticated.
                assert_eq!(self.deliver(to_server, &forged), None, "forged at byte {place}");
            }
            Step::Control { which, flip } => {
                let mut datagram = self.net.recorded[which % self.net.recorded.len()].clone();
                if let Some((place, bit)) = flip {
                    let place = place % datagram.len();
                    datagram[place] ^= 1 << bit;
                }
                for to_server in [true, false] {
                    assert_eq!(self.deliver(to_server, &datagram), None);
                }
            }
            Step::Fault { loss, repeat, delay } => {
                self.net.fault = Fault {
                    loss: f64::from(loss) / 100.0,
                    repeat: f64::from(repeat) / 100.0,
                    delay: Duration::from_millis(delay.into()),
                    ..Fault::default()
                };
            }
            Step::Move(place) => {
                self.net.move_client(0, &format!("203.0.113.{place}:5000"));
                // As a client does that notices.
                self.send(true);
                self.arrive(self.sealed.len() - 1, false);
            }
            Step::Arrive { .. } | Step::Forge { .. } => {}
        }
    }

    fn send(&mut self, to_server: bool) {
        let address = self.net.address(0).unwrap();
        let mut inner = if to_server { packet(address, SERVER, 60) } else { packet(SERVER, address, 60) };
        inner[50..54].copy_from_slice(&(self.sealed.len() as u32).to_be_bytes());
        let datagram = if to_server { self.net.client_seals(0, &inner) } else { self.net.server_seals(&inner) };
        self.sealed.push(Sealed { to_server, inner, datagram });
    }

    fn deliver(&mut self, to_server: bool, datagram: &[u8]) -> Option<Vec<u8>> {
        if to_server { self.net.deliver_to_server(0, datagram) } else { self.net.deliver_to_client(0, datagram) }
    }

    /// Nothing comes out that was not put in, and nothing comes out twice.
    fn arrive(&mut self, which: usize, elsewhere: bool) {
        let Sealed { to_server, inner, datagram } = &self.sealed[which];
        let (to_server, inner, datagram) = (*to_server, inner.clone(), datagram.clone());
        let got = if elsewhere && to_server {
            self.net.deliver_to_server_from(Underlay::udp("198.51.100.200:7".parse().unwrap()), &datagram)
        } else {
            self.deliver(to_server, &datagram)
        };
        if let Some(got) = got {
            assert_eq!(got, inner);
            assert!(self.delivered.insert(which), "delivered twice");
        }
    }

    /// When the network is good again, both sides agree and carry.
    fn settle(&mut self) {
        self.net.fault = Fault::default();
        self.send(true);
        self.arrive(self.sealed.len() - 1, false);
        self.net.run(seconds(150));
        assert!(self.net.is_connected(0), "{:?}", self.net.last_reason(0));
        assert_eq!(self.net.server.peers().len(), 1);
        assert_carries(&mut self.net, 0);
        // In the middle of a renewal one side is ahead for a moment.
        let counts =
            |net: &Network| (net.server.counters().renewals_completed, net.client_counters(0).renewals_completed);
        self.net.run_until(seconds(2), |net| counts(net).0 == counts(net).1);
        let key_ids = |events: &[Event]| -> Vec<u8> {
            let renewed = events.iter().filter_map(|event| match event {
                Event::Renewed { key_id, .. } => Some(*key_id),
                _ => None,
            });
            renewed.collect()
        };
        assert_eq!(key_ids(&self.net.server_events), key_ids(&self.net.events[0]), "the same keys in the same order");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn histories(
        seed: u64,
        epochs: bool,
        server_after in prop_oneof![Just(0u64), 5u64..40],
        client_after in prop_oneof![Just(0u64), 5u64..40],
        packets in prop_oneof![Just(None), (3u64..30).prop_map(Some)],
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let limits = |after| RenewalLimits { after: seconds(after), packets, ..RenewalLimits::default() };
        let mut model = Model::new(seed, epochs, [limits(server_after), limits(client_after)]);
        for step in &steps {
            model.apply(step);
        }
        model.settle();
    }
}
