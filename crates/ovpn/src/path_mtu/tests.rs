use proptest::prelude::*;

use super::*;

/// Bytes around a packet outside: IPv4, UDP and the usual data packet.
const HEADERS: u16 = 20 + 8 + 24;

/// A path with a clock of its own.
struct World {
    now: Instant,
    discovery: Discovery,
    /// IP packets of more bytes vanish.
    mtu: u16,
    /// Our own link says so itself.
    link: u16,
    /// Which of each five probes is lost besides, for some fives in turn.
    lost: Vec<u64>,
    /// Whether the peer is there.
    alive: bool,
    carried: u64,
    sent: u64,
    /// Sizes that were tried.
    sizes: Vec<u16>,
    /// What the peer has been told.
    told: Option<PathMtu>,
}

impl World {
    fn new(mtu: u16, link: u16, lost: Vec<u64>) -> Self {
        let now = Instant::now();
        Self {
            now,
            discovery: Discovery::new(now),
            mtu,
            link,
            lost,
            alive: true,
            carried: 0,
            sent: 0,
            sizes: Vec::new(),
            told: None,
        }
    }

    /// Lets time pass, while the tunnel carries something.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            let next = self.discovery.poll_timeout().max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            self.carried += 1000;
            self.discovery.handle_timeout(self.now, self.carried);
        }
        self.now = end;
    }

    fn exchange(&mut self) {
        while let Some((message, size)) = self.discovery.poll() {
            let Message::Probe { id, known } = message else { panic!("{message:?}") };
            let plain = message.encode(size);
            assert_eq!(Message::decode(&plain), Some(message));
            let outside = plain.len() as u16 + HEADERS;
            if size > 0 && self.sizes.last() != Some(&size) {
                self.sizes.push(size);
            }
            if outside > self.link {
                self.discovery.handle_refused(self.now);
                continue;
            }
            self.sent += 1;
            let five = (self.sent / 5) as usize;
            let is_lost = !self.lost.is_empty() && self.lost[five % self.lost.len()] == self.sent % 5;
            if self.alive && !is_lost && outside <= self.mtu {
                self.now += Duration::from_millis(30);
                self.told = known;
                self.discovery.handle_answer(self.now, id, plain.len(), outside);
            }
        }
    }

    /// What there is to be found.
    fn truth(&self) -> PathMtu {
        let inside = ((self.mtu.min(self.link) - HEADERS) / GRID * GRID).min(CEILING);
        PathMtu { inside, outside: inside + HEADERS }
    }
}

/// A whole search, however much of it is lost.
const SEARCH_TIME: Duration = Duration::from_secs(60);

#[test]
fn usual_links_are_found_exactly() {
    for mtu in [576, 1280, 1400, 1452, 1460, 1472, 1480, 1492, 1500, 9000] {
        let mut world = World::new(mtu, 9000, vec![]);
        world.run(SEARCH_TIME);
        let expected = PathMtu { outside: mtu, inside: mtu - HEADERS };
        assert_eq!((world.discovery.known(), world.told), (Some(expected), Some(expected)));
    }
}

#[test]
fn what_our_own_link_refuses_takes_no_time() {
    let mut world = World::new(1500, 1500, vec![]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.discovery.known(), Some(PathMtu { outside: 1500, inside: 1448 }));
    assert!(world.sent < 10, "{}", world.sent);
}

#[test]
fn a_path_that_narrows_is_noticed_while_it_is_used_and_one_that_widens_later() {
    let mut world = World::new(1500, 1500, vec![]);
    world.run(SEARCH_TIME);
    world.mtu = 1400;
    world.run(Duration::from_secs(11));
    let fallback = PathMtu { outside: FALLBACK + HEADERS, inside: FALLBACK };
    assert_eq!((world.discovery.known(), world.told), (Some(fallback), Some(fallback)));
    world.run(SEARCH_TIME);
    assert_eq!(world.discovery.known(), Some(PathMtu { outside: 1400, inside: 1348 }));
    world.mtu = 1500;
    world.run(RAISE);
    assert_eq!(world.discovery.known(), Some(PathMtu { outside: 1500, inside: 1448 }));
}

#[test]
fn a_doubt_is_followed_at_once_and_a_word_of_the_peer_too() {
    let mut world = World::new(1500, 9000, vec![]);
    world.run(SEARCH_TIME);
    world.mtu = 1300;
    world.discovery.doubt(world.now);
    world.run(Duration::from_secs(6));
    assert_eq!(world.discovery.known().map(|known| known.inside), Some(FALLBACK));
    world.run(SEARCH_TIME);
    world.mtu = 1500;
    world.discovery.search(world.now);
    world.run(SEARCH_TIME);
    assert_eq!(world.discovery.known(), Some(world.truth()));
    // A narrower path costs no whole search before it counts.
    world.mtu = 1400;
    world.discovery.search(world.now);
    world.run(Duration::from_secs(6));
    assert_eq!(world.discovery.known().map(|known| known.inside), Some(FALLBACK));
    world.run(SEARCH_TIME);
    assert_eq!(world.discovery.known(), Some(world.truth()));
}

