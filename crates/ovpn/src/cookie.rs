//! The stateless cookie that stands for the server's session id until the client has shown that it receives at its
//! address.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use crate::packet::SessionId;
use crate::underlay::{Transport, Underlay};

/// A slot lasts half a hand window. A cookie is honoured in its own slot and the two that follow: for a hand window at
/// least, and for less than twice as long.
const SLOTS_ACCEPTED: u128 = 3;

/// Makes and checks cookies under a secret of this process.
pub(crate) struct CookieJar {
    key: hmac::Key,
    epoch: Instant,
    slot: Duration,
}

impl CookieJar {
    pub(crate) fn new(secret: &[u8; 32], now: Instant, hand_window: Duration) -> Self {
        let slot = (hand_window / 2).max(Duration::from_millis(1));
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), epoch: now, slot }
    }

    /// The cookie for a client at `from` that calls itself `client`.
    pub(crate) fn bake(&self, now: Instant, from: Underlay, client: SessionId) -> SessionId {
        self.cookie(self.slot(now), from, client)
    }

    /// Whether `cookie` was given to this client at this address lately.
    pub(crate) fn check(&self, now: Instant, from: Underlay, client: SessionId, cookie: SessionId) -> bool {
        let slot = self.slot(now);
        (0..SLOTS_ACCEPTED).filter_map(|age| slot.checked_sub(age)).any(|slot| {
            let expected = self.cookie(slot, from, client);
            aws_lc_rs::constant_time::verify_slices_are_equal(&expected.0, &cookie.0).is_ok()
        })
    }

    fn slot(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.epoch).as_nanos() / self.slot.as_nanos()
    }

    fn cookie(&self, slot: u128, from: Underlay, client: SessionId) -> SessionId {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&slot.to_be_bytes());
        context.update(&[match from.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
        }]);
        match from.address.ip() {
            IpAddr::V4(ip) => context.update(&ip.octets()),
            IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&from.address.port().to_be_bytes());
        context.update(&client.0);
        let mut id = [0; 8];
        id.copy_from_slice(&context.sign().as_ref()[..8]);
        // Zero means "undefined" on the wire; one chance in 2^64 is not worth a retry protocol.
        if id == [0; 8] {
            id[7] = 1;
        }
        SessionId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_to_address_client_and_time() {
        let start = Instant::now();
        let jar = CookieJar::new(&[7; 32], start, Duration::from_secs(60));
        let address = "192.0.2.1:1194".parse().unwrap();
        let (here, there) = (Underlay::udp(address), Underlay::udp("192.0.2.1:1195".parse().unwrap()));
        let (client, other) = (SessionId([1; 8]), SessionId([2; 8]));
        let cookie = jar.bake(start, here, client);
        assert!(jar.check(start, here, client, cookie));
        assert!(jar.check(start + Duration::from_secs(89), here, client, cookie));
        assert!(!jar.check(start + Duration::from_secs(90), here, client, cookie));
        assert!(!jar.check(start, there, client, cookie));
        assert!(!jar.check(start, Underlay::tcp(address), client, cookie));
        assert!(!jar.check(start, here, other, cookie));
        assert!(!jar.check(start, here, client, SessionId([9; 8])));
        assert_eq!(cookie, jar.bake(start + Duration::from_secs(29), here, client));
    }

    #[test]
    fn never_honoured_for_two_hand_windows() {
        let start = Instant::now();
        let window = Duration::from_secs(4);
        let jar = CookieJar::new(&[7; 32], start, window);
        let (here, client) = (Underlay::udp("192.0.2.1:1194".parse().unwrap()), SessionId([1; 8]));
        for made in [0, 1999, 2000, 3999].map(|ms| start + Duration::from_millis(ms)) {
            let cookie = jar.bake(made, here, client);
            assert!(jar.check(made + window, here, client, cookie));
            assert!(!jar.check(made + 2 * window, here, client, cookie));
        }
    }
}
