//! From what hosts announce to the sites the edge publishes. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use model::{Health, HostId, Hostname, ServiceAnnouncement, ServiceName};

use crate::site::{Away, AwayReason, Site};

/// More services than anybody runs on one host; a host that announces more is at fault, and every name costs a
/// certificate.
const MAX_SERVICES: usize = 32;
/// Further names of one service.
const MAX_ALSO: usize = 4;

/// One host's services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The host.
    pub host: HostId,
    /// Where its services may answer: its tunnel address, or what the edge's own configuration names. Another host cannot
    /// make the edge forward visitors to anywhere else.
    pub addresses: Vec<IpAddr>,
    /// Whether it can be reached now. Of a host that cannot, every name shows the holding page.
    pub reachable: bool,
    /// What it announced last.
    pub announcements: Vec<ServiceAnnouncement>,
}

/// What became of the announcements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolution {
    /// To be published.
    pub sites: Vec<Site>,
    /// Refused.
    pub rejected: Vec<Rejected>,
}

/// An announcement that is not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Who announced it.
    pub host: HostId,
    /// The service.
    pub service: ServiceName,
    /// Why not, in words for the host's owner.
    pub reason: String,
}

/// Maps announcements to sites under `domain`. Earlier sources win over later ones that want the same name.
#[must_use]
pub fn resolve(domain: &Hostname, sources: &[Source]) -> Resolution {
    let mut resolution = Resolution::default();
    let mut taken = BTreeSet::new();
    for source in sources {
        let mut services = BTreeSet::new();
        for (position, announcement) in source.announcements.iter().enumerate() {
            let site = if position >= MAX_SERVICES {
                Err(format!("a host may announce {MAX_SERVICES} services at most"))
            } else if !services.insert(&announcement.name) {
                Err("this host announces the service twice".to_owned())
            } else {
                site(domain, source, announcement)
            };
            let site = site.and_then(|site| {
                let names: BTreeSet<&Hostname> = std::iter::once(&site.hostname).chain(&site.also).collect();
                if let Some(name) = names.iter().find(|name| taken.contains(**name)) {
                    return Err(format!("{name} is taken by another service: choose another hostname"));
                }
                taken.extend(names.into_iter().cloned());
                Ok(site)
            });
            match site {
                Ok(site) => resolution.sites.push(site),
                Err(reason) => resolution.rejected.push(Rejected {
                    host: source.host.clone(),
                    service: announcement.name.clone(),
                    reason,
                }),
            }
        }
    }
    resolution
}

fn site(domain: &Hostname, source: &Source, announcement: &ServiceAnnouncement) -> Result<Site, String> {
    let hostname = full_name(domain, &announcement.hostname)?;
    if announcement.also.len() > MAX_ALSO {
        return Err(format!("it may have {MAX_ALSO} further names at most"));
    }
    let also = announcement.also.iter().map(|name| full_name(domain, name)).collect::<Result<Vec<_>, _>>()?;
    let upstream = announcement.upstream;
    let is_own = |address: SocketAddr| source.addresses.contains(&address.ip()) && address.port() != 0;
    if !is_own(upstream) {
        return Err(format!("its upstream {upstream} is not an address of this host inside the tunnel"));
    }
    let path = &announcement.health_path;
    if !model::is_target(path) {
        return Err("its health path must begin with '/', be plain ASCII without spaces or braces, and have '%' only before two digits".to_owned());
    }
    let options = &announcement.ingress;
    options.check().map_err(|error| format!("what it asks of the ingress cannot be: {error}"))?;
    if let Some(auth) = options.forward_auth.as_ref().filter(|auth| !is_own(auth.upstream)) {
        return Err(format!("it has {} asked who may come, which is not an address of this host", auth.upstream));
    }
    let away = match &announcement.health {
        _ if !source.reachable => Some(AwayReason::Unreachable),
        health if health.accepts_traffic() => None,
        Health::Unknown | Health::Starting { .. } => Some(AwayReason::Starting),
        _ => Some(AwayReason::Unwell),
    };
    Ok(Site {
        host: source.host.clone(),
        service: announcement.name.clone(),
        upstream: away.is_none().then_some(upstream),
        away: away.map(|reason| Away { reason, since: None, upstream }),
        also: also.into_iter().filter(|name| *name != hostname).collect(),
        hostname,
        health_path: path.clone(),
        health_status: announcement.health_status,
        well_known_dav: announcement.well_known_dav,
        options: options.clone(),
        full: announcement.full,
    })
}

