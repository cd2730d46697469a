//! From what is wanted and what the host has to the steps between them. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::settings::{Address, Redirect, Route, Settings, Via};

/// The two halves of IPv4.
const HALVES4: [Ipv4Net; 2] =
    [Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 1), Ipv4Net::new_assert(Ipv4Addr::new(128, 0, 0, 0), 1)];
/// All of IPv6 that is in use on the internet or in private networks, as stock openvpn cuts it.
const PARTS6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 3),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 4),
    Ipv6Net::new_assert(Ipv6Addr::new(0x3000, 0, 0, 0, 0, 0, 0, 0), 4),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
];
/// What the kernel gives to IPv6 routes without a metric.
const USUAL_METRIC6: u32 = 1024;

/// What the host has before anything is changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The IPv4 default route.
    pub(super) default4: Option<DefaultRoute>,
    /// The way of the IPv6 default route.
    pub(super) default6: Option<Way>,
    /// The way to the server.
    pub(super) server: Option<Way>,
    /// IPv4 networks on the link of the default route.
    pub(super) local4: Vec<Ipv4Net>,
    /// Destinations and metrics of all routes that are there.
    pub(super) routes: BTreeSet<(IpNet, u32)>,
    /// Present DNS servers.
    pub(super) name_servers: Vec<IpAddr>,
}

/// Where packets leave the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The next router, if there is one between.
    pub(super) gateway: Option<IpAddr>,
    /// The link.
    pub(super) device: String,
    /// The router is on the link although no network there has its address.
    pub(super) onlink: bool,
}

/// A default route, with all it takes to bring it back.
#[derive(Clone, Debug)]
pub(super) struct DefaultRoute {
    pub(super) way: Way,
    /// The kernel's own message.
    pub(super) message: Vec<u8>,
}

/// The steps in their order, and what cannot be done or need not be.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) notes: Vec<String>,
}

/// One change of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Set the MTU and the queue of the tunnel's link and let it be up.
    Link { mtu: u32, tx_queue_len: u32 },
    /// Put an address on it.
    Address(Address),
    /// Take the default route away, whose message this is.
    RemoveDefault(Vec<u8>),
    /// Add a route.
    Route(RouteSpec),
}

/// A route as it is set and taken away again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RouteSpec {
    pub(super) destination: IpNet,
    pub(super) gateway: Option<IpAddr>,
    /// The link; none leaves it to the kernel, by the gateway.
    pub(super) device: Option<String>,
    pub(super) metric: Option<u32>,
    /// Senders get an error at once.
    pub(super) unreachable: bool,
    /// The gateway is on the link although no network there has its address.
    #[serde(default)]
    pub(super) onlink: bool,
}

impl RouteSpec {
    /// The metric that it has in the kernel.
    pub(super) fn metric(&self) -> u32 {
        let usual = if self.destination.addr().is_ipv6() { USUAL_METRIC6 } else { 0 };
        // The kernel takes 0 for "the usual" with IPv6 too.
        self.metric.filter(|&metric| metric != 0).unwrap_or(usual)
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unreachable = if self.unreachable { "unreachable " } else { "" };
        write!(f, "route {unreachable}{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if self.onlink {
            write!(f, " onlink")?;
        }
        match self.metric {
            Some(metric) => write!(f, " metric {metric}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { mtu, tx_queue_len } => write!(f, "device up, mtu {mtu}, queue length {tx_queue_len}"),
            Self::Address(Address { net, peer: None }) => write!(f, "address {net}"),
            Self::Address(Address { net, peer: Some(peer) }) => write!(f, "address {} peer {peer}", net.addr()),
            Self::RemoveDefault(_) => write!(f, "the default route taken away for the time of the connection"),
            Self::Route(route) => write!(f, "{route}"),
        }
    }
}

/// The steps that give the host what is wanted.
pub(super) fn plan(settings: &Settings, facts: &Facts) -> Plan {
    let mut planner = Planner { settings, facts, plan: Plan::default(), taken: facts.routes.clone() };
    planner.plan.steps.push(Step::Link { mtu: settings.mtu, tx_queue_len: settings.tx_queue_len });
    planner.plan.steps.extend(settings.addresses.iter().copied().map(Step::Address));
    planner.bypass_server();
    if let Some(redirect) = settings.redirect {
        planner.redirect4(redirect);
    }
    for route in &settings.routes {
        planner.route(route);
    }
    if settings.redirect.is_some_and(|redirect| redirect.ipv6) {
        for part in PARTS6 {
            planner.through_tunnel(part.into(), settings.metric);
        }
    }
    planner.plan
}

/// A route that keeps packets to `server` out of the tunnel, if they have a way past it.
pub(super) fn bypass(server: IpAddr, way: &Way) -> RouteSpec {
    RouteSpec {
        destination: server.into(),
        gateway: way.gateway,
        device: Some(way.device.clone()),
        metric: None,
        unreachable: false,
        onlink: way.onlink,
    }
}

/// Whether what is wanted leads packets to `server` into the tunnel, unless a route of its own keeps them out.
pub(super) fn swallows(settings: &Settings, server: IpAddr) -> bool {
    let redirected = settings.redirect.is_some_and(|redirect| match server {
        IpAddr::V4(_) => redirect.ipv4,
        IpAddr::V6(server) => redirect.ipv6 && PARTS6.iter().any(|part| part.contains(&server)),
    });
    let routed = |route: &Route| {
        let inside = match route.via {
            Via::Tunnel => true,
            Via::Past => false,
            Via::Router(router) => router.is_ipv6(),
        };
        inside && route.destination.contains(&server)
    };
    redirected || settings.routes.iter().any(routed)
}

struct Planner<'a> {
    settings: &'a Settings,
    facts: &'a Facts,
    plan: Plan,
    /// Destinations and metrics that have a route.
    taken: BTreeSet<(IpNet, u32)>,
}

