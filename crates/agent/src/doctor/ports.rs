//! Ports from outside: ours as the opposite host sees them, and its as we do.

use std::collections::BTreeMap;

use control::InspectorError;
use model::{Finding, Grade, HostId, Port, PortReach, PortService, Protocol, Seen};

use super::{bound, found};

/// Whose ports were looked at, and by whom.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look<'a> {
    /// Ours, by the opposite host.
    ByPeer(&'a HostId),
    /// The opposite host's, by us.
    AtPeer(&'a HostId),
}

/// A finding for each port.
pub(super) fn findings(look: Look<'_>, ports: Vec<PortReach>) -> Vec<Finding> {
    judged(look, ports, bound::listens)
}

fn judged(look: Look<'_>, ports: Vec<PortReach>, listens: impl Fn(Port) -> Option<bool>) -> Vec<Finding> {
    let mut by_port: BTreeMap<(PortService, Port), Vec<PortReach>> = BTreeMap::new();
    for port in ports {
        by_port.entry((port.service, port.port)).or_default().push(port);
    }
    let answers = |wanted: PortService| {
        let answering = by_port.iter().filter(|((service, _), seen)| *service == wanted && is_reached(seen));
        answering.map(|((_, port), _)| port.over).collect::<Vec<_>>()
    };
    let tunnel = answers(PortService::Tunnel);
    let each = by_port.iter().map(|((service, port), seen)| {
        let name = match look {
            Look::ByPeer(_) => format!("port {port}"),
            Look::AtPeer(host) => format!("{host} {port}"),
        };
        let (by, at) = match look {
            Look::ByPeer(host) => (format!("from outside, as seen by {host}"), String::new()),
            Look::AtPeer(host) => ("from here".to_owned(), format!(" at {host}")),
        };
        if is_reached(seen) {
            return found(&name, Grade::Good, format!("reachable {by}: {}", told(seen)), None);
        }
        let grade = match service {
            PortService::Https if port.over == Protocol::Tcp => Grade::Bad,
            PortService::Tunnel if tunnel.is_empty() => Grade::Bad,
            _ => Grade::Doubtful,
        };
        let text = format!("not reachable {by}: {}; {}", told(seen), means(*service, port.over, &tunnel));
        let number = port.number;
        let sockets = if port.over == Protocol::Tcp { "-tlnp" } else { "-ulnp" };
        let next = if seen.iter().all(|one| one.seen == Seen::NoAddress) {
            match service {
                PortService::Tunnel => "is the name in tunnel.remotes right, and does a name server answer?".to_owned(),
                _ => "set the DNS records of the public names: `agentctl doctor` at home names them".to_owned(),
            }
        } else if seen.iter().all(|one| one.seen == Seen::NoWay) {
            "that host has no route there: is it connected to the internet?".to_owned()
        } else {
            match look {
                Look::ByPeer(_) if listens(*port) == Some(false) => match service {
                    PortService::Tunnel => format!("nothing on this host listens on {port}: restart the agent"),
                    _ => format!(
                        "nothing on this host listens on {port}: `agentctl status` and `docker logs cloudathome-caddy` say why"
                    ),
                },
                Look::ByPeer(_) => format!(
                    "let {port} in, at the provider's firewall and at this host's own; `ss {sockets} sport = :{number}` shows what listens"
                ),
                Look::AtPeer(host) => format!(
                    "let {port} in{at}: its provider's firewall, its own; `agentctl doctor` on {host} tells whether something listens there"
                ),
            }
        };
        found(&name, grade, text, Some(&next))
    });
    each.collect()
}

/// Whether it answers wherever there is a way to it.
fn is_reached(seen: &[PortReach]) -> bool {
    let mut looked = seen.iter().filter(|one| one.seen != Seen::NoWay).peekable();
    looked.peek().is_some() && looked.all(|one| one.seen == Seen::Answers)
}

/// What was seen at each address.
fn told(seen: &[PortReach]) -> String {
    let mut each: Vec<String> = Vec::new();
    let any_way = seen.iter().any(|one| one.seen != Seen::NoWay);
    for one in seen.iter().filter(|one| !any_way || one.seen != Seen::NoWay) {
        let what = match one.seen {
            Seen::Answers => "answers",
            Seen::Refused => "refuses",
            Seen::Silent => "does not answer",
            Seen::NoWay => "cannot be got to",
            Seen::NoAddress => "no public address is known",
        };
        each.push(one.address.map_or_else(|| what.to_owned(), |address| format!("{address} {what}")));
    }
    each.join(", ")
}

/// What follows when it is not reached; `tunnel` are the protocols by which the tunnel is.
fn means(service: PortService, over: Protocol, tunnel: &[Protocol]) -> &'static str {
    match (service, over) {
        (PortService::Http, _) => "who types a name without https:// gets nothing, and certificates have one way less",
        (PortService::Https, Protocol::Tcp) => "visitors get nothing",
        (PortService::Https, Protocol::Udp) => "browsers do without HTTP/3",
        (PortService::Tunnel, _) if tunnel.is_empty() => "the tunnel cannot connect",
        (PortService::Tunnel, Protocol::Udp) => "the tunnel can go over TCP only, which is slower",
        (PortService::Tunnel, Protocol::Tcp) => {
            "the tunnel has no other way where UDP is blocked, and no home can join by a code"
        }
    }
}

