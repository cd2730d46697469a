//! Where the public names lead.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use model::{Finding, Grade, HostStatus, Role};
use tokio::net::lookup_host;
use tokio::time::timeout;

use hostcheck::found;
use hostcheck::public::{is_public, own_addresses};

/// For a name server to answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// HTTPS, for names to be resolved with.
const HTTPS: u16 = 443;

/// Whether the public names lead to the edge. It knows its own addresses, and home the one to which it has a tunnel.
pub(super) async fn names(status: &HostStatus) -> Vec<Finding> {
    let (own, remote) = match status.role {
        Role::Edge => (own_addresses(), None),
        Role::Home | Role::Device => match status.tunnel.remote {
            Some(remote) => (Vec::new(), Some(remote.ip().to_canonical())),
            None => return Vec::new(),
        },
    };
    let judge = |hostname: &str, addresses| match remote {
        Some(edge) => name(hostname, addresses, edge),
        None => at_edge(hostname, addresses, &own),
    };
    let judge = &judge;
    let mut names: Vec<_> = status.services.iter().filter_map(|service| service.hostname.clone()).collect();
    names.sort();
    names.dedup();
    let looks = names.into_iter().map(|hostname| async move {
        let looked = timeout(DEADLINE, lookup_host((hostname.as_str(), HTTPS))).await;
        let addresses = match looked {
            Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip().to_canonical()).collect::<Vec<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no name server answers within {} s", DEADLINE.as_secs())),
        };
        judge(hostname.as_str(), addresses)
    });
    join_all(looks).await
}

/// The addresses of a name, or why it has none.
type Found = Result<Vec<IpAddr>, String>;

/// A name as the edge sees it, whose own addresses are these. An IPv4 address that is not among them can be one that its provider
/// translates; of IPv6 nobody does.
fn at_edge(hostname: &str, addresses: Found, own: &[IpAddr]) -> Finding {
    let own: Vec<IpAddr> = own.iter().copied().filter(|address| is_public(*address, &[])).collect();
    let own_of = |like: &IpAddr| own.iter().find(|address| address.is_ipv4() == like.is_ipv4());
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(reason) => {
            let next = "set an A record to this host's address; `*.DOMAIN` covers all but the domain itself";
            return found("DNS", Grade::Bad, format!("{hostname} has no address: {reason}"), Some(next));
        }
    };
    let elsewhere = |address: &&IpAddr| !own.contains(address) && (address.is_ipv6() || own_of(address).is_some());
    let record = |address: &IpAddr| if address.is_ipv4() { "A" } else { "AAAA" };
    if let Some(address) = addresses.iter().find(elsewhere) {
        let (record, which) = (record(address), own_of(address));
        let next = which.map_or_else(
            || format!("take its {record} record away: this host has no such address"),
            |own| format!("set its {record} record to {own}"),
        );
        let text = format!(
            "{hostname} leads to {address} ({record}), which is not this host: who comes that way gets something else"
        );
        return found("DNS", Grade::Doubtful, text, Some(&next));
    }
    let mut listed: Vec<String> = addresses.iter().map(|address| format!("{address} ({})", record(address))).collect();
    listed.sort();
    listed.dedup();
    found("DNS", Grade::Good, format!("{hostname} leads to {}", listed.join(" and ")), None)
}

/// A name as home sees it.
fn name(hostname: &str, addresses: Found, edge: IpAddr) -> Finding {
    let record = if edge.is_ipv4() { "A" } else { "AAAA" };
    let next = format!("set its {record} record to {edge}; `*.DOMAIN` covers all but the domain itself");
    match addresses {
        Err(reason) => found("DNS", Grade::Bad, format!("{hostname} has no address: {reason}"), Some(&next)),
        Ok(addresses) if addresses.contains(&edge) => {
            let mut also: Vec<_> = addresses.iter().filter(|address| address.is_ipv4() != edge.is_ipv4()).collect();
            also.dedup();
            let also: Vec<String> = also.into_iter().map(|address| format!(", and to {address}")).collect();
            found("DNS", Grade::Good, format!("{hostname} leads to the edge, {edge}{}", also.concat()), None)
        }
        // Where the edge is by the other family is not known here.
        Ok(addresses) if addresses.iter().all(|address| address.is_ipv4() != edge.is_ipv4()) => found(
            "DNS",
            Grade::Good,
            format!("{hostname} has an address; the tunnel goes to the edge by another family"),
            None,
        ),
        Ok(addresses) => {
            let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let text = format!("{hostname} leads to {}, and the tunnel to the edge at {edge}", listed.join(" and "));
            found("DNS", Grade::Doubtful, text, Some(&next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_against_where_the_tunnel_goes() {
        let edge: IpAddr = "203.0.113.7".parse().unwrap();
        let grade = |addresses| name("cloud.example.com", addresses, edge).grade;
        assert_eq!(grade(Ok(vec!["2001:db8::7".parse().unwrap(), edge])), Grade::Good);
        assert_eq!(grade(Ok(vec!["198.51.100.1".parse().unwrap()])), Grade::Doubtful);
        assert_eq!(grade(Ok(vec!["2001:db8::7".parse().unwrap()])), Grade::Good);
        assert_eq!(grade(Err("no such name".into())), Grade::Bad);
    }

    #[test]
    fn an_edge_knows_which_addresses_are_its_own() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let own = ips(&["127.0.0.1", "203.0.113.7", "2001:db8::7", "10.86.0.1"]);
        let judged = |addresses: &[&str], own: &[IpAddr]| at_edge("cloud.example.com", Ok(ips(addresses)), own);
        let both = judged(&["203.0.113.7", "2001:db8::7"], &own);
        assert!(both.grade == Grade::Good && both.text.contains("2001:db8::7 (AAAA)"), "{both:?}");
        let old = judged(&["203.0.113.7", "2001:db8::8"], &own);
        assert!(old.grade == Grade::Doubtful && old.next.unwrap().contains("AAAA record to 2001:db8::7"));
        assert_eq!(judged(&["198.51.100.1"], &own).grade, Grade::Doubtful);
        // Behind the provider's translation the public address is nowhere to be seen; IPv6 is not translated.
        let private = ips(&["10.0.0.4"]);
        assert_eq!(judged(&["203.0.113.7"], &private).grade, Grade::Good);
        let none = judged(&["203.0.113.7", "2001:db8::7"], &private);
        assert!(none.grade == Grade::Doubtful && none.next.unwrap().contains("take its AAAA record away"));
        assert_eq!(at_edge("cloud.example.com", Err("no such name".into()), &own).grade, Grade::Bad);
    }
}
