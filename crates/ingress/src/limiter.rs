//! How many attempts to log in a client has. Pure: the clock is told, and nothing is kept of a password but a keyed hash.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Attempts that a client may make at once.
const BURST: u32 = 10;
/// After them one in so long.
const EVERY: Duration = Duration::from_secs(6);
/// Different credentials that a client may try in [`WINDOW`]. One that synchronizes sends the same ones again and again, and a
/// household behind one address has some devices.
const CREDENTIALS: usize = 20;
/// After so long a client's credentials are forgotten.
const WINDOW: Duration = Duration::from_secs(600);
/// Clients that are remembered; beyond them the ones longest not seen are forgotten. Some megabytes at most.
const CLIENTS: usize = 16_384;

/// What a client attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt<'a> {
    /// A form with a password.
    Login,
    /// A request with these credentials in its header.
    Credentials(&'a [u8]),
}

/// Counts attempts, by client and site. Of IPv6 a client is a network of 64 bits, which is the least that one gets.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Which clients were seen since the last change of generations.
    young: HashMap<Key, Client>,
    /// And in the one before. What is seen again becomes young again; the rest is forgotten with the next change.
    old: HashMap<Key, Client>,
    capacity: usize,
    hasher: RandomState,
}

type Key = (u64, IpAddr);

/// What is known of a client at a site.
#[derive(Debug, Clone)]
struct Client {
    /// When its attempts so far would all have been made, at one in [`EVERY`].
    paid_until: Instant,
    /// Hashes of its credentials.
    credentials: Vec<u64>,
    /// When they are forgotten.
    forgotten: Instant,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(CLIENTS)
    }
}

impl Limiter {
    /// One that remembers so many clients.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity, hasher: RandomState::new() }
    }

    /// Whether the attempt may pass.
    ///
    /// # Errors
    /// With the time after which another may.
    pub(crate) fn attempt(
        &mut self,
        now: Instant,
        site: &str,
        client: IpAddr,
        attempt: Attempt<'_>,
    ) -> Result<(), Duration> {
        let key = (self.hasher.hash_one(site), network(client));
        let hash = match attempt {
            Attempt::Login => 0,
            Attempt::Credentials(credentials) => self.hasher.hash_one(credentials),
        };
        let client = self.client(key, now);
        match attempt {
            Attempt::Login => {
                let paid_until = client.paid_until.max(now) + EVERY;
                let ahead = paid_until.duration_since(now);
                if ahead > EVERY * BURST {
                    return Err(ahead - EVERY * BURST);
                }
                client.paid_until = paid_until;
            }
            Attempt::Credentials(_) => {
                if client.forgotten <= now {
                    client.credentials.clear();
                    client.forgotten = now + WINDOW;
                }
                if client.credentials.contains(&hash) {
                    return Ok(());
                }
                if client.credentials.len() >= CREDENTIALS {
                    return Err(client.forgotten.duration_since(now));
                }
                client.credentials.push(hash);
            }
        }
        Ok(())
    }

    fn client(&mut self, key: Key, now: Instant) -> &mut Client {
        if !self.young.contains_key(&key) && self.young.len() >= self.capacity / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(key).or_insert_with(|| {
            old.remove(&key).unwrap_or_else(|| Client { paid_until: now, credentials: Vec::new(), forgotten: now })
        })
    }
}

/// Who counts as one client.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_one_in_six_seconds() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let mut login = |now, client| limiter.attempt(now, "a.example.com", at(client), Attempt::Login);
        for _ in 0..BURST {
            login(now, "203.0.113.5").unwrap();
        }
        assert_eq!(login(now, "203.0.113.5"), Err(EVERY));
        assert_eq!(login(now, "::ffff:203.0.113.5"), Err(EVERY), "the same, written otherwise");
        login(now, "203.0.113.6").unwrap();
        login(now + EVERY, "203.0.113.5").unwrap();
        login(now + EVERY, "203.0.113.5").unwrap_err();
        for _ in 0..BURST {
            login(now + EVERY * 100, "203.0.113.5").unwrap();
        }
        assert_eq!(limiter.attempt(now, "b.example.com", at("203.0.113.5"), Attempt::Login), Ok(()), "another site");
    }

    #[test]
    fn the_same_credentials_pass_for_ever_and_guesses_do_not() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let mut ask = |after: Duration, text: &str| {
            limiter.attempt(now + after, "a", at("203.0.113.5"), Attempt::Credentials(text.as_bytes()))
        };
        for seconds in 0..1000 {
            ask(Duration::from_secs(seconds), "Basic mine").unwrap();
        }
        let start = Duration::from_secs(1000);
        for guess in 1..CREDENTIALS {
            ask(start, &format!("Basic guess {guess}")).unwrap();
        }
        let wait = ask(start, "Basic one more").unwrap_err();
        assert!(wait <= WINDOW, "{wait:?}");
        ask(start, "Basic mine").unwrap();
        ask(start + wait, "Basic one more").unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let passed = |limiter: &mut Limiter, prefix: &str| {
            (0..50)
                .filter(|n| limiter.attempt(now, "a", at(&format!("{prefix}::{n:x}")), Attempt::Login).is_ok())
                .count()
        };
        assert_eq!(passed(&mut limiter, "2001:db8:1:2"), BURST as usize);
        assert_eq!(passed(&mut limiter, "2001:db8:1:3"), BURST as usize);
    }

    #[test]
    fn memory_is_bounded_and_who_goes_on_is_not_forgotten() {
        let (mut limiter, now) = (Limiter::new(100), Instant::now());
        let mut refused = 0;
        for n in 0..100_000_u32 {
            let stranger = IpAddr::from((n + (20 << 24)).to_be_bytes());
            limiter.attempt(now, "a", stranger, Attempt::Login).unwrap();
            if n % 20 == 0 && limiter.attempt(now, "a", at("203.0.113.5"), Attempt::Login).is_err() {
                refused += 1;
            }
            assert!(limiter.young.len() + limiter.old.len() <= 100);
        }
        assert_eq!(refused, 100_000 / 20 - BURST);
    }
}
