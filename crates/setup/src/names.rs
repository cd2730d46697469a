//! What the DNS must say, and what it says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use futures_util::future::join_all;
use hostcheck::found;
use hostcheck::public::{is_public, own_addresses};
use model::{Finding, Grade, Hostname};
use serde::Serialize;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// For a name server to answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// HTTPS, for names to be resolved with.
const HTTPS: u16 = 443;
/// Addresses of the internet, for the kernel to choose a way to; nothing is sent (RFC 5737, RFC 3849).
const SOMEWHERE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Where visitors come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Those from which this host speaks to the internet, as far as visitors can come by them.
    pub(crate) fn own() -> Self {
        let public = |address: IpAddr| is_public(address, &[]).then_some(address);
        let (ipv4, ipv6) = (spoken_from(SOMEWHERE.0.into()), spoken_from(SOMEWHERE.1.into()));
        Self {
            ipv4: ipv4.and_then(public).and_then(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
            ipv6: ipv6.and_then(public).and_then(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            }),
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4 == Some(address),
            IpAddr::V6(address) => self.ipv6 == Some(address),
        }
    }
}

/// The IPv4 address by which this host is reached, as far as it can know: the one from which it speaks to the internet, if that one is
/// public. Nothing is sent.
#[must_use]
pub fn public_ipv4() -> Option<Ipv4Addr> {
    Addresses::own().ipv4
}

/// Reads an IPv4 address by which others can come.
///
/// # Errors
/// In words for people.
pub fn reachable_ipv4(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| format!("{text:?} is no IPv4 address, as in 203.0.113.7"))?;
    let nobody = address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast();
    if nobody { Err(format!("nobody comes by {address}: say the public address of this host")) } else { Ok(address) }
}

/// The address that packets to somewhere would have.
fn spoken_from(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, HTTPS)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// A kind of DNS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RecordKind {
    /// Of an IPv4 address.
    A,
    /// Of an IPv6 address.
    #[serde(rename = "AAAA")]
    Aaaa,
}

impl RecordKind {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
        }
    }

    fn is_of(self, address: &IpAddr) -> bool {
        (self == Self::A) == address.is_ipv4()
    }
}

/// A record that the DNS must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The name: `*.` before the domain, or the domain itself.
    pub name: String,
    /// Its kind.
    pub kind: RecordKind,
    /// What it must say.
    pub value: IpAddr,
    /// What the DNS says now, of the name's addresses of this kind.
    pub found: Vec<IpAddr>,
    /// Whether the DNS says that, and nothing else but this host's further addresses: who comes by another comes to somebody else.
    pub right: bool,
}

impl Record {
    fn new(name: &str, kind: RecordKind, value: IpAddr, found: &[IpAddr], own: &[IpAddr]) -> Self {
        let found: Vec<IpAddr> = found.iter().copied().filter(|address| kind.is_of(address)).collect();
        let right = !found.is_empty() && found.iter().all(|address| *address == value || own.contains(address));
        Self { name: name.to_owned(), kind, value, found, right }
    }
}

/// The records for a domain, with what the DNS says now; those of the domain itself only where it is needed. And addresses of
/// a kind that this host has none of.
pub(crate) async fn records(domain: &Hostname, apex: bool, to: &Addresses) -> (Vec<Record>, Vec<Stray>) {
    // A name that nobody has asked for yet, whose absence no name server remembers.
    let label = format!("look-{:08x}.{domain}", rand::random::<u32>());
    let mut names = vec![(format!("*.{domain}"), label)];
    if apex {
        names.push((domain.to_string(), domain.to_string()));
    }
    let looks = names.into_iter().map(|(name, asked)| async move { (name, addresses(&asked).await) });
    let values = [
        to.ipv4.map(|address| (RecordKind::A, IpAddr::from(address))),
        to.ipv6.map(|address| (RecordKind::Aaaa, IpAddr::from(address))),
    ];
    let looked = join_all(looks).await;
    let own = own_addresses();
    let has = |address: &IpAddr| values.iter().flatten().any(|(kind, _)| kind.is_of(address));
    let (mut records, mut strays) = (Vec::new(), Vec::new());
    for (name, found) in &looked {
        records.extend(values.iter().flatten().map(|&(kind, value)| Record::new(name, kind, value, found, &own)));
        let of_no_kind = found.iter().filter(|address| !has(address));
        strays.extend(of_no_kind.map(|&address| Stray { name: name.clone(), address }));
    }
    (records, strays)
}

/// An address of a name that is not this host's, nor of a kind that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stray {
    name: String,
    address: IpAddr,
}

