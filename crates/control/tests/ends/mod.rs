//! An edge called vps and a home called attic, as their agents run them, over real TLS on loopback.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part")]

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

use control::{
    ControlTls, EdgeEvent, EdgeOutput, EdgeService, HomeEvent, HomeLink, HomeOutput, Introduction, Opposite,
    RenewalClient, Rights, Successors, bind_on_device, serve_edge,
};
use model::{Role, RoleUri};
use pki::{Ca, Validity};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fake;
use crate::raw::tls;

/// An authority.
pub(crate) fn ca() -> Ca {
    Ca::generate("test", Validity::from_now(Validity::CA)).unwrap()
}

/// What an agent of this release says of itself.
pub(crate) fn introduction(role: Role, name: &str) -> Introduction {
    Introduction {
        host: name.parse().unwrap(),
        role,
        agent_version: "9.9.9".into(),
        boot_id: "boot".into(),
        keeps_to_ingress_options: true,
        keeps_to_calls: true,
    }
}

/// The edge; it ends when it is dropped.
pub(crate) struct Edge {
    pub(crate) ca: Ca,
    pub(crate) tls: ControlTls,
    pub(crate) address: SocketAddrV4,
    pub(crate) state: watch::Sender<EdgeOutput>,
    pub(crate) events: mpsc::Receiver<EdgeEvent>,
    pub(crate) stop: CancellationToken,
    _stops: DropGuard,
}

/// An edge of a new authority that takes attic.
pub(crate) fn edge() -> Edge {
    edge_of(ca(), None)
}

/// An edge of this authority that takes attic.
pub(crate) fn edge_of(ca: Ca, successors: Option<Arc<dyn Successors>>) -> Edge {
    let stop = CancellationToken::new();
    let (state, receiver) = watch::channel(EdgeOutput::default());
    let (sender, events) = mpsc::channel(16);
    let listener = bind_on_device("127.0.0.1:0".parse().unwrap(), "lo").unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("an IPv4 listener") };
    let (offered, _, _) = fake::offered("vps", Role::Edge);
    let mut service =
        EdgeService::new(introduction(Role::Edge, "vps"), receiver, sender, Opposite::none("").0, stop.clone());
    if let Some(successors) = successors {
        service = service.with_successors(successors);
    }
    let home = RoleUri { role: Role::Home, name: "attic".parse().unwrap() };
    let tls = tls(&ca, Role::Edge, "vps");
    tokio::spawn(serve_edge(listener, tls.clone(), home, service, offered, Rights::Operate, stop.clone()));
    Edge { ca, tls, address, state, events, _stops: stop.clone().drop_guard(), stop }
}

/// A home.
pub(crate) struct Home {
    pub(crate) state: watch::Sender<HomeOutput>,
    pub(crate) events: mpsc::Receiver<HomeEvent>,
    pub(crate) renewals: RenewalClient,
    _up: watch::Sender<bool>,
}

/// A home that calls `address`, until the edge ends.
pub(crate) fn home(edge: &Edge, address: SocketAddrV4, tls: ControlTls) -> Home {
    let (state, receiver) = watch::channel(HomeOutput::default());
    let (sender, events) = mpsc::channel(16);
    let (up, tunnel_up) = watch::channel(true);
    let link = HomeLink {
        us: introduction(Role::Home, "attic"),
        edge: RoleUri { role: Role::Edge, name: "vps".parse().unwrap() },
        address,
        device: "lo".into(),
        tls,
        state: receiver,
        tunnel_up,
        events: sender,
        way: Opposite::none("").0,
        offered: fake::offered("attic", Role::Home).0,
        may: Rights::Inspect,
        stop: edge.stop.clone(),
    };
    let renewals = link.renewals();
    tokio::spawn(link.run());
    Home { state, events, renewals, _up: up }
}
