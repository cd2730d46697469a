//! What the profile and the server together want of the host.

use std::net::IpAddr;

use hostnet::session::{self, Address, Redirect, Settings, Via};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use profile::{Gateway4, Gateway6, Profile};
use tunnel::{Configured, Ifconfig, RouteGateway};

/// What is set for a connection over `device`. What the profile names comes behind what the server pushes.
pub(crate) fn settings(profile: &Profile, pushed: &Configured, device: &str) -> Settings {
    let mut routes: Vec<_> = if profile.route_noexec { Vec::new() } else { routes(profile, pushed) };
    routes.dedup();
    Settings {
        device: device.to_owned(),
        mtu: pushed.mtu.into(),
        addresses: addresses(pushed),
        gateway4: pushed.gateway.or(profile.route_gateway4),
        server: pushed.server(),
        routes,
        metric: pushed.route_metric.or(profile.route_metric),
        redirect: if profile.route_noexec { None } else { redirect(profile, pushed) },
        block_ipv6: profile.block_ipv6 || pushed.block_ipv6,
        dns: dns(profile, pushed),
    }
}

fn addresses(pushed: &Configured) -> Vec<Address> {
    let v4 = pushed.ipv4.and_then(|ifconfig| match ifconfig {
        Ifconfig::Subnet(prefix) => {
            let net = Ipv4Net::new(prefix.address, prefix.prefix_len).ok()?;
            Some(Address { net: net.into(), peer: None })
        }
        Ifconfig::PointToPoint { local, remote } => {
            Some(Address { net: Ipv4Net::from(local).into(), peer: Some(remote) })
        }
    });
    let v6 = pushed.ipv6.and_then(|ifconfig| {
        let net = Ipv6Net::new(ifconfig.address, ifconfig.prefix_len).ok()?;
        Some(Address { net: net.into(), peer: None })
    });
    v4.into_iter().chain(v6).collect()
}

fn routes(profile: &Profile, pushed: &Configured) -> Vec<session::Route> {
    let route = |destination: IpNet, via: Via, metric: Option<u32>| session::Route { destination, via, metric };
    let pushed4 = pushed.routes.iter().filter_map(|pushed| {
        let net = Ipv4Net::new(pushed.prefix.address, pushed.prefix.prefix_len).ok()?;
        Some(route(net.trunc().into(), via(pushed.gateway), pushed.metric))
    });
    let pushed6 = pushed.routes_ipv6.iter().filter_map(|pushed| {
        let net = Ipv6Net::new(pushed.prefix.address, pushed.prefix.prefix_len).ok()?;
        Some(route(net.trunc().into(), via(pushed.gateway), pushed.metric))
    });
    let own4 = profile.routes4.iter().map(|own| {
        let way = match own.gateway {
            Gateway4::Vpn => Via::Tunnel,
            Gateway4::Net => Via::Past,
            Gateway4::Address(address) => Via::Router(address.into()),
        };
        route(own.network.into(), way, own.metric)
    });
    let own6 = profile.routes6.iter().map(|own| {
        let way = match own.gateway {
            Gateway6::Vpn => Via::Tunnel,
            Gateway6::Net => Via::Past,
            Gateway6::Address(address) => Via::Router(address.into()),
        };
        route(own.network.into(), way, own.metric)
    });
    pushed4.chain(own4).chain(pushed6).chain(own6).collect()
}

fn via<A: Into<IpAddr>>(gateway: RouteGateway<A>) -> Via {
    match gateway {
        RouteGateway::Vpn => Via::Tunnel,
        RouteGateway::Net => Via::Past,
        RouteGateway::Address(address) => Via::Router(address.into()),
    }
}

