//! Installing and upgrading on real engines, by an agent in a process of its own (the example `agent`) that can be killed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod automatic;
#[path = "../common/busybox.rs"]
mod busybox;
mod ghost;
mod install;
mod nextcloud;
mod toy;
