//! What ends: this host's identity, the list of revoked certificates, the certificates of the public names.

use std::time::{Duration, SystemTime};

use model::{Finding, Grade, IngressReport};

use hostcheck::found;

const DAY: u64 = 24 * 3600;
/// An identity that ends so soon is to be replaced now.
const IDENTITY_BAD: Duration = Duration::from_secs(14 * DAY);
/// And so soon, when there is time.
const IDENTITY_DOUBTFUL: Duration = Duration::from_secs(60 * DAY);
/// A list that ends so soon is to be signed anew: with its end everybody is refused.
const LIST_DOUBTFUL: Duration = Duration::from_secs(7 * DAY);
/// A certificate of a public name that ends so soon should have been renewed long ago, also one that lives for six days only.
const NAME_DOUBTFUL: Duration = Duration::from_secs(DAY);

fn days(left: Duration) -> String {
    match left.as_secs() / DAY {
        0 => format!("{} hours", left.as_secs() / 3600),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// This host's own certificate.
pub(super) fn identity(ends: SystemTime, now: SystemTime) -> Finding {
    let left = ends.duration_since(now).unwrap_or_default();
    let grade = match left {
        left if left < IDENTITY_BAD => Grade::Bad,
        left if left < IDENTITY_DOUBTFUL => Grade::Doubtful,
        _ => Grade::Good,
    };
    let text = format!("this host's certificate ends in {}", days(left));
    found("identity", grade, text, (grade != Grade::Good).then_some("it renews by itself where the edge has an authority, and `agentctl status` says why not; else: agentctl pki issue --help"))
}

/// The list of revoked certificates, if there is one.
pub(super) fn revocation(ends: Option<SystemTime>, now: SystemTime) -> Finding {
    let what = "CRL";
    let next = "`agentctl pki crl --ca DIRECTORY` where the authority is signs it anew; bring it to this host, as tunnel.crl says";
    let Some(ends) = ends else {
        return found(what, Grade::Good, "there is no list of revoked certificates here: nobody is revoked", None);
    };
    match ends.duration_since(now) {
        Ok(left) if left > LIST_DOUBTFUL => {
            found(what, Grade::Good, format!("the list of revoked certificates ends in {}", days(left)), None)
        }
        Ok(left) => {
            let text = format!("the list of revoked certificates ends in {}; then everybody is refused", days(left));
            found(what, Grade::Doubtful, text, Some(next))
        }
        Err(since) => {
            let text = format!(
                "the list of revoked certificates ended {} ago: the tunnel refuses everybody",
                days(since.duration())
            );
            found(what, Grade::Bad, text, Some(next))
        }
    }
}

/// Those of the public names, as they were seen last.
pub(super) fn names(report: &IngressReport, now: SystemTime) -> Vec<Finding> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let next = "`docker logs cloudathome-caddy` says why it is not renewed; `agentctl status`, where ingress.dns_challenge is used";
    let of = report.sites.iter().map(|site| {
        let name = &site.hostname;
        let Some(ends) = site.certificate_ends else {
            let text = format!("{name} has shown no certificate yet");
            return found(
                "certificate",
                Grade::Doubtful,
                text,
                Some("`docker logs cloudathome-caddy` has Caddy's reasons"),
            );
        };
        let left = Duration::from_secs(ends.saturating_sub(now));
        match left {
            Duration::ZERO => found("certificate", Grade::Bad, format!("that of {name} has ended"), Some(next)),
            left if left < NAME_DOUBTFUL => {
                found("certificate", Grade::Doubtful, format!("that of {name} ends in {}", days(left)), Some(next))
            }
            left => found("certificate", Grade::Good, format!("that of {name} ends in {}", days(left)), None),
        }
    });
    of.collect()
}

#[cfg(test)]
mod tests {
    use model::{IngressOptions, PublishedSite, Serving};

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY)
    }

    #[test]
    fn what_ends_is_told_ahead() {
        let now = now();
        let identity = |days| identity(now + Duration::from_secs(days * DAY), now).grade;
        assert_eq!([identity(400), identity(30), identity(3)], [Grade::Good, Grade::Doubtful, Grade::Bad]);
        assert_eq!(super::identity(now - Duration::from_secs(1), now).grade, Grade::Bad);

        let list = |days| revocation(Some(now + Duration::from_secs(days * DAY)), now);
        assert_eq!([list(300).grade, list(2).grade], [Grade::Good, Grade::Doubtful]);
        let ended = revocation(Some(now - Duration::from_secs(3 * DAY)), now);
        assert!(ended.grade == Grade::Bad && ended.text.contains("ended 3 days ago"), "{ended:?}");
        assert!(ended.next.unwrap().contains("agentctl pki crl"));
        assert_eq!(revocation(None, now).grade, Grade::Good);
    }

    #[test]
    fn certificates_of_names_that_are_not_renewed_are_told() {
        let at = 20_000 * DAY;
        let site = |certificate_ends| PublishedSite {
            hostname: "cloud.example.com".parse().unwrap(),
            host: "attic".parse().unwrap(),
            service: "nextcloud".parse().unwrap(),
            also: vec![],
            upstream: None,
            away: None,
            away_since: None,
            serving: Serving::Unknown,
            options: IngressOptions::default(),
            certificate_ends,
        };
        let sites = vec![site(Some(at + 50 * DAY)), site(Some(at + DAY / 2)), site(Some(at - 1)), site(None)];
        let report = IngressReport { sites, ..IngressReport::default() };
        let grades: Vec<Grade> = names(&report, now()).iter().map(|finding| finding.grade).collect();
        assert_eq!(grades, [Grade::Good, Grade::Doubtful, Grade::Bad, Grade::Doubtful]);
    }
}