/// The flags of both: as in openvpn, an option in the file and the pushed one add up.
fn redirect(profile: &Profile, pushed: &Configured) -> Option<Redirect> {
    let own = profile.redirect_gateway.map(|own| Redirect {
        ipv4: own.ipv4,
        ipv6: own.ipv6,
        def1: own.def1,
        local: own.local,
        autolocal: own.autolocal,
        bypass_dhcp: own.bypass_dhcp,
        bypass_dns: own.bypass_dns,
        block_local: own.block_local,
    });
    let theirs = pushed.redirect.map(|pushed| Redirect {
        ipv4: pushed.ipv4,
        ipv6: pushed.ipv6,
        def1: pushed.def1,
        local: pushed.local,
        autolocal: pushed.autolocal,
        bypass_dhcp: pushed.bypass_dhcp,
        bypass_dns: pushed.bypass_dns,
        block_local: pushed.block_local,
    });
    let (Some(a), Some(b)) = (own, theirs) else { return own.or(theirs) };
    Some(Redirect {
        ipv4: a.ipv4 || b.ipv4,
        ipv6: a.ipv6 || b.ipv6,
        def1: a.def1 || b.def1,
        local: a.local || b.local,
        autolocal: a.autolocal || b.autolocal,
        bypass_dhcp: a.bypass_dhcp || b.bypass_dhcp,
        bypass_dns: a.bypass_dns || b.bypass_dns,
        block_local: a.block_local || b.block_local,
    })
}

/// The server's name servers go before those of the profile; `dns` goes before `dhcp-option` in either.
fn dns(profile: &Profile, pushed: &Configured) -> session::Dns {
    let mut dns = session::Dns { servers: Vec::new(), search: pushed.dns.search_domains.clone() };
    dns.servers.extend(pushed.dns.servers.iter().map(|server| session::DnsServer {
        addresses: server.addresses.iter().map(|address| (address.address, address.port)).collect(),
        resolve_domains: server.resolve_domains.clone(),
        dnssec: server.dnssec.map(|dnssec| match dnssec {
            tunnel::Dnssec::Yes => session::Dnssec::Yes,
            tunnel::Dnssec::Optional => session::Dnssec::Optional,
            tunnel::Dnssec::No => session::Dnssec::No,
        }),
        transport: server.transport.map_or(session::DnsTransport::Plain, |transport| match transport {
            tunnel::DnsTransport::Plain => session::DnsTransport::Plain,
            tunnel::DnsTransport::Tls => session::DnsTransport::Tls,
            tunnel::DnsTransport::Https => session::DnsTransport::Https,
        }),
        sni: server.sni.clone(),
    }));
    dns.servers.extend(profile.dns.servers.values().map(|server| session::DnsServer {
        addresses: server.addresses.iter().map(|address| (address.address, address.port)).collect(),
        resolve_domains: server.resolve_domains.clone(),
        dnssec: server.dnssec.map(|dnssec| match dnssec {
            profile::Dnssec::Yes => session::Dnssec::Yes,
            profile::Dnssec::Optional => session::Dnssec::Optional,
            profile::Dnssec::No => session::Dnssec::No,
        }),
        transport: server.transport.map_or(session::DnsTransport::Plain, |transport| match transport {
            profile::DnsTransport::Plain => session::DnsTransport::Plain,
            profile::DnsTransport::Tls => session::DnsTransport::Tls,
            profile::DnsTransport::Https => session::DnsTransport::Https,
        }),
        sni: server.sni.clone(),
    }));
    let mut older = session::DnsServer::default();
    for option in &profile.dhcp_options {
        match option {
            profile::DhcpOption::Dns(address) => older.addresses.push((*address, None)),
            profile::DhcpOption::Domain(name) | profile::DhcpOption::DomainSearch(name) => {
                dns.search.push(name.clone());
            }
        }
    }
    if !older.addresses.is_empty() {
        dns.servers.push(older);
    }
    dns.search.extend(profile.dns.search_domains.iter().cloned());
    let mut seen = std::collections::HashSet::new();
    dns.search.retain(|name| seen.insert(name.clone()));
    dns
}
