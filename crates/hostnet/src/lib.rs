//! Makes links, addresses and routes match a wanted state.
//!
//! [`Netlink::apply`] is given everything that is wanted at once, reads what the kernel has, and changes only what
//! differs; calling it again changes nothing. [`guard`] keeps neighbours on the other links away from the tunnel
//! addresses, and [`Netlink::collision`] finds out before set-up whether a subnet is in use already.
//! [`session`] applies for a time what a server pushes to a client, and undoes it.
//!
//! [`connections`] finds the connections that this host has to an address, and ends those that are asked to end.
//!
//! A tunnel address is put on its link as a /32, so that it can be bound as long as the link exists, while packets
//! to the rest of the subnet have a way only when a route to the link is wanted. Without one they meet the subnet's
//! `unreachable` route and fail at once, instead of leaving through the default route.
#![forbid(unsafe_code)]

mod collision;
pub mod connections;
pub mod docker_user;
pub mod guard;
mod netlink;
mod plan;
mod program;
pub mod session;
mod state;

pub use collision::Collision;
pub use netlink::{Netlink, NetlinkError};
pub use state::{Change, LinkState, Route, Target, Wanted};
