//! The protobuf control channel: generated types and their checked conversion to `model`.
//!
//! Messages from the network are only trusted after `TryFrom`: it checks names, addresses, enumerations and sizes
//! and says which field is wrong.
#![forbid(unsafe_code)]

/// Version 1 of the control protocol, generated from `cloudathome/control/v1/control.proto`, which documents it.
#[expect(missing_docs, clippy::all, clippy::allow_attributes, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("cloudathome.control.v1");
}

/// The protocol of the oldest release that this one gets along with, for tests of exactly that.
#[cfg(feature = "baseline")]
#[expect(missing_docs, clippy::all, clippy::allow_attributes, reason = "generated code")]
pub mod baseline {
    include!(concat!(env!("OUT_DIR"), "/baseline/cloudathome.control.v1.rs"));
}

mod convert;

pub use convert::{InvalidMessage, bounded, events};

/// The version of the protocol that this code speaks, sent in `Hello`.
pub const PROTOCOL: u32 = 1;

/// The largest message either end accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// Events in one message, at most.
pub const MAX_EVENTS: usize = 64;
