//! Which addresses are public: by those visitors may come, and nothing that another host wants is looked for at any other.

use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;

/// The network of a link: the first half of its addresses.
pub type Ipv6Prefix = [u16; 4];

/// The IPv6 networks that this host is in, whose devices have public addresses.
#[must_use]
pub fn own_networks() -> Vec<Ipv6Prefix> {
    let Ok(links) = getifaddrs() else { return Vec::new() };
    let addresses = links.filter_map(|link| link.address?.as_sockaddr_in6().map(|address| address.ip()));
    addresses.map(|address| prefix(&address)).collect()
}

/// All addresses of this host's links.
#[must_use]
pub fn own_addresses() -> Vec<IpAddr> {
    let Ok(links) = getifaddrs() else { return Vec::new() };
    let address = |link: nix::ifaddrs::InterfaceAddress| {
        let address = link.address?;
        let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        ipv4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    links.filter_map(address).collect()
}

fn prefix(address: &Ipv6Addr) -> Ipv6Prefix {
    let [a, b, c, d, ..] = address.segments();
    [a, b, c, d]
}

/// Whether visitors may come by this address; `own` are the networks of this host. What an edge calls a public name must not make home
/// ask in its own network.
#[must_use]
pub fn is_public(address: IpAddr, own: &[Ipv6Prefix]) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
                || shared)
        }
        IpAddr::V6(address) => {
            // Translated into IPv4, or of sites as they were before unique local addresses.
            let [first, second, ..] = address.segments();
            let other = first == 0x2002 || (first, second) == (0x64, 0xff9b) || first & 0xffc0 == 0xfec0;
            !(other
                || own.contains(&prefix(&address))
                || address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_or_in_an_own_network_is_not_public() {
        let own = [prefix(&"2001:db8:1:2::3".parse().unwrap())];
        for private in ["127.0.0.1", "10.86.0.1", "192.168.1.1", "172.20.0.1", "100.64.3.4", "169.254.169.254", "::1"] {
            assert!(!is_public(private.parse().unwrap(), &own), "{private}");
        }
        for private in
            ["fd00::1", "fe80::1", "fec0::1", "0.0.0.0", "224.0.0.1", "64:ff9b::1", "2002::1", "2001:db8:1:2::7"]
        {
            assert!(!is_public(private.parse().unwrap(), &own), "{private}");
        }
        for public in ["198.51.100.10", "2001:db8::1", "100.128.0.1"] {
            assert!(is_public(public.parse().unwrap(), &own), "{public}");
        }
    }
}
