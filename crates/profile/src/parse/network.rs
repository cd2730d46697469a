//! Routes and name resolution.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use ovpn::push::{DnsAddress, DnsServer, DnsTransport, Dnssec, FilterAction, PullFilter, RouteGateway};

use super::Reader;
use super::args::{choice, number, seconds};
use crate::lines::Line;
use crate::network::{DhcpOption, Route4, Route6};
use crate::problem::{Fault, shown};

/// Addresses of one DNS server, as in 2.x.
const MAX_DNS_ADDRESSES: usize = 8;

impl Reader {
    /// Whether the option is one of these.
    pub(super) fn network_option(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        let profile = &mut self.profile;
        match line.name.as_str() {
            "route" => profile.routes4.push(route4(line)?),
            "route-ipv6" => profile.routes6.push(route6(line)?),
            "route-gateway" => {
                profile.route_gateway4 = Some(match line.one()? {
                    "dhcp" => return Err(Fault::unsupported("there is no DHCP in the tunnel; remove it")),
                    word => address(word)?,
                });
            }
            "route-ipv6-gateway" => profile.route_gateway6 = Some(address(line.one()?)?),
            "route-metric" => profile.route_metric = Some(line.number(0..=u32::MAX)?),
            "route-delay" => {
                let delay = line.between(0..=2)?.first().map(|word| seconds(word)).transpose()?;
                profile.route_delay = delay.unwrap_or_default();
            }
            "route-noexec" => profile.route_noexec = line.flag()?,
            "route-nopull" => profile.route_nopull = line.flag()?,
            "redirect-gateway" => self.redirect(line, true)?,
            "redirect-private" => self.redirect(line, false)?,
            "block-ipv6" => profile.block_ipv6 = line.flag()?,
            "dhcp-option" => self.dhcp_option(line)?,
            "dns" => self.dns(line)?,
            "pull-filter" => profile.pull_filters.push(pull_filter(line)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Flags of several lines add up.
    fn redirect(&mut self, line: &Line<'_>, default_route: bool) -> Result<(), Fault> {
        let mut redirect = self.profile.redirect_gateway.unwrap_or_default();
        redirect.ipv4 |= default_route;
        for flag in line.some(0)? {
            match flag.as_str() {
                "def1" => redirect.def1 = true,
                "local" => redirect.local = true,
                "autolocal" => redirect.autolocal = true,
                "bypass-dhcp" => redirect.bypass_dhcp = true,
                "bypass-dns" => redirect.bypass_dns = true,
                "block-local" => redirect.block_local = true,
                "ipv6" => redirect.ipv6 = default_route,
                "!ipv4" => redirect.ipv4 = false,
                other => return Err(Fault::malformed(format!("'{}' is no flag of it", shown(other)))),
            }
        }
        self.profile.redirect_gateway = Some(redirect);
        Ok(())
    }

    fn dhcp_option(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let [kind, rest @ ..] = line.between(1..=2)? else { return Ok(()) };
        let value = rest.first().ok_or(Fault::malformed("the value is missing"));
        let option = match kind.as_str() {
            "DNS" | "DNS6" => DhcpOption::Dns(address(value?)?),
            "DOMAIN" | "ADAPTER_DOMAIN_SUFFIX" => DhcpOption::Domain(domain(value?)?),
            "DOMAIN-SEARCH" => DhcpOption::DomainSearch(domain(value?)?),
            other => {
                self.note(line, format!("nothing here takes {}", shown(other)));
                return Ok(());
            }
        };
        self.profile.dhcp_options.push(option);
        Ok(())
    }

    fn dns(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let dns = &mut self.profile.dns;
        match line.some(2)? {
            [what, domains @ ..] if what == "search-domains" => {
                for word in domains {
                    dns.search_domains.push(domain(word)?);
                }
                Ok(())
            }
            [what, id, key, values @ ..] if what == "server" && !values.is_empty() => {
                let priority = number(id, i8::MIN..=i8::MAX)?;
                let server =
                    dns.servers.entry(priority).or_insert_with(|| DnsServer { priority, ..DnsServer::default() });
                dns_server(server, key, values)
            }
            _ => Err(Fault::malformed("write 'dns search-domains NAME …' or 'dns server N KEY VALUE …'")),
        }
    }
}

fn dns_server(server: &mut DnsServer, key: &str, values: &[String]) -> Result<(), Fault> {
    let one = || match values {
        [value] => Ok(value.as_str()),
        _ => Err(Fault::malformed(format!("'{}' takes one value", shown(key)))),
    };
    match key {
        "address" => {
            for value in values {
                server.addresses.push(dns_address(value)?);
            }
            if server.addresses.len() > MAX_DNS_ADDRESSES {
                return Err(Fault::malformed("a server has at most 8 addresses"));
            }
        }
        "resolve-domains" => {
            for value in values {
                server.resolve_domains.push(domain(value)?);
            }
        }
        "dnssec" => {
            let kinds = [("yes", Dnssec::Yes), ("optional", Dnssec::Optional), ("no", Dnssec::No)];
            server.dnssec = Some(choice(one()?, &kinds)?);
        }
        "transport" => {
            let kinds = [("DoH", DnsTransport::Https), ("DoT", DnsTransport::Tls), ("plain", DnsTransport::Plain)];
            server.transport = Some(choice(one()?, &kinds)?);
        }
        "sni" => server.sni = Some(domain(one()?)?),
        other => return Err(Fault::malformed(format!("'{}' is nothing that a DNS server has", shown(other)))),
    }
    Ok(())
}

fn dns_address(word: &str) -> Result<DnsAddress, Fault> {
    if let Ok(address) = word.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(DnsAddress { address, port: None });
    }
    match word.parse::<SocketAddr>() {
        Ok(both) if both.port() > 0 => Ok(DnsAddress { address: both.ip(), port: Some(both.port()) }),
        _ => Err(Fault::malformed(format!("'{}' is no address", shown(word)))),
    }
}

fn route4(line: &Line<'_>) -> Result<Route4, Fault> {
    let words = line.between(1..=4)?;
    let word = |at: usize| words.get(at).map(String::as_str).filter(|word| *word != "default");
    let network: Ipv4Addr = destination(word(0).unwrap_or_default())?;
    let mask = word(1).map_or(Ok(Ipv4Addr::BROADCAST), address)?;
    let network =
        Ipv4Net::with_netmask(network, mask).map_err(|_| Fault::malformed(format!("'{mask}' is no mask")))?.trunc();
    let gateway = match word(2) {
        None | Some("vpn_gateway") => RouteGateway::Vpn,
        Some("net_gateway") => RouteGateway::Net,
        Some(word) => RouteGateway::Address(address(word)?),
    };
    Ok(Route4 { network, gateway, metric: word(3).map(|metric| number(metric, 0..=u32::MAX)).transpose()? })
}

fn route6(line: &Line<'_>) -> Result<Route6, Fault> {
    let words = line.between(1..=3)?;
    let word = |at: usize| words.get(at).map(String::as_str).filter(|word| *word != "default");
    let text = word(0).unwrap_or_default();
    let (network, bits) = text.split_once('/').unwrap_or((text, "128"));
    let network: Ipv6Addr = destination(network)?;
    let network = Ipv6Net::new_assert(network, number(bits, 0..=128)?).trunc();
    let gateway = match word(1) {
        None => RouteGateway::Vpn,
        Some("net_gateway_ipv6" | "net_gateway") => RouteGateway::Net,
        Some(word) => RouteGateway::Address(address(word)?),
    };
    Ok(Route6 { network, gateway, metric: word(2).map(|metric| number(metric, 0..=u32::MAX)).transpose()? })
}

/// An address, not a name: what a name means would depend on when it is asked.
fn destination<T: std::str::FromStr>(word: &str) -> Result<T, Fault> {
    word.parse()
        .map_err(|_| Fault::unsupported(format!("'{}' is no address; routes to names are not made", shown(word))))
}

fn address<T: std::str::FromStr>(word: &str) -> Result<T, Fault> {
    word.parse().map_err(|_| Fault::malformed(format!("'{}' is no address", shown(word))))
}

fn domain(word: &str) -> Result<String, Fault> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if word.is_empty() || word.len() > 253 || word.starts_with('-') || !word.chars().all(fits) {
        return Err(Fault::malformed(format!("'{}' is no domain name", shown(word))));
    }
    Ok(word.to_owned())
}

fn pull_filter(line: &Line<'_>) -> Result<PullFilter, Fault> {
    let [action, prefix] = line.between(2..=2)? else { return Err(Fault::malformed("it takes two arguments")) };
    let actions =
        [("accept", FilterAction::Accept), ("ignore", FilterAction::Ignore), ("reject", FilterAction::Reject)];
    Ok(PullFilter { action: choice(action, &actions)?, prefix: prefix.clone() })
}
