//! What the ingress publishes, for `agentctl`.

use model::{BasicUser, IngressReport, PublishedSite, RefusedService};

use super::{InvalidMessage, bounded, list, parse, parse_optional};
use crate::v1;

impl From<IngressReport> for v1::IngressReport {
    fn from(report: IngressReport) -> Self {
        Self {
            reason: report.reason,
            sites: report.sites.into_iter().map(Into::into).collect(),
            refused: report.refused.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::IngressReport> for IngressReport {
    type Error = InvalidMessage;

    fn try_from(wire: v1::IngressReport) -> Result<Self, InvalidMessage> {
        Ok(Self {
            reason: wire.reason.as_deref().map(bounded),
            sites: list("IngressReport.sites", wire.sites)?,
            refused: list("IngressReport.refused", wire.refused)?,
        })
    }
}

impl From<PublishedSite> for v1::PublishedSite {
    fn from(site: PublishedSite) -> Self {
        let mut options = site.options;
        options.users = options.users.into_iter().map(|user| BasicUser { hash: String::new(), ..user }).collect();
        Self {
            hostname: site.hostname.to_string(),
            host: site.host.to_string(),
            service: site.service.to_string(),
            also: site.also.iter().map(ToString::to_string).collect(),
            upstream: site.upstream.map(|upstream| upstream.to_string()),
            away: site.away,
            away_since: site.away_since,
            serving: Some(site.serving.into()),
            options: Some(options.into()),
            certificate_ends: site.certificate_ends,
        }
    }
}

impl TryFrom<v1::PublishedSite> for PublishedSite {
    type Error = InvalidMessage;

    fn try_from(wire: v1::PublishedSite) -> Result<Self, InvalidMessage> {
        let also = wire.also.iter().map(|name| parse("PublishedSite.also", name));
        Ok(Self {
            hostname: parse("PublishedSite.hostname", &wire.hostname)?,
            host: parse("PublishedSite.host", &wire.host)?,
            service: parse("PublishedSite.service", &wire.service)?,
            also: also.collect::<Result<_, _>>()?,
            upstream: parse_optional("PublishedSite.upstream", wire.upstream)?,
            away: wire.away.as_deref().map(bounded),
            away_since: wire.away_since,
            serving: wire.serving.map(Into::into).unwrap_or_default(),
            options: wire.options.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            certificate_ends: wire.certificate_ends,
        })
    }
}

impl From<RefusedService> for v1::RefusedService {
    fn from(refused: RefusedService) -> Self {
        Self { host: refused.host.to_string(), service: refused.service.to_string(), reason: refused.reason }
    }
}

impl TryFrom<v1::RefusedService> for RefusedService {
    type Error = InvalidMessage;

    fn try_from(wire: v1::RefusedService) -> Result<Self, InvalidMessage> {
        Ok(Self {
            host: parse("RefusedService.host", &wire.host)?,
            service: parse("RefusedService.service", &wire.service)?,
            reason: bounded(&wire.reason),
        })
    }
}

#[cfg(test)]
mod tests {
    use model::{IngressOptions, Serving};

    use super::*;

    #[test]
    fn a_report_comes_back_without_hashes() {
        let user = |hash: &str| BasicUser { name: "me".into(), hash: hash.into() };
        let site = |hash: &str| PublishedSite {
            hostname: "cloud.example.test".parse().unwrap(),
            host: "attic".parse().unwrap(),
            service: "nextcloud".parse().unwrap(),
            also: vec!["www.example.test".parse().unwrap()],
            upstream: Some("10.86.0.2:8080".parse().unwrap()),
            away: Some("it is starting".into()),
            away_since: Some(3),
            serving: Serving::No { reason: "503".into() },
            options: IngressOptions { users: vec![user(hash)], ..IngressOptions::default() },
            certificate_ends: Some(4),
        };
        let refused =
            RefusedService { host: "attic".parse().unwrap(), service: "blog".parse().unwrap(), reason: "taken".into() };
        let report = |hash| IngressReport {
            reason: Some("Caddy refuses".into()),
            sites: vec![site(hash)],
            refused: vec![refused.clone()],
        };
        let wire = v1::IngressReport::from(report("$2y$12$secret"));
        assert!(!format!("{wire:?}").contains("secret"), "{wire:?}");
        assert_eq!(IngressReport::try_from(wire).unwrap(), report(""));
    }
}
