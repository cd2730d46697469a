//! What the DNS must say, and what it says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use futures_util::future::join_all;
use hostcheck::found;
use hostcheck::public::is_public;
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
    /// What the DNS says now.
    pub found: Vec<IpAddr>,
}

impl Record {
    /// Whether the DNS says that, and nothing else: who comes by another address comes to somebody else.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.found.contains(&self.value) && self.found.iter().all(|found| *found == self.value)
    }
}

/// The records for a domain, with what the DNS says now; those of the domain itself only where it is needed.
pub(crate) async fn records(domain: &Hostname, apex: bool, to: &Addresses) -> Vec<Record> {
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
    let of_name = |(name, found): &(String, Vec<IpAddr>)| -> Vec<Record> {
        let record = |&(kind, value): &(RecordKind, IpAddr)| {
            let found = found.iter().copied().filter(|address| kind.is_of(address)).collect();
            Record { name: name.clone(), kind, value, found }
        };
        values.iter().flatten().map(record).collect()
    };
    looked.iter().flat_map(of_name).collect()
}

async fn addresses(name: &str) -> Vec<IpAddr> {
    let looked = timeout(DEADLINE, lookup_host((name, HTTPS))).await;
    let Ok(Ok(addresses)) = looked else { return Vec::new() };
    let mut addresses: Vec<IpAddr> = addresses.map(|address| address.ip().to_canonical()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// A finding for each record. With `later` a wrong one does not keep anything from going on.
pub(crate) fn findings(records: &[Record], later: bool) -> Vec<Finding> {
    let bad = if later { Grade::Doubtful } else { Grade::Bad };
    let finding = |record: &Record| {
        let Record { name, kind, value, found } = record;
        let kind = kind.as_str();
        if record.is_right() {
            return self::found("DNS", Grade::Good, format!("{name} {kind} {value}"), None);
        }
        let listed: Vec<String> = found.iter().map(ToString::to_string).collect();
        let text = match listed[..] {
            [] => format!("{name} has no {kind} record yet"),
            _ => format!("{name} leads to {}, which is not this host alone", listed.join(" and ")),
        };
        let next = format!("at your DNS provider: {name}  {kind}  {value}");
        self::found("DNS", bad, text, Some(&next))
    };
    records.iter().map(finding).collect()
}

/// Where this host has no public address of its own.
pub(crate) fn public_address(to: &Addresses, own: &Addresses) -> Finding {
    let what = "address";
    match (to.ipv4, to.ipv6) {
        (None, None) => found(
            what,
            Grade::Bad,
            "this host has no public address of its own: its provider translates",
            Some("say the address by which visitors come, as in --address 203.0.113.7"),
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
        let found = found.iter().map(|address| address.parse().unwrap()).collect();
        Record { name: "*.example.com".into(), kind: RecordKind::A, value: "203.0.113.7".parse().unwrap(), found }
    }

    #[test]
    fn a_record_is_right_when_it_leads_here_and_nowhere_else() {
        assert!(record(&["203.0.113.7"]).is_right());
        let wrong = [record(&[]), record(&["203.0.113.8"]), record(&["203.0.113.7", "203.0.113.8"])];
        for record in &wrong {
            assert!(!record.is_right());
        }
        let grades = |later| findings(&wrong, later).iter().map(|finding| finding.grade).collect::<Vec<_>>();
        assert_eq!(grades(false), [Grade::Bad; 3]);
        assert_eq!(grades(true), [Grade::Doubtful; 3]);
        let next = findings(&wrong[..1], false).remove(0).next.unwrap();
        assert_eq!(next, "at your DNS provider: *.example.com  A  203.0.113.7");
    }

    #[test]
    fn an_address_behind_translation_must_be_said() {
        let none = Addresses { ipv4: None, ipv6: None };
        assert_eq!(public_address(&none, &none).grade, Grade::Bad);
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
        let names = |records: Vec<Record>| -> Vec<(String, &str)> {
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
        assert_eq!(records(&domain, false, &to).await.len(), 2);
    }
}
