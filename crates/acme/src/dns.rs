//! What the DNS says: the zone of a name, its name servers, and whether they show a record. Always over TCP, which every
//! server speaks (RFC 7766) and nobody can forge from afar.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::{Instant, sleep, timeout};

/// The port of DNS.
pub(crate) const PORT: u16 = 53;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// For one question.
const DEADLINE: Duration = Duration::from_secs(5);
/// Until every server shows a record. Some providers take minutes to carry a change to all of theirs.
const SHOWN_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks at the servers.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// An alias that leads to an alias, and so on; more is a circle.
const MAX_ALIASES: usize = 8;

/// Why the DNS cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The name cannot be one.
    #[error("{name} is no name of the DNS")]
    Name {
        /// The name.
        name: String,
    },
    /// Nobody to ask.
    #[error("there is no name server to ask: /etc/resolv.conf names none, and ingress.dns is empty")]
    NoResolver,
    /// No answer.
    #[error("the name server {server} gives no answer over TCP")]
    Exchange {
        /// Which.
        server: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An answer that is none.
    #[error("the name server {server} answers {code} for {name}")]
    Answer {
        /// Which.
        server: SocketAddr,
        /// What, in the words of the DNS.
        code: String,
        /// What it was asked for.
        name: String,
    },
    /// No zone, or one without servers.
    #[error("the DNS names no zone, or no name servers, for {name}: is the domain registered, and delegated?")]
    NoZone {
        /// The name.
        name: String,
    },
    /// Aliases in a circle.
    #[error("{name} is an alias that leads nowhere")]
    Alias {
        /// The name.
        name: String,
    },
    /// A record that was to be there is not.
    #[error("{servers} did not show the TXT record {name} within {} s", .limit.as_secs())]
    NotShown {
        /// Which servers.
        servers: String,
        /// The record's name.
        name: String,
        /// How long was waited.
        limit: Duration,
    },
}

/// Asks name servers.
#[derive(Debug, Clone)]
pub struct Dns {
    resolvers: Vec<IpAddr>,
    port: u16,
    shown_within: Duration,
}

impl Dns {
    /// Asks these resolvers, or with none those of `/etc/resolv.conf`, where the servers of a zone are, and then those.
    #[must_use]
    pub fn new(resolvers: Vec<IpAddr>) -> Self {
        Self { resolvers, port: PORT, shown_within: SHOWN_WITHIN }
    }

    /// With servers on another port than 53: those of a lab.
    #[must_use]
    pub fn on_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// With another limit than ten minutes for a record to be shown by every server.
    #[must_use]
    pub fn shown_within(self, limit: Duration) -> Self {
        Self { shown_within: limit, ..self }
    }

    /// The name that `name` is an alias of (CNAME), or itself: people delegate challenges to another zone by an alias.
    pub(crate) async fn target(&self, name: &Name) -> Result<Name, DnsError> {
        let mut target = name.clone();
        for _ in 0..MAX_ALIASES {
            let answer = self.resolve(&target, RecordType::CNAME).await?;
            let next = answer.answers.into_iter().find_map(|record| match record.data {
                RData::CNAME(alias) if record.name == target => Some(alias.0),
                _ => None,
            });
            match next {
                Some(next) => target = next,
                None => return Ok(target),
            }
        }
        Err(DnsError::Alias { name: name.to_string() })
    }

    /// The zone that holds `name`.
    pub(crate) async fn zone(&self, name: &Name) -> Result<Name, DnsError> {
        let mut candidate = name.clone();
        while !candidate.is_root() {
            let answer = self.resolve(&candidate, RecordType::SOA).await?;
            let is_own = |record: &hickory_proto::rr::Record| {
                record.record_type() == RecordType::SOA && record.name == candidate
            };
            if answer.answers.iter().any(is_own) {
                return Ok(candidate);
            }
            candidate = candidate.base_name();
        }
        Err(DnsError::NoZone { name: name.to_string() })
    }

