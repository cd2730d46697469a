//! A small internet on one machine, out of network namespaces: for the demo, the end-to-end tests and the benchmarks.
//!
//! ```text
//!                          internet 198.51.100.1
//!             names (*.example.test -> vps, acme.test), ACME server
//!            /                    |                     \
//!   vps 198.51.100.10    isp 198.51.100.130       visitor 203.0.113.5
//!                                 | carrier-grade NAT, drops what comes unasked
//!                        cpe 100.64.0.2
//!                                 | NAT
//!                        home 192.168.1.10
//! ```
//!
//! With [`Topology::HomePublic`] home stands on the internet itself, at 198.51.100.200. [`Topology::Pair`] is no internet but two
//! hosts on one cable, 192.0.2.1 and 192.0.2.2; [`Topology::Alone`] is one host without any.
//!
//! Any host can have a Docker engine of its own ([`Host::start_engine`]), of either version and with a disk that can be full ([`EngineOptions`]); [`Pebble`] is the certificate authority; [`Registry`] gives out images;
//! [`Http`] is a visitor's client; [`Peers`] are newer OpenVPNs than the machine's own, and WireGuard in user space. [`Host::boot`] makes a host
//! a whole installation of Debian with a live systemd ([`System`]).
//! [`packages`] installs what is needed and [`capability`] tells whether the machine lets a lab run at all.
//!
//! Several labs can run side by side: all that a lab has is in namespaces of its own or in a directory of its own, and
//! its host names and addresses mean something only inside. [`Lab::describe`] tells how to look inside.
//!
//! A lab leaves the machine as it was, even when the process that owns it is killed: a guardian process takes it down as
//! soon as its owner has gone. What stays are kernel modules that were loaded for it.
//!
//! ```no_run
//! use lab::{Http, Lab, Topology};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::new(Topology::HomeBehindNat)?;
//! let visitor = lab.host("visitor")?;
//! let reply = Http::new(visitor).get("http://cloud.example.test/")?;
//! println!("{} in {:?}", reply.status, reply.took);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod capability;
mod debian_root;
mod disk;
mod engine;
mod guardian;
mod host;
pub mod http;
pub mod images;
mod lab;
mod newer_docker;
pub mod packages;
mod pebble;
mod peers;
mod process;
mod registry;
mod system;
pub mod topology;
mod wait;

pub use engine::{Engine, EngineOptions, EngineVersion};
pub use host::Host;
pub use http::{Http, Reply};
pub use lab::{CHALLENGES, LABS, Lab};
pub use pebble::Pebble;
pub use peers::Peers;
pub use process::Process;
pub use registry::Registry;
pub use system::System;
pub use topology::Topology;
pub use wait::wait_until;