fn full_name(domain: &Hostname, wanted: &str) -> Result<Hostname, String> {
    if wanted == "@" {
        return Ok(domain.clone());
    }
    let full = if wanted.contains('.') { wanted.to_owned() } else { format!("{wanted}.{domain}") };
    let hostname: Hostname = full.parse().map_err(|error: model::InvalidName| error.to_string())?;
    if hostname.is_under(domain) {
        Ok(hostname)
    } else {
        Err(format!("{hostname} is not under this edge's domain {domain}"))
    }
}

#[cfg(test)]
mod tests {
    use model::{ForwardAuth, Health, IngressOptions};

    use super::*;

    fn announcement(name: &str, hostname: &str) -> ServiceAnnouncement {
        ServiceAnnouncement {
            name: name.parse().unwrap(),
            hostname: hostname.to_owned(),
            upstream: "10.86.0.2:8080".parse().unwrap(),
            also: vec![],
            health_path: "/status.php".to_owned(),
            health_status: Some(200),
            well_known_dav: name == "nextcloud",
            ingress: model::IngressOptions::default(),
            health: Health::Healthy,
            full: false,
        }
    }

    fn source(announcements: Vec<ServiceAnnouncement>) -> Source {
        Source {
            host: "attic".parse().unwrap(),
            addresses: vec!["10.86.0.2".parse().unwrap()],
            reachable: true,
            announcements,
        }
    }

    fn resolved(sources: &[Source]) -> Resolution {
        resolve(&"example.com".parse().unwrap(), sources)
    }

    fn reason(announcement: ServiceAnnouncement) -> String {
        let resolution = resolved(&[source(vec![announcement])]);
        assert!(resolution.sites.is_empty());
        resolution.rejected[0].reason.clone()
    }

    #[test]
    fn labels_and_whole_names_become_names_under_the_domain() {
        let resolution = resolved(&[source(vec![
            announcement("nextcloud", "cloud"),
            announcement("photos", "photos.home.example.com"),
            announcement("site", "@"),
        ])]);
        let names: Vec<&str> = resolution.sites.iter().map(|site| site.hostname.as_str()).collect();
        assert_eq!(names, ["cloud.example.com", "photos.home.example.com", "example.com"]);
        let dav: Vec<bool> = resolution.sites.iter().map(|site| site.well_known_dav).collect();
        assert_eq!(dav, [true, false, false]);
        assert!(resolution.rejected.is_empty());
    }

    #[test]
    fn names_outside_of_the_domain_and_wrong_ones_are_refused() {
        assert!(reason(announcement("x", "cloud.example.org")).contains("not under this edge's domain example.com"));
        assert!(reason(announcement("x", "badexample.com")).contains("not under"));
        for bad in ["*", "", "a b", "Cloud", "cloud.example.com."] {
            assert!(reason(announcement("x", bad)).contains("not a valid hostname"), "{bad}");
        }
    }

    #[test]
    fn an_upstream_must_be_the_announcing_hosts_own() {
        for bad in ["127.0.0.1:8080", "10.86.0.3:8080", "169.254.169.254:80", "[::1]:80", "10.86.0.2:0"] {
            let announcement = ServiceAnnouncement { upstream: bad.parse().unwrap(), ..announcement("x", "x") };
            assert!(reason(announcement).contains("not an address of this host"), "{bad}");
        }
    }

    #[test]
    fn a_health_path_is_a_plain_path() {
        for bad in ["status.php", "/a b", "/{env.SECRET}", "/a\r\nHost: x"] {
            let announcement = ServiceAnnouncement { health_path: bad.to_owned(), ..announcement("x", "x") };
            assert!(reason(announcement).contains("health path"), "{bad}");
        }
    }

