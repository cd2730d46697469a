//! Laying into the DNS what the certificate authority looks for, and taking it away again.

use hickory_proto::rr::Name;
use tracing::warn;

use crate::command::{Command, CommandError};
use crate::dns::{Dns, DnsError, absolute};
use crate::update::{Update, UpdateError};

/// How the DNS is changed.
#[derive(Debug, Clone)]
pub enum Challenge {
    /// By a command of the operator's own.
    Command(Command),
    /// By dynamic updates.
    Update(Update),
}

/// Why the DNS does not show what it is to.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// The DNS itself.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The command.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The update.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// What is to stand in the DNS for one of the names of an order. A name and its wildcard have theirs at the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// The name, without the `*.` of a wildcard.
    pub(crate) domain: String,
    /// The text.
    pub(crate) value: String,
}

/// A record that may be in the DNS.
#[derive(Debug)]
pub(crate) struct Laid {
    zone: Name,
    name: Name,
    value: String,
}

impl Challenge {
    /// Lays every proof and waits until the zone's servers show them. What was laid is added to `laid`, also when a later one
    /// fails.
    pub(crate) async fn lay(&self, dns: &Dns, proofs: &[Proof], laid: &mut Vec<Laid>) -> Result<(), ChallengeError> {
        for proof in proofs {
            let name = dns.target(&absolute(&format!("_acme-challenge.{}", proof.domain))?).await?;
            let zone = match self {
                Self::Update(update) if update.zone().is_some() => update.zone().cloned(),
                _ => None,
            };
            let zone = match zone {
                Some(zone) => zone,
                None => dns.zone(&name).await?,
            };
            // Also one that failed may have come half way.
            laid.push(Laid { zone: zone.clone(), name: name.clone(), value: proof.value.clone() });
            match self {
                Self::Command(command) => command.present(&plain(&name), &proof.value).await?,
                Self::Update(update) => update.add(&zone, &name, &proof.value).await?,
            }
        }
        for (index, record) in laid.iter().enumerate() {
            if laid[..index].iter().any(|before| before.name == record.name) {
                continue;
            }
            let values: Vec<String> =
                laid.iter().filter(|other| other.name == record.name).map(|other| other.value.clone()).collect();
            dns.wait_until_shown(&record.zone, &record.name, &values).await?;
        }
        Ok(())
    }

    /// Takes away what was laid. What stays does no harm: it proves nothing a second time.
    pub(crate) async fn clean(&self, laid: &[Laid]) {
        for Laid { zone, name, value } in laid {
            let done = match self {
                Self::Command(command) => command.cleanup(&plain(name), value).await.map_err(ChallengeError::from),
                Self::Update(update) => update.remove(zone, name, value).await.map_err(ChallengeError::from),
            };
            if let Err(error) = done {
                warn!(%name, error = chain(&error), "a TXT record of a certificate's order stays in the DNS");
            }
        }
    }
}

/// A name as people write it: without the dot at its end.
fn plain(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
