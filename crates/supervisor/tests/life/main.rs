//! The supervisor with real engines: what becomes of containers when things go wrong, and what people are told of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod away;
mod boot;
#[path = "../common/busybox.rs"]
mod busybox;
mod databases;
mod definitions;
mod disk;
mod foreign;
mod hangs;
mod host;
mod loops;
mod pulls;
mod services;
mod watched;