    #[test]
    fn the_first_to_ask_gets_a_name() {
        let mut other = source(vec![announcement("wiki", "cloud")]);
        other.host = "cellar".parse().unwrap();
        let resolution =
            resolved(&[source(vec![announcement("nextcloud", "cloud"), announcement("nextcloud", "again")]), other]);
        assert_eq!(resolution.sites.len(), 1);
        assert_eq!(resolution.rejected.len(), 2);
        assert!(resolution.rejected[0].reason.contains("twice"));
        assert!(resolution.rejected[1].reason.contains("cloud.example.com is taken"));
        assert_eq!(resolution.rejected[1].host.as_str(), "cellar");
    }

    #[test]
    fn what_is_not_well_or_not_reachable_is_held() {
        let sick = Health::Unhealthy { reason: "500".to_owned() };
        let announced = vec![
            announcement("a", "a"),
            ServiceAnnouncement { health: sick, ..announcement("b", "b") },
            ServiceAnnouncement { health: Health::Unknown, ..announcement("c", "c") },
        ];
        let away = |source: &Source| -> Vec<Option<AwayReason>> {
            let sites = resolved(std::slice::from_ref(source)).sites;
            assert!(sites.iter().all(|site| site.upstream.is_none() == site.away.is_some()));
            sites.iter().map(|site| site.away.map(|away| away.reason)).collect()
        };
        let mut source = source(announced);
        assert_eq!(away(&source), [None, Some(AwayReason::Unwell), Some(AwayReason::Starting)]);
        source.reachable = false;
        assert_eq!(away(&source), [Some(AwayReason::Unreachable); 3]);
    }

    #[test]
    fn further_names_are_names_under_the_domain_that_nobody_else_has() {
        let ghost = |also: &[&str]| ServiceAnnouncement {
            also: also.iter().map(|name| (*name).to_owned()).collect(),
            ..announcement("ghost", "@")
        };
        let site = &resolved(&[source(vec![ghost(&["www", "@"])])]).sites[0];
        assert_eq!(site.also.iter().map(Hostname::as_str).collect::<Vec<_>>(), ["www.example.com"]);
        assert!(reason(ghost(&["www.example.org"])).contains("not under"));
        assert!(reason(ghost(&["a", "b", "c", "d", "e"])).contains("4 further names"));
        let both = resolved(&[source(vec![announcement("site", "www"), ghost(&["www"])])]);
        assert!(both.rejected[0].reason.contains("www.example.com is taken"));
    }

    #[test]
    fn what_a_service_asks_of_the_ingress_is_checked_again() {
        let asking = |ingress| ServiceAnnouncement { ingress, ..announcement("x", "x") };
        let wrong =
            IngressOptions { headers: [("X".to_owned(), "{env.A}".to_owned())].into(), ..IngressOptions::default() };
        assert!(reason(asking(wrong)).contains("what it asks of the ingress cannot be: headers has a value for X"));
        let judge = |upstream: &str| IngressOptions {
            forward_auth: Some(ForwardAuth { upstream: upstream.parse().unwrap(), uri: "/".into(), copy: vec![] }),
            ..IngressOptions::default()
        };
        for foreign in ["127.0.0.1:2019", "169.254.169.254:80", "10.86.0.2:0"] {
            assert!(reason(asking(judge(foreign))).contains("not an address of this host"), "{foreign}");
        }
        let own = resolved(&[source(vec![asking(judge("10.86.0.2:9091"))])]);
        assert!(own.sites[0].options.forward_auth.is_some());
    }

    #[test]
    fn a_flood_of_services_is_cut() {
        let many = (0..40).map(|n| announcement(&format!("s{n}"), &format!("s{n}"))).collect();
        let resolution = resolved(&[source(many)]);
        assert_eq!((resolution.sites.len(), resolution.rejected.len()), (MAX_SERVICES, 8));
    }
}
