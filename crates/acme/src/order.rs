//! One order: names in, certificate out.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};

use crate::challenge::{Challenge, ChallengeError, Laid, Proof};
use crate::dns::Dns;

/// For the authority's own work: looking into the DNS, and issuing.
const WORK: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.3).timeout(Duration::from_secs(180));
/// For all of it. A record may take ten minutes to be shown.
const DEADLINE: Duration = Duration::from_secs(1800);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The DNS does not show what it is to.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// The authority says no, or does not answer.
    #[error("{doing}: {}", told(.source))]
    Acme {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: Box<instant_acme::Error>,
    },
    /// The stored account is damaged.
    #[error("the stored ACME account cannot be used")]
    Account(#[source] serde_json::Error),
    /// It does not offer DNS-01.
    #[error("the ACME server offers no DNS-01 challenge for {name}")]
    NotOffered {
        /// The name.
        name: String,
    },
    /// It looked, and was not content.
    #[error("the ACME server does not accept the proof{reasons}")]
    Invalid {
        /// What it says for each name, behind a colon; empty when it says nothing.
        reasons: String,
    },
    /// It gave something that is none.
    #[error("the certificate that the ACME server gave cannot be read: {what}")]
    Certificate {
        /// What is wrong.
        what: String,
    },
    /// It took too long.
    #[error("the order took longer than {} min", DEADLINE.as_secs() / 60)]
    Deadline,
}

fn told(error: &instant_acme::Error) -> String {
    error.to_string()
}

impl OrderError {
    pub(crate) fn acme(doing: &'static str) -> impl Fn(instant_acme::Error) -> Self {
        move |source| Self::Acme { doing, source: Box::new(source) }
    }

    /// Whether the authority does not know the account: another has to be made.
    pub(crate) fn is_unknown_account(&self) -> bool {
        match self {
            Self::Acme { source, .. } => matches!(
                &**source,
                instant_acme::Error::Api(problem) if problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":accountDoesNotExist"))
            ),
            _ => false,
        }
    }
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

/// Orders a certificate for all of `names`.
pub(crate) async fn order(
    account: &Account,
    names: &[String],
    challenge: &Challenge,
    dns: &Dns,
) -> Result<Issued, OrderError> {
    let mut laid = Vec::new();
    let ordered = tokio::time::timeout(DEADLINE, try_order(account, names, challenge, dns, &mut laid)).await;
    challenge.clean(&laid).await;
    ordered.map_err(|_| OrderError::Deadline)?
}

async fn try_order(
    account: &Account,
    names: &[String],
    challenge: &Challenge,
    dns: &Dns,
    laid: &mut Vec<Laid>,
) -> Result<Issued, OrderError> {
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let ordered = account.new_order(&NewOrder::new(&identifiers)).await;
    let mut order = ordered.map_err(OrderError::acme("ordering the certificate"))?;
    let proofs = proofs(&mut order).await?;
    challenge.lay(dns, &proofs, laid).await?;

    let asking = "asking the ACME server to look into the DNS";
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(OrderError::acme(asking))?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut offered) = authorization.challenge(ChallengeType::Dns01)
        {
            offered.set_ready().await.map_err(OrderError::acme(asking))?;
        }
    }
    match order.poll_ready(&WORK).await {
        Ok(OrderStatus::Invalid) => return Err(OrderError::Invalid { reasons: reasons(&mut order).await }),
        Ok(_) => {}
        Err(error) => {
            let reasons = reasons(&mut order).await;
            if reasons.is_empty() {
                return Err(OrderError::acme("waiting for the ACME server to look into the DNS")(error));
            }
            return Err(OrderError::Invalid { reasons });
        }
    }
    let finishing = "having the certificate issued";
    let key_pem = order.finalize().await.map_err(OrderError::acme(finishing))?;
    let chain_pem = order.poll_certificate(&WORK).await.map_err(OrderError::acme(finishing))?;
    Ok(Issued { chain_pem, key_pem })
}

/// What is to stand in the DNS. Names that the authority still knows proven need nothing.
async fn proofs(order: &mut Order) -> Result<Vec<Proof>, OrderError> {
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(OrderError::acme("reading the order"))?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(offered) = authorization.challenge(ChallengeType::Dns01) else {
            return Err(OrderError::NotOffered { name });
        };
        let value = offered.key_authorization().dns_value();
        proofs.push(Proof { domain: name.trim_start_matches("*.").to_owned(), value });
    }
    Ok(proofs)
}

/// What the authority says of each name that it does not accept.
async fn reasons(order: &mut Order) -> String {
    let mut reasons = String::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        let detail = |problem: &instant_acme::Problem| problem.detail.clone();
        if let Some(detail) = state.challenges.iter().filter_map(|offered| offered.error.as_ref()).find_map(detail) {
            reasons.push_str(&format!("{} {name}: {detail}", if reasons.is_empty() { ":" } else { ";" }));
        }
    }
    reasons
}
