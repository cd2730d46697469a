//! What the profile and the server together want of the host.

use std::net::IpAddr;

use hostnet::session::{self, Address, Redirect, Settings, Via};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use profile::Profile;
use tunnel::{Configured, DevicePath, DnsServer, DnsTransport, Dnssec, Ifconfig, RouteGateway};

/// What is set for a connection over `device`, whose packets go by `path`. What the profile names comes behind what the
/// server pushes.
pub(crate) fn settings(profile: &Profile, pushed: &Configured, device: &str, path: DevicePath) -> Settings {
    let mut routes: Vec<_> = if profile.route_noexec { Vec::new() } else { routes(profile, pushed) };
    routes.dedup();
    Settings {
        device: device.to_owned(),
        mtu: pushed.mtu.into(),
        tx_queue_len: path.tx_queue_len(),
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
    let own4 = profile.routes4.iter().map(|own| route(own.network.into(), via(own.gateway), own.metric));
    let own6 = profile.routes6.iter().map(|own| route(own.network.into(), via(own.gateway), own.metric));
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
    let both = profile.redirect_gateway.into_iter().chain(pushed.redirect);
    both.fold(None, |sum: Option<Redirect>, flags| {
        let sum = sum.unwrap_or_default();
        Some(Redirect {
            ipv4: sum.ipv4 || flags.ipv4,
            ipv6: sum.ipv6 || flags.ipv6,
            def1: sum.def1 || flags.def1,
            local: sum.local || flags.local,
            autolocal: sum.autolocal || flags.autolocal,
            bypass_dhcp: sum.bypass_dhcp || flags.bypass_dhcp,
            bypass_dns: sum.bypass_dns || flags.bypass_dns,
            block_local: sum.block_local || flags.block_local,
        })
    })
}

fn in_order<'a>(servers: impl Iterator<Item = &'a DnsServer>) -> Vec<session::DnsServer> {
    // What has no address is no server.
    let mut servers: Vec<&DnsServer> = servers.filter(|server| !server.addresses.is_empty()).collect();
    servers.sort_by_key(|server| server.priority);
    servers.into_iter().map(dns_server).collect()
}

fn dns_server(server: &DnsServer) -> session::DnsServer {
    session::DnsServer {
        addresses: server.addresses.iter().map(|address| (address.address, address.port)).collect(),
        resolve_domains: server.resolve_domains.clone(),
        dnssec: server.dnssec.map(|dnssec| match dnssec {
            Dnssec::Yes => session::Dnssec::Yes,
            Dnssec::Optional => session::Dnssec::Optional,
            Dnssec::No => session::Dnssec::No,
        }),
        transport: server.transport.map_or(session::DnsTransport::Plain, |transport| match transport {
            DnsTransport::Plain => session::DnsTransport::Plain,
            DnsTransport::Tls => session::DnsTransport::Tls,
            DnsTransport::Https => session::DnsTransport::Https,
        }),
        sni: server.sni.clone(),
    }
}

/// Servers by their numbers, of the same number the pushed one first; then those of the profile's `dhcp-option`.
fn dns(profile: &Profile, pushed: &Configured) -> session::Dns {
    let servers = in_order(pushed.dns.servers.iter().chain(profile.dns.servers.values()));
    let mut dns = session::Dns { servers, search: pushed.dns.search_domains.clone() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_put_servers_of_its_own_before_those_of_the_push() {
        let profile = Profile::parse(
            "client\ndev tun\nremote vpn.example.com\n<ca>\nx\n</ca>\nauth-user-pass\ndns server -1 address 192.0.2.1\n\
             dns server 1 address 192.0.2.3\ndns server 5 dnssec yes\n",
        )
        .unwrap();
        let server = |priority, address: [u8; 4]| DnsServer {
            priority,
            addresses: vec![tunnel::DnsAddress { address: address.into(), port: None }],
            ..DnsServer::default()
        };
        let pushed = [server(0, [192, 0, 2, 2]), server(1, [192, 0, 2, 9])];
        let servers = in_order(pushed.iter().chain(profile.dns.servers.values()));
        let last = |server: &session::DnsServer| server.addresses[0].0.to_string();
        assert_eq!(servers.iter().map(last).collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.2", "192.0.2.9", "192.0.2.3"]);
    }
}
