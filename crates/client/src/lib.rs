//! A client of any OpenVPN server, from a profile file.
//!
//! [`Plan::read`] turns a profile into the settings of a tunnel and of the host, and tells what stands in the way or is
//! passed over, each with its line. [`run`] connects, applies to the host what the server pushes for as long as the
//! connection lives, and undoes it.
#![forbid(unsafe_code)]

#[cfg(null_cipher)]
compile_error!("without encryption there is nothing but a measurement");

mod files;
mod login;
mod network;
mod plan;
mod run;
mod unused;

pub use login::LoginError;
pub use plan::{Plan, PlanError};
pub use run::{Options, RunError, run};
pub use tunnel::Offload;