    /// Waits until every name server of the zone that answers shows all of `values` at `name`.
    pub(crate) async fn wait_until_shown(&self, zone: &Name, name: &Name, values: &[String]) -> Result<(), DnsError> {
        let servers = self.servers(zone).await?;
        let deadline = Instant::now() + self.shown_within;
        loop {
            let mut behind = Vec::new();
            let mut silent = Vec::new();
            for (server, addresses) in &servers {
                match self.texts(addresses, name).await {
                    Ok(texts) if values.iter().all(|value| texts.contains(value)) => {}
                    Ok(_) => behind.push(server.to_string()),
                    // One server that is away does not keep the authority from asking the others.
                    Err(_) => silent.push(server.to_string()),
                }
            }
            if behind.is_empty() && silent.len() < servers.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let servers = if behind.is_empty() { silent } else { behind }.join(", ");
                return Err(DnsError::NotShown { servers, name: name.to_string(), limit: self.shown_within });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The name servers of a zone, with their addresses.
    async fn servers(&self, zone: &Name) -> Result<Vec<(Name, Vec<IpAddr>)>, DnsError> {
        let answer = self.resolve(zone, RecordType::NS).await?;
        let names: BTreeSet<Name> = answer
            .answers
            .into_iter()
            .filter_map(|record| match record.data {
                RData::NS(server) => Some(server.0),
                _ => None,
            })
            .collect();
        let mut servers = Vec::new();
        for name in names {
            let mut addresses = Vec::new();
            for kind in [RecordType::A, RecordType::AAAA] {
                let Ok(answer) = self.resolve(&name, kind).await else { continue };
                addresses.extend(answer.answers.into_iter().filter_map(|record| record.data.ip_addr()));
            }
            if !addresses.is_empty() {
                servers.push((name, addresses));
            }
        }
        if servers.is_empty() {
            return Err(DnsError::NoZone { name: zone.to_string() });
        }
        Ok(servers)
    }

    /// The texts at a name, by the first of the addresses that answers.
    async fn texts(&self, addresses: &[IpAddr], name: &Name) -> Result<BTreeSet<String>, DnsError> {
        let answer = self.first(addresses, name, RecordType::TXT, false).await?;
        let texts = answer.answers.into_iter().filter_map(|record| match record.data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        });
        Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect())
    }

    async fn resolve(&self, name: &Name, kind: RecordType) -> Result<Message, DnsError> {
        if !self.resolvers.is_empty() {
            return self.first(&self.resolvers, name, kind, true).await;
        }
        // Read each time: a provider may change it.
        let text = tokio::fs::read_to_string(RESOLV_CONF).await.unwrap_or_default();
        self.first(&name_servers(&text), name, kind, true).await
    }

    /// The answer of the first server that gives one.
    async fn first(
        &self,
        servers: &[IpAddr],
        name: &Name,
        kind: RecordType,
        recurse: bool,
    ) -> Result<Message, DnsError> {
        let mut failure = DnsError::NoResolver;
        for server in servers {
            match ask(SocketAddr::new(*server, self.port), name, kind, recurse).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// The name servers that a `resolv.conf` names.
fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    resolv_conf.lines().filter_map(of_line).collect()
}

/// A name as the DNS has it: absolute.
pub(crate) fn absolute(name: &str) -> Result<Name, DnsError> {
    let mut parsed = Name::from_ascii(name).map_err(|_| DnsError::Name { name: name.to_owned() })?;
    parsed.set_fqdn(true);
    Ok(parsed)
}

async fn ask(server: SocketAddr, name: &Name, kind: RecordType, recurse: bool) -> Result<Message, DnsError> {
    let mut question = Message::query();
    question.metadata.recursion_desired = recurse;
    question.add_query(Query::query(name.clone(), kind));
    let failed = |source| DnsError::Exchange { server, source };
    let bytes = question.to_vec().map_err(|error| failed(io::Error::other(error)))?;
    let answer = exchange(server, &bytes).await.map_err(failed)?;
    let answer = Message::from_vec(&answer).map_err(|error| failed(io::Error::other(error)))?;
    if answer.id != question.id {
        return Err(failed(io::Error::other("an answer to another question")));
    }
    match answer.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(DnsError::Answer { server, code: code.to_string(), name: name.to_string() }),
    }
}

/// Sends one message and reads one, within a limit.
pub(crate) async fn exchange(server: impl ToSocketAddrs, message: &[u8]) -> io::Result<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", DEADLINE.as_secs()));
    timeout(DEADLINE, exchange).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_servers_of_a_resolv_conf_are_found() {
        let text = "# nameserver 192.0.2.9\nnameserver 192.0.2.1\n nameserver 2001:db8::1 \nsearch example.com\nnameserver\nnameserver x\n";
        let servers: Vec<String> = name_servers(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(servers, ["192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn names_are_absolute() {
        assert_eq!(absolute("_acme-challenge.example.com").unwrap().to_string(), "_acme-challenge.example.com.");
        assert!(absolute(&"a".repeat(64)).is_err());
    }
}