/// Why the opposite host does not say how it sees us.
pub(super) fn not_told(host: &HostId, error: &InspectorError) -> Finding {
    let check = "ports";
    let text = |why: &str| format!("not looked at from outside: {why}");
    match error {
        InspectorError::Unknown => {
            let next = format!("upgrade {host}");
            found(check, Grade::Doubtful, text(&format!("{host} is of a release that cannot")), Some(&next))
        }
        InspectorError::Forbidden(why) => {
            let next = format!("`agentctl doctor` on {host} shows what it sees from there");
            found(check, Grade::Doubtful, text(why), Some(&next))
        }
        InspectorError::Away(why) => {
            let next = format!("`agentctl doctor` on {host} shows what it sees from there");
            found(check, Grade::Doubtful, text(why), Some(&next))
        }
        other => found(check, Grade::Doubtful, text(&format!("{host} did not answer: {other}")), Some("try again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(service: PortService, number: u16, over: Protocol, address: &str, seen: Seen) -> PortReach {
        let address = Some(address.parse().unwrap()).filter(|_| seen != Seen::NoAddress);
        PortReach { service, port: Port { number, over }, address, seen }
    }

    fn host() -> HostId {
        "attic".parse().unwrap()
    }

    fn grades(findings: &[Finding]) -> Vec<(&str, Grade)> {
        findings.iter().map(|finding| (finding.check.as_str(), finding.grade)).collect()
    }

    #[test]
    fn each_port_has_a_finding_and_what_is_closed_a_next_step() {
        use Protocol::{Tcp, Udp};
        let vps = "198.51.100.10";
        let ports = vec![
            seen(PortService::Tunnel, 1194, Udp, vps, Seen::Silent),
            seen(PortService::Tunnel, 1194, Tcp, vps, Seen::Answers),
            seen(PortService::Http, 80, Tcp, vps, Seen::Refused),
            seen(PortService::Https, 443, Tcp, vps, Seen::Silent),
            // A home without IPv6.
            seen(PortService::Https, 443, Udp, "2001:db8::1", Seen::NoWay),
            seen(PortService::Https, 443, Udp, vps, Seen::Answers),
        ];
        let findings = judged(Look::ByPeer(&host()), ports.clone(), |port| Some(port.number != 80));
        assert_eq!(
            grades(&findings),
            [
                ("port 1194/udp", Grade::Doubtful),
                ("port 1194/tcp", Grade::Good),
                ("port 80/tcp", Grade::Doubtful),
                ("port 443/udp", Grade::Good),
                ("port 443/tcp", Grade::Bad),
            ]
        );
        assert!(findings[0].text.contains("198.51.100.10 does not answer; the tunnel can go over TCP only"));
        assert_eq!(findings[1].text, "reachable from outside, as seen by attic: 198.51.100.10 answers");
        assert!(findings[2].next.as_ref().unwrap().contains("nothing on this host listens on 80/tcp"));
        assert!(findings[4].next.as_ref().unwrap().contains("let 443/tcp in, at the provider's firewall"));
        let theirs = judged(Look::AtPeer(&host()), ports, |_| Some(false));
        assert_eq!(theirs[4].check, "attic 443/tcp");
        assert!(theirs[4].next.as_ref().unwrap().contains("`agentctl doctor` on attic"), "{theirs:?}");
    }

    #[test]
    fn a_tunnel_without_any_way_is_bad_and_an_unknown_address_is_told() {
        let tunnel = |over, sees| seen(PortService::Tunnel, 1194, over, "198.51.100.10", sees);
        let ports = vec![tunnel(Protocol::Udp, Seen::Silent), tunnel(Protocol::Tcp, Seen::Refused)];
        let findings = judged(Look::ByPeer(&host()), ports, |_| Some(true));
        assert!(findings.iter().all(|finding| finding.grade == Grade::Bad), "{findings:?}");
        let nowhere = judged(Look::AtPeer(&host()), vec![tunnel(Protocol::Udp, Seen::NoAddress)], |_| None);
        assert!(nowhere[0].text.contains("no public address is known"), "{nowhere:?}");
        assert!(nowhere[0].next.as_ref().unwrap().contains("tunnel.remotes"), "{nowhere:?}");
        // One of two addresses is closed: half of the visitors get nothing.
        let https = |address, sees| seen(PortService::Https, 443, Protocol::Tcp, address, sees);
        let ports = vec![https("198.51.100.10", Seen::Answers), https("2001:db8::1", Seen::Silent)];
        let half = judged(Look::ByPeer(&host()), ports, |_| Some(true));
        assert!(half[0].text.contains("198.51.100.10 answers, 2001:db8::1 does not answer"), "{half:?}");
        assert_eq!(half[0].grade, Grade::Bad);
    }
}