async fn addresses(name: &str) -> Vec<IpAddr> {
    // With a dot at its end no search domain of this host comes into it.
    let whole = format!("{name}.");
    let looked = timeout(DEADLINE, lookup_host((whole.as_str(), HTTPS))).await;
    let Ok(Ok(addresses)) = looked else { return Vec::new() };
    // What /etc/hosts calls itself is not what the DNS says.
    let addresses = addresses.map(|address| address.ip().to_canonical()).filter(|address| !address.is_loopback());
    let mut addresses: Vec<IpAddr> = addresses.collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// A finding for each record and each stray one. With `later` a wrong one does not keep anything from going on.
pub(crate) fn findings(records: &[Record], strays: &[Stray], later: bool) -> Vec<Finding> {
    let bad = if later { Grade::Doubtful } else { Grade::Bad };
    let stray = |Stray { name, address }: &Stray| {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        let text = format!("{name} leads to {address}, too ({kind}), and this host has no public address of that kind");
        let next = format!("at your DNS provider: take the {kind} record of {name} away, or visitors come there");
        self::found("DNS", bad, text, Some(&next))
    };
    let finding = |record: &Record| {
        let Record { name, kind, value, found, right } = record;
        let kind = kind.as_str();
        if *right {
            return self::found("DNS", Grade::Good, format!("{name} {kind} {value}"), None);
        }
        let listed: Vec<String> = found.iter().map(ToString::to_string).collect();
        let text = match listed[..] {
            [] => format!("{name} has no {kind} record, as far as this host's name servers know"),
            _ => format!("{name} leads to {}, which is not this host alone", listed.join(" and ")),
        };
        let next = format!("at your DNS provider: {name}  {kind}  {value}");
        self::found("DNS", bad, text, Some(&next))
    };
    records.iter().map(finding).chain(strays.iter().map(stray)).collect()
}

/// Where this host has no public address of its own.
pub(crate) fn public_address(to: &Addresses, own: &Addresses) -> Finding {
    let what = "address";
    match (to.ipv4, to.ipv6) {
        (None, _) => found(
            what,
            Grade::Bad,
            "this host has no public IPv4 address of its own: its provider translates, or there is none",
            Some("say the one by which visitors and home come, as in --address 203.0.113.7"),
        ),
        (Some(address), _) if !own.has(address.into()) => {
            found(what, Grade::Good, format!("{address}, translated by the provider"), None)
        }
        (ipv4, ipv6) => {
            let both: Vec<String> =
                [ipv4.map(|a| a.to_string()), ipv6.map(|a| a.to_string())].into_iter().flatten().collect();
            found(what, Grade::Good, both.join(" and "), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(found: &[&str]) -> Record {
        let found: Vec<IpAddr> = found.iter().map(|text| text.parse().unwrap()).collect();
        let own: [IpAddr; 2] = ["203.0.113.7", "203.0.113.9"].map(|text| text.parse().unwrap());
        Record::new("*.example.com", RecordKind::A, own[0], &found, &own)
    }

    #[test]
    fn a_record_is_right_when_it_leads_here_and_nowhere_else() {
        // A second address of this host does no harm.
        for right in [record(&["203.0.113.7"]), record(&["203.0.113.9", "203.0.113.7"])] {
            assert!(right.right, "{right:?}");
        }
        let wrong = [record(&[]), record(&["203.0.113.8"]), record(&["203.0.113.7", "203.0.113.8"])];
        assert!(wrong.iter().all(|record| !record.right));
        let grades = |later| findings(&wrong, &[], later).iter().map(|finding| finding.grade).collect::<Vec<_>>();
        assert_eq!(grades(false), [Grade::Bad; 3]);
        assert_eq!(grades(true), [Grade::Doubtful; 3]);
        let next = findings(&wrong[..1], &[], false).remove(0).next.unwrap();
        assert_eq!(next, "at your DNS provider: *.example.com  A  203.0.113.7");
        let stray = Stray { name: "example.com".into(), address: "2001:db8::1".parse().unwrap() };
        let told = findings(&[], &[stray], false).remove(0);
        assert!(told.grade == Grade::Bad && told.next.unwrap().contains("take the AAAA record of example.com away"));
    }

    #[test]
    fn an_address_behind_translation_must_be_said() {
        let none = Addresses { ipv4: None, ipv6: None };
        assert_eq!(public_address(&none, &none).grade, Grade::Bad);
        // Home comes by IPv4 alone.
        let ipv6 = Addresses { ipv4: None, ipv6: Some("2001:db8::7".parse().unwrap()) };
        assert_eq!(public_address(&ipv6, &ipv6).grade, Grade::Bad);
        let said = Addresses { ipv4: Some("203.0.113.7".parse().unwrap()), ipv6: None };
        assert!(public_address(&said, &none).text.contains("translated"));
        assert_eq!(public_address(&said, &said).text, "203.0.113.7");
    }

    #[test]
    fn an_address_is_one_that_others_reach() {
        assert!(reachable_ipv4("203.0.113.7").is_ok());
        for wrong in ["", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "2001:db8::1", "host"] {
            assert!(reachable_ipv4(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn every_name_needs_a_record_of_each_family() {
        let to = Addresses { ipv4: Some("203.0.113.7".parse().unwrap()), ipv6: Some("2001:db8::7".parse().unwrap()) };
        // The top-level domain "invalid" has no names (RFC 6761).
        let domain: Hostname = "example.invalid".parse().unwrap();
        let names = |(records, _): (Vec<Record>, Vec<Stray>)| -> Vec<(String, &str)> {
            records.into_iter().map(|record| (record.name, record.kind.as_str())).collect()
        };
        let both = names(records(&domain, true, &to).await);
        let expected = [
            ("*.example.invalid", "A"),
            ("*.example.invalid", "AAAA"),
            ("example.invalid", "A"),
            ("example.invalid", "AAAA"),
        ];
        assert_eq!(both, expected.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(records(&domain, false, &to).await.0.len(), 2);
    }
}