#[test]
fn an_idle_tunnel_does_not_probe() {
    let mut world = World::new(1500, 1500, vec![]);
    world.run(SEARCH_TIME);
    let carried = world.carried;
    world.discovery.handle_timeout(world.now + CONFIRM, carried);
    world.exchange();
    let sent = world.sent;
    for seconds in 1..500 {
        world.discovery.handle_timeout(world.now + Duration::from_secs(seconds), carried);
        world.exchange();
    }
    assert_eq!(world.sent, sent);
}

#[test]
fn silence_of_the_peer_says_nothing_about_sizes() {
    let mut world = World::new(1500, 1500, vec![]);
    world.run(SEARCH_TIME);
    let known = world.discovery.known();
    world.alive = false;
    world.run(Duration::from_secs(100));
    assert_eq!(world.discovery.known(), known);
    world.alive = true;
    world.run(SEARCH_TIME);
    assert_eq!(world.discovery.known(), known);
}

#[test]
fn answers_of_others_change_nothing() {
    let mut discovery = Discovery::new(Instant::now());
    let (Message::Probe { id, .. }, size) = discovery.poll().unwrap() else { panic!() };
    for (id, size) in [(id + 1, size.into()), (id, usize::from(size) - 1), (id, MESSAGE), (0, size.into())] {
        discovery.handle_answer(Instant::now(), id, size, 9999);
        assert_eq!(discovery.poll(), None, "{id} {size}");
    }
    discovery.handle_answer(Instant::now(), id, size.into(), 9999);
    assert!(discovery.poll().is_some());
}

#[test]
fn an_outage_in_the_middle_of_a_question_and_a_full_socket_say_nothing_about_sizes() {
    let mut world = World::new(1500, 1500, vec![]);
    world.run(SEARCH_TIME);
    let known = world.discovery.known();
    // Nothing of a question gets out, while the peer is heard by other packets.
    world.discovery.doubt(world.now);
    world.carried += 1;
    world.discovery.handle_timeout(world.now, world.carried);
    for _ in 0..20 {
        while world.discovery.poll().is_some() {}
        world.now = world.discovery.poll_timeout();
        world.discovery.handle_timeout(world.now, world.carried);
    }
    assert_eq!(world.discovery.known(), known);
    world.run(SEARCH_TIME);
    assert_eq!(world.discovery.known(), known);
}

#[test]
fn words_of_the_peer_in_quick_succession_do_not_keep_a_black_hole_open() {
    let mut world = World::new(1500, 9000, vec![]);
    for _ in 0..60 {
        world.discovery.search(world.now);
        world.run(Duration::from_secs(1));
    }
    assert_eq!(world.discovery.known(), Some(world.truth()));
    world.mtu = 1400;
    for _ in 0..12 {
        world.discovery.search(world.now);
        world.run(Duration::from_secs(1));
    }
    assert_eq!(world.discovery.known().map(|known| known.inside), Some(FALLBACK));
}

fn lost() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0u64..5, 1..20)
}

proptest! {
    #[test]
    fn any_path_is_found_within_the_bound(mtu in 576u16..=9200, link in 1280u16..=9200, lost in lost()) {
        let mut world = World::new(mtu, link, lost);
        world.run(SEARCH_TIME);
        prop_assert_eq!(world.discovery.known(), Some(world.truth()));
        prop_assert_eq!(world.told, world.discovery.known());
        let search: Vec<u16> = world.sizes.iter().copied().take_while(|&size| size != world.truth().inside).collect();
        prop_assert!(search.len() <= 12, "{:?}", world.sizes);
    }

    #[test]
    fn changes_are_followed(paths in prop::collection::vec((576u16..=9200, lost()), 2..6)) {
        let mut world = World::new(paths[0].0, 9000, Vec::new());
        for (mtu, lost) in paths {
            (world.mtu, world.lost) = (mtu, lost);
            world.run(RAISE + SEARCH_TIME * 2);
            prop_assert_eq!(world.discovery.known(), Some(world.truth()));
            prop_assert_eq!(world.told, world.discovery.known());
        }
    }

    #[test]
    fn noise_is_survived(noise: Vec<u8>, kind in PROBE..=SEARCH) {
        let _ = Message::decode(&noise);
        let mut message = OCC.to_vec();
        message.push(kind);
        message.extend(noise);
        if let Some(Message::Probe { known: Some(known), .. }) = Message::decode(&message) {
            prop_assert!((FLOOR..=CEILING).contains(&known.inside));
        }
    }
}