impl Planner<'_> {
    fn note(&mut self, note: impl Into<String>) {
        self.plan.notes.push(note.into());
    }

    /// Packets of the tunnel itself must not enter it.
    fn bypass_server(&mut self) {
        let (settings, server) = (self.settings, self.settings.server);
        // With redirect-gateway and redirect-private stock openvpn always does this over IPv4.
        let asked = settings.redirect.is_some() && server.is_ipv4();
        if !asked && !swallows(settings, server) {
            return;
        }
        let Some(way) = &self.facts.server else {
            return self.note(format!("no way to the server {server} is known, so none past the tunnel can be kept"));
        };
        let redirect = settings.redirect.unwrap_or_default();
        let local = redirect.local || (redirect.autolocal && way.gateway.is_none());
        if !local && way.device != "lo" && way.device != settings.device {
            self.add(bypass(server, way));
        }
    }

    fn redirect4(&mut self, redirect: Redirect) {
        if redirect.bypass_dhcp {
            self.note("redirect-gateway bypass-dhcp changes nothing on Linux");
        }
        let default = self.facts.default4.as_ref();
        if (redirect.bypass_dns || redirect.block_local) && default.is_none() {
            self.note("there is no IPv4 default route past which DNS or the local network could be led");
        }
        if let Some(DefaultRoute { way, .. }) = default {
            if redirect.bypass_dns {
                self.bypass_name_servers(way);
            }
            if redirect.block_local {
                self.block_local(way);
            }
        }
        if !redirect.ipv4 {
            return;
        }
        if !self.settings.addresses.iter().any(|address| address.net.addr().is_ipv4()) {
            return self.note("IPv4 is not redirected: the server gave no IPv4 address");
        }
        if redirect.def1 {
            for half in HALVES4 {
                self.through_tunnel(half.into(), None);
            }
            return;
        }
        let everything = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into();
        if let Some(default) = default {
            self.plan.steps.push(Step::RemoveDefault(default.message.clone()));
            self.taken.remove(&(everything, 0));
        }
        self.through_tunnel(everything, None);
    }

    /// Routes to the present DNS servers, where they are not in the local network anyway.
    fn bypass_name_servers(&mut self, way: &Way) {
        for server in &self.facts.name_servers {
            if let IpAddr::V4(address) = server
                && !address.is_loopback()
                && !self.facts.local4.iter().any(|net| net.contains(address))
            {
                self.add(bypass(*server, way));
            }
        }
    }

    /// Leads the local network into the tunnel by two halves, which are more specific than itself.
    fn block_local(&mut self, way: &Way) {
        if let Some(router) = way.gateway {
            self.add(bypass(router, way));
        }
        for net in &self.facts.local4 {
            let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten().take(2);
            for half in halves {
                self.through_tunnel(half.into(), None);
            }
        }
    }

    fn route(&mut self, route: &Route) {
        let metric = route.metric.or(self.settings.metric);
        let destination = route.destination.trunc();
        let past = |way: &Way| RouteSpec { metric, ..bypass(IpAddr::from(Ipv4Addr::UNSPECIFIED), way) };
        match (route.via, destination) {
            (Via::Past, IpNet::V4(_)) => match &self.facts.default4 {
                Some(default) => self.add(RouteSpec { destination, ..past(&default.way) }),
                None => self.note(format!("no route to {destination}: there is no IPv4 default route to follow")),
            },
            (Via::Past, IpNet::V6(_)) => match &self.facts.default6 {
                Some(way) => self.add(RouteSpec { destination, ..past(way) }),
                None => self.note(format!("no route to {destination}: there is no IPv6 default route to follow")),
            },
            (Via::Router(router @ IpAddr::V4(_)), IpNet::V4(_)) => {
                self.add(RouteSpec {
                    destination,
                    gateway: Some(router),
                    device: None,
                    metric,
                    unreachable: false,
                    onlink: false,
                });
            }
            (Via::Tunnel | Via::Router(_), _) => self.through_tunnel(destination, metric),
        }
    }

    fn through_tunnel(&mut self, destination: IpNet, metric: Option<u32>) {
        let settings = self.settings;
        let has = |v6: bool| settings.addresses.iter().any(|address| address.net.addr().is_ipv6() == v6);
        let v6 = matches!(destination, IpNet::V6(_));
        if v6 && settings.block_ipv6 {
            let gateway = None;
            return self.add(RouteSpec {
                destination,
                gateway,
                device: None,
                metric,
                unreachable: true,
                onlink: false,
            });
        }
        if !has(v6) {
            let family = if v6 { "IPv6" } else { "IPv4" };
            return self.note(format!("no route to {destination}: the server gave no {family} address"));
        }
        // Over IPv6 there is nobody to ask for on a TUN device.
        let peer = settings.addresses.iter().find_map(|address| address.peer);
        let gateway = settings.gateway4.or(peer).filter(|_| !v6).map(IpAddr::from);
        let device = Some(settings.device.clone());
        self.add(RouteSpec { destination, gateway, device, metric, unreachable: false, onlink: false });
    }

    fn add(&mut self, route: RouteSpec) {
        if self.taken.insert((route.destination, route.metric())) {
            self.plan.steps.push(Step::Route(route));
        } else {
            self.note(format!("{} is there already and stays as it is", route.destination));
        }
    }
}

#[cfg(test)]
mod tests;
