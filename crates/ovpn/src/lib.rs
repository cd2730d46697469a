//! The OpenVPN protocol without I/O: bytes, time and randomness in, bytes and events out.
//!
//! [`client::Client`] and [`server::Server`] are the two roles; both are driven through [`endpoint::Endpoint`], whose
//! module tells the order of calls. TLS is a byte pipe that the driver provides. Nothing here reads a clock, opens a
//! socket or allocates per data packet, but for those from peer to peer.
//!
//! Spoken: UDP and TCP, control packets wrapped by tls-auth, tls-crypt, tls-crypt-v2 or not at all, key method 2 with
//! keys from the TLS exporter or the PRF, AES-GCM and ChaCha20-Poly1305, AES-CBC where it is named, push, ping, exit notices, renewal of keys by
//! either side, dynamic tls-crypt, float, the epoch format. Framings of compression are
//! understood, but nothing is ever compressed.
#![forbid(unsafe_code)]

pub mod auth_token;
pub mod batch;
pub mod client;
pub mod data;
pub mod drops;
pub mod endpoint;
pub mod key_method2;
pub mod keys;
pub mod login;
pub mod mss;
pub mod negotiation;
pub mod packet;
pub mod path_mtu;
pub mod protection;
pub mod push;
pub mod replay;
pub mod server;
pub mod static_key;
pub mod tls_crypt_v2;
pub mod underlay;
pub mod wrap;

mod channel;
mod cookie;
mod inner;
mod live;
mod reliability;
