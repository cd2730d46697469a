//! Addresses inside of the tunnel for peers that have none of their own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Addresses whose last holder is remembered.
const MAX_REMEMBERED: usize = 1024;

/// An address as a number.
pub(super) trait Number: Copy {
    fn number(self) -> u128;
    fn of(number: u128) -> Self;
}

impl Number for Ipv4Addr {
    fn number(self) -> u128 {
        u32::from(self).into()
    }

    fn of(number: u128) -> Self {
        Self::from(number as u32)
    }
}

impl Number for Ipv6Addr {
    fn number(self) -> u128 {
        self.into()
    }

    fn of(number: u128) -> Self {
        Self::from(number)
    }
}

/// A range of addresses, and who had which last: the same name gets the same address again as long as nobody else needed
/// it.
pub(super) struct Pool<A> {
    range: RangeInclusive<A>,
    remembered: BTreeMap<u128, Holder>,
    /// Counts assignments.
    clock: u64,
}

struct Holder {
    name: String,
    /// When the address was assigned.
    at: u64,
}

impl<A: Number> Pool<A> {
    pub(super) fn new(range: RangeInclusive<A>) -> Self {
        Self { range, remembered: BTreeMap::new(), clock: 0 }
    }

    /// An address that is not taken: the one that `name` had, else the lowest that nobody had, else the one that was
    /// assigned longest ago.
    pub(super) fn assign(&mut self, name: &str, is_taken: impl Fn(A) -> bool) -> Option<A> {
        let is_free = |number: u128| !is_taken(A::of(number));
        let own = self.remembered.iter().find(|&(&number, holder)| holder.name == name && is_free(number));
        let number = own.map(|(&number, _)| number).or_else(|| {
            let mut all = self.range.start().number()..=self.range.end().number();
            all.find(|number| !self.remembered.contains_key(number) && is_free(*number))
        });
        let number = number.or_else(|| self.oldest(is_free))?;
        self.clock += 1;
        self.remembered.insert(number, Holder { name: name.to_owned(), at: self.clock });
        if self.remembered.len() > MAX_REMEMBERED
            && let Some(oldest) = self.oldest(|other| other != number)
        {
            self.remembered.remove(&oldest);
        }
        Some(A::of(number))
    }

    fn oldest(&self, fits: impl Fn(u128) -> bool) -> Option<u128> {
        let fitting = self.remembered.iter().filter(|&(&number, _)| fits(number));
        fitting.min_by_key(|(_, holder)| holder.at).map(|(&number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    #[test]
    fn a_name_gets_its_address_again_until_somebody_else_needs_it() {
        let mut pool = Pool::new(Ipv4Addr::new(10, 0, 0, 1)..=Ipv4Addr::new(10, 0, 0, 3));
        let taken = RefCell::new(BTreeSet::new());
        let mut assign = |name: &str| {
            let address = pool.assign(name, |address: Ipv4Addr| taken.borrow().contains(&address.octets()[3]));
            address.map(|address| {
                taken.borrow_mut().insert(address.octets()[3]);
                address.octets()[3]
            })
        };
        assert_eq!([assign("a"), assign("b")], [Some(1), Some(2)]);
        taken.borrow_mut().clear();
        // Who comes first does not matter, and a newcomer takes what nobody had.
        assert_eq!([assign("c"), assign("b"), assign("a")], [Some(3), Some(2), Some(1)]);
        assert_eq!(assign("d"), None);
        taken.borrow_mut().clear();
        // A newcomer takes what was assigned longest ago.
        assert_eq!([assign("d"), assign("a"), assign("c")], [Some(3), Some(1), Some(2)]);
    }

    #[test]
    fn a_large_range_costs_bounded_memory() {
        let first: Ipv6Addr = "fd00::1000".parse().unwrap();
        let mut pool = Pool::new(first..="fd00::ffff:ffff:ffff:ffff".parse().unwrap());
        for count in 0..MAX_REMEMBERED + 100 {
            assert!(pool.assign(&count.to_string(), |_| false).is_some());
        }
        assert_eq!(pool.remembered.len(), MAX_REMEMBERED);
    }
}
