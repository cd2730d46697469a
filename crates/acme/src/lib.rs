//! Certificates of public names by the DNS-01 challenge of ACME (RFC 8555), wildcard ones among them.
//!
//! [`Keeper`] keeps one certificate in force: it orders, stores and renews it, and says how that goes. What the certificate
//! authority wants to see in the DNS is laid there by a [`Challenge`]: a command of the operator's own, or dynamic updates
//! (RFC 2136) signed by TSIG. The authority is asked to look when every name server of the zone shows it ([`Dns`]).
#![forbid(unsafe_code)]

mod account;
mod challenge;
mod command;
mod dns;
mod http;
mod keeper;
mod order;
mod schedule;
mod tsig;
mod update;

pub use challenge::{Challenge, ChallengeError};
pub use command::{Command, CommandError};
pub use dns::{Dns, DnsError};
pub use http::{RootsError, time_of};
pub use keeper::{Failure, InForce, Keeper, OpenError, Plan, Status};
pub use order::OrderError;
pub use tsig::{KeyError, TsigKey};
pub use update::{Update, UpdateError};
