//! Dynamic updates (RFC 2136), signed by TSIG (RFC 8945), over TCP.

use std::io;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::update_message::{append, delete_by_rdata};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordSet};

use crate::dns::{PORT, exchange};
use crate::tsig::TsigKey;

/// Seconds that a challenge may be kept by caches: none should.
const TTL: u32 = 60;

/// Why an update was not made.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The zone does not hold the name.
    #[error("the zone {zone} does not hold {name}: correct `zone`, or leave it out")]
    Zone {
        /// The zone.
        zone: String,
        /// The name.
        name: String,
    },
    /// No answer, or nonsense.
    #[error("the name server {server} took no update")]
    Exchange {
        /// Which.
        server: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("the name server {server} refuses the update of {zone}: {code}{}", advice(.code))]
    Refused {
        /// Which.
        server: String,
        /// The zone.
        zone: String,
        /// What it answers, in the words of the DNS.
        code: ResponseCode,
    },
    /// Somebody else answered.
    #[error("the answer of the name server {server} is not signed by the key")]
    Unsigned {
        /// Which.
        server: String,
    },
}

fn advice(code: &ResponseCode) -> &'static str {
    match code {
        ResponseCode::NotAuth => {
            " (it does not know the key, its secret or algorithm is another, a clock is wrong, or it is not this zone's primary)"
        }
        ResponseCode::Refused => " (the key may not change TXT records there)",
        ResponseCode::NotZone => " (the name is not in that zone)",
        _ => "",
    }
}

/// A name server that takes updates.
#[derive(Debug, Clone)]
pub struct Update {
    server: String,
    zone: Option<Name>,
    key: TsigKey,
}

impl Update {
    /// Updates are sent to `server`: a name or an address, with a port where it is not 53. `zone` where it is not to be found
    /// out.
    ///
    /// # Errors
    /// When the zone is no name.
    pub fn new(server: &str, zone: Option<&str>, key: TsigKey) -> Result<Self, crate::DnsError> {
        Ok(Self { server: server.to_owned(), zone: zone.map(crate::dns::absolute).transpose()?, key })
    }

    /// The zone, where it was told.
    pub(crate) fn zone(&self) -> Option<&Name> {
        self.zone.as_ref()
    }

    pub(crate) async fn add(&self, zone: &Name, name: &Name, value: &str) -> Result<(), UpdateError> {
        self.send(zone, append(self.set(zone, name, value)?, zone.clone(), false, false)).await
    }

    pub(crate) async fn remove(&self, zone: &Name, name: &Name, value: &str) -> Result<(), UpdateError> {
        self.send(zone, delete_by_rdata(self.set(zone, name, value)?, zone.clone(), false)).await
    }

    fn set(&self, zone: &Name, name: &Name, value: &str) -> Result<RecordSet, UpdateError> {
        if !zone.zone_of(name) {
            return Err(UpdateError::Zone { zone: zone.to_string(), name: name.to_string() });
        }
        let data = RData::TXT(TXT::new(vec![value.to_owned()]));
        Ok(Record::from_rdata(name.clone(), TTL, data).into())
    }

    async fn send(&self, zone: &Name, mut message: Message) -> Result<(), UpdateError> {
        let failed = |source| UpdateError::Exchange { server: self.server.clone(), source };
        let nonsense = |error: String| failed(io::Error::other(error));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let verifier = message.finalize(&self.key.signer, now).map_err(|error| nonsense(error.to_string()))?;
        let bytes = message.to_vec().map_err(|error| nonsense(error.to_string()))?;
        let answer = match port(&self.server) {
            Some(_) => exchange(self.server.as_str(), &bytes).await,
            None => exchange((self.server.as_str(), PORT), &bytes).await,
        };
        let answer = answer.map_err(failed)?;
        let parsed = Message::from_vec(&answer).map_err(|error| nonsense(error.to_string()))?;
        if parsed.response_code != ResponseCode::NoError {
            let server = self.server.clone();
            return Err(UpdateError::Refused { server, zone: zone.to_string(), code: parsed.response_code });
        }
        let signed = verifier.is_some_and(|mut verifier| verifier.verify(&answer).is_ok());
        if signed { Ok(()) } else { Err(UpdateError::Unsigned { server: self.server.clone() }) }
    }
}

/// The port behind a name or an address; none behind a bare IPv6 address.
fn port(server: &str) -> Option<u16> {
    if server.parse::<IpAddr>().is_ok() {
        return None;
    }
    server.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        for bare in ["192.0.2.1", "2001:db8::53", "ns.example.com"] {
            assert_eq!(port(bare), None, "{bare}");
        }
        for with in ["192.0.2.1:5300", "[2001:db8::53]:5300", "ns.example.com:5300"] {
            assert_eq!(port(with), Some(5300), "{with}");
        }
    }
}
