//! The `.ovpn` profile, without I/O.
//!
//! [`Profile::parse`] reads what people have from their provider or their company and tells everything that stands in
//! the way at once: line, option, reason. [`DeviceProfile`] writes the profile with which a phone or a laptop joins us,
//! in the subset that OpenVPN 2.x, OpenVPN Connect, Tunnelblick, NetworkManager and the Android client all take.
//!
//! An option that we do not act on falls into one of these classes:
//!
//! | class | outcome |
//! |---|---|
//! | ignored: changes nothing that matters here (`persist-key`, `user`, `log`) | a [`Note`] |
//! | unsupported: its meaning would be lost (`dev tap`, `http-proxy`, `fragment`) | [`ProblemKind::Unsupported`] |
//! | refused: runs a program, loads a library, or belongs to a server | [`ProblemKind::Refused`] |
//! | unknown | [`ProblemKind::Unknown`] |
//!
//! `setenv opt NAME …`, `ignore-unknown-option NAME` and `setenv FORWARD_COMPATIBLE 1` turn unknown options into notes,
//! the first two also unsupported ones; refused options stay refused.
#![forbid(unsafe_code)]

mod connection;
mod device;
mod known;
mod lines;
mod network;
mod parse;
mod problem;
mod settings;

pub use connection::{Bind, ConnectRetry, Connection, KeyDirection, Mssfix, Protocol, Wrapping};
pub use device::{DeviceIdentity, DeviceNetwork, DeviceProfile, DeviceProfileError, DeviceRemote, DeviceWrapping};
pub use network::{DhcpOption, DnsSettings, Route4, Route6};
pub use ovpn::push::{DnsAddress, DnsServer, DnsTransport, Dnssec, FilterAction, PullFilter, Redirect, RouteGateway};
pub use problem::{Note, Problem, ProblemKind, ProfileErrors};
pub use settings::{
    AuthRetry, CertProfile, Challenge, Cipher, Crl, DataChannel, Digest, Framing, Inactive, NameCheck, Ping, Profile,
    Rekey, ReplayWindow, Source, TlsSettings, TlsVersion, Topology, UserPass,
};
