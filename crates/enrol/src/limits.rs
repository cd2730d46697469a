//! How many attempts to join are heard: of one address, and in all. A code's secret cannot be guessed, at any rate; this
//! keeps strangers from using up the edge's processor.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Of one address (of IPv6, of one /64): so many at once, then one each so often.
const ONE: Rate = Rate { burst: 20, interval: Duration::from_secs(3) };
/// Of all.
const ALL: Rate = Rate { burst: 200, interval: Duration::from_millis(100) };
/// Addresses that are remembered. Beyond them only the limit of all holds.
const MAX_ADDRESSES: usize = 4096;

struct Rate {
    burst: u32,
    interval: Duration,
}

impl Rate {
    /// Whether one more fits, and then counts it. `paid` is until when what came is paid for.
    fn take(&self, paid: &mut Option<Instant>, now: Instant) -> bool {
        let from = paid.map_or(now, |paid| paid.max(now));
        let fits = from.saturating_duration_since(now) < self.interval * self.burst;
        if fits {
            *paid = Some(from + self.interval);
        }
        fits
    }
}

/// What was heard lately.
#[derive(Default)]
pub(crate) struct Limits {
    all: Option<Instant>,
    addresses: HashMap<IpAddr, Option<Instant>>,
}

impl Limits {
    /// Whether an attempt of an address is heard.
    pub(crate) fn admits(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = prefix(address);
        if !self.addresses.contains_key(&address) && self.addresses.len() >= MAX_ADDRESSES {
            self.addresses.retain(|_, paid| paid.is_some_and(|paid| paid > now));
        }
        let mut unknown = None;
        let one = if self.addresses.contains_key(&address) || self.addresses.len() < MAX_ADDRESSES {
            self.addresses.entry(address).or_default()
        } else {
            &mut unknown
        };
        // First of one: who is over its own limit takes nothing from the others.
        ONE.take(one, now) && ALL.take(&mut self.all, now)
    }
}

fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_limited_and_takes_nothing_from_others() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let heard = (0..1000).filter(|_| limits.admits(one, now)).count();
        assert_eq!(heard, 20);
        assert!(limits.admits("192.0.2.2".parse().unwrap(), now));
        // Over IPv4 mapped into IPv6 it is the same.
        assert!(!limits.admits("::ffff:192.0.2.1".parse().unwrap(), now));
        assert!(limits.admits(one, now + ONE.interval));
        assert!(!limits.admits(one, now + ONE.interval));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let heard = (0..1000_u128).filter(|n| limits.admits(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n).into(), now));
        assert_eq!(heard.count(), 20);
    }

    #[test]
    fn all_are_limited_and_not_all_are_remembered() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let heard = (0..100_000_u32).filter(|&n| limits.admits(std::net::Ipv4Addr::from_bits(n).into(), now)).count();
        assert_eq!(heard, 200);
        assert!(limits.addresses.len() <= MAX_ADDRESSES);
        assert!(limits.admits("203.0.113.1".parse().unwrap(), now + Duration::from_secs(60)));
        assert!(limits.addresses.len() <= MAX_ADDRESSES);
    }
}
