//! The whole product in a lab: [`Cloud`] sets it up, [`check`] proves that it does its main job. The demo and the
//! end-to-end tests stand on both.
#![forbid(unsafe_code)]

mod check;
mod cloud;
pub mod hosts;
mod memory;
pub mod outage;
pub mod proofs;
pub mod room;
pub mod stock;
pub mod streams;
pub mod sync;

pub use check::check;
pub use cloud::{Agent, Binaries, Cloud, Dialer, HOSTNAME, More, identity};
pub use memory::{Memory, forget_peak};
