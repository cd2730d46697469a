//! Certificates by DNS-01: which published names they are for, and how Caddy comes by them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use acme::{Dns, Keeper, Plan, Status};
use agent::config::{Common, chain};
use ingress::{Site, ordered_names};
use model::Hostname;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Ingress;

/// Where they lie below the directory that the agent and Caddy share. Caddy's last configuration names files there, and it
/// would not start without them: that directory is always mounted, also when this way of getting certificates is given up.
const DIR: &str = "certificates";
/// So long a file may not be told of yet.
const NEW: Duration = Duration::from_secs(600);

/// What is known of certificates by DNS-01.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    planned: Vec<String>,
    /// As this process sees it.
    dir: PathBuf,
    /// As Caddy sees it.
    inside: PathBuf,
    status: watch::Receiver<Status>,
}

impl Certificates {
    /// Begins to keep them, if that is wanted. `shared` is a directory of the agent's own, which Caddy sees at `inside`.
    ///
    /// # Errors
    /// When what was kept cannot be used.
    pub(crate) fn start(
        common: &Common,
        config: &Ingress,
        shared: &Path,
        inside: &Path,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let (dir, inside) = (shared.join(DIR), inside.join(DIR));
        let Some(wanted) = &config.dns_challenge else {
            return Ok(Self { planned: vec![], dir, inside, status: watch::channel(Status::default()).1 });
        };
        let plan = Plan {
            names: wanted.names.clone(),
            directory: config.acme_directory.clone(),
            email: Some(config.email.clone()),
            api_root: config.acme_api_root.clone(),
        };
        let dns = Dns::new(config.dns.iter().filter_map(|server| server.parse().ok()).collect());
        let (keeper, status) = Keeper::open(plan, wanted.challenge.clone(), dns, &common.state_dir, &dir)?;
        tokio::spawn(stop.run_until_cancelled_owned(keeper.run()));
        Ok(Self { planned: wanted.names.clone(), dir, inside, status })
    }

    /// Waits until there is news.
    pub(crate) async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What Caddy is to do about them. A name for which there is none yet waits for it, unless Caddy, as its configuration
    /// in force says, has come by one itself before: that one stays until then.
    pub(crate) fn of_sites(&self, sites: &[Site], in_force: &serde_json::Value) -> ingress::Certificates {
        let status = self.status.borrow();
        // One that has ended helps nobody: what Caddy can order itself, it may.
        let (good, ended) = match &status.in_force {
            Some(certificate) if certificate.not_after <= SystemTime::now() => (None, true),
            good => (good.as_ref(), false),
        };
        let here: &[String] = good.map_or(&[], |certificate| &certificate.names);
        let ordered = ordered_names(in_force);
        let not_ordered = |name: &&Hostname| {
            covers(here, name) || (!ended && covers(&self.planned, name) && !ordered.contains(name.as_str()))
        };
        let names: BTreeSet<&Hostname> =
            sites.iter().flat_map(|site| std::iter::once(&site.hostname).chain(&site.also)).collect();
        let inside = |file: &Path| Some(self.inside.join(file.file_name()?).to_str()?.to_owned());
        ingress::Certificates {
            files: good.iter().filter_map(|certificate| inside(&certificate.file)).collect(),
            not_ordered: names.into_iter().filter(not_ordered).cloned().collect(),
        }
    }

    /// Removes files that the configuration in force does not name, but for new ones: one is written before it is told of.
    pub(crate) fn prune(&self, loaded: &ingress::Certificates) {
        let named: BTreeSet<&std::ffi::OsStr> =
            loaded.files.iter().filter_map(|file| Path::new(file).file_name()).collect();
        let newest = self.status.borrow().in_force.as_ref().map(|certificate| certificate.file.clone());
        let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age > NEW);
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let old = entry.metadata().and_then(|data| data.modified()).is_ok_and(is_old);
            if !old || named.contains(&*entry.file_name()) || newest.as_ref() == Some(&path) {
                continue;
            }
            if let Err(error) = std::fs::remove_file(&path) {
                warn!(file = %path.display(), error = chain(&error), "a certificate that is not used any more stays");
            }
        }
    }

    /// Why the one that is wanted is not there.
    pub(crate) fn trouble(&self) -> Option<String> {
        let status = self.status.borrow();
        let failure = status.failure.as_ref()?;
        let reason = &failure.reason;
        if failure.is_in_force {
            return Some(format!(
                "the certificate for {} is in force and not stored: {reason}",
                self.planned.join(", ")
            ));
        }
        let meanwhile = match &status.in_force {
            Some(certificate) => match jiff::Timestamp::try_from(certificate.not_after) {
                Ok(end) => format!("the one before is shown, until {end}"),
                Err(_) => "the one before is shown".to_owned(),
            },
            None => "there is none yet".to_owned(),
        };
        Some(format!("no certificate for {} by DNS-01 ({meanwhile}): {reason}", self.planned.join(", ")))
    }
}

/// Whether a certificate for `names` is good for `name`. A wildcard stands for one label.
fn covers(names: &[String], name: &Hostname) -> bool {
    let above = name.as_str().split_once('.').map_or("", |(_, above)| above);
    names.iter().any(|one| one == name.as_str() || one.strip_prefix("*.") == Some(above))
}

#[cfg(test)]
mod tests {
    use acme::{Failure, InForce};
    use serde_json::{Value, json};

    use super::*;

    fn site(hostname: &str, also: &[&str]) -> Site {
        Site {
            host: "attic".parse().unwrap(),
            service: "nextcloud".parse().unwrap(),
            hostname: hostname.parse().unwrap(),
            upstream: None,
            away: None,
            also: also.iter().map(|name| name.parse().unwrap()).collect(),
            health_path: "/".to_owned(),
            health_status: None,
            well_known_dav: false,
            full: false,
            options: model::IngressOptions::default(),
        }
    }

    fn certificates(dir: &Path, status: Status) -> Certificates {
        Certificates {
            planned: vec!["example.com".into(), "*.example.com".into()],
            dir: dir.to_owned(),
            inside: "/run/caddy-admin/certificates".into(),
            status: watch::channel(status).1,
        }
    }

    fn in_force(dir: &Path) -> Status {
        let in_force = InForce {
            file: dir.join("1f.pem"),
            names: vec!["example.com".into(), "*.example.com".into()],
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000),
        };
        Status { in_force: Some(in_force), failure: None }
    }

    fn names(certificates: &ingress::Certificates) -> Vec<&str> {
        certificates.not_ordered.iter().map(Hostname::as_str).collect()
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let wildcard = vec!["*.example.com".to_owned()];
        for (name, covered) in
            [("a.example.com", true), ("example.com", false), ("a.b.example.com", false), ("a.example.org", false)]
        {
            assert_eq!(covers(&wildcard, &name.parse().unwrap()), covered, "{name}");
        }
    }

    #[test]
    fn caddy_orders_only_what_the_certificate_is_not_for() {
        let dir = tempfile::tempdir().unwrap();
        let sites = [site("example.com", &["www.example.com"]), site("a.b.example.com", &[])];
        let certificates = certificates(dir.path(), in_force(dir.path()));
        let of_sites = certificates.of_sites(&sites, &Value::Null);
        assert_eq!(names(&of_sites), ["example.com", "www.example.com"]);
        assert_eq!(of_sites.files, ["/run/caddy-admin/certificates/1f.pem"]);
    }

    #[test]
    fn until_the_first_is_there_only_what_caddy_had_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let certificates = certificates(dir.path(), Status::default());
        let sites = [site("old.example.com", &[]), site("new.example.com", &[])];
        let before = json!({ "apps": { "http": { "servers": { "https": {
            "routes": [{ "match": [{ "host": ["old.example.com"] }] }],
        } } } } });
        let of_sites = certificates.of_sites(&sites, &before);
        assert_eq!((names(&of_sites), of_sites.files.len()), (vec!["new.example.com"], 0));
    }

    #[test]
    fn one_that_has_ended_keeps_nothing_from_caddy() {
        let dir = tempfile::tempdir().unwrap();
        let mut ended = in_force(dir.path());
        ended.in_force.as_mut().unwrap().not_after = SystemTime::now();
        let of_sites = certificates(dir.path(), ended).of_sites(&[site("a.example.com", &[])], &Value::Null);
        assert_eq!((names(&of_sites), of_sites.files.len()), (vec![], 0));
    }

    #[test]
    fn files_that_nothing_names_go_and_the_newest_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1f.pem", "0a.pem", "09.pem", "09.new", "young.pem"] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            let age = if name == "young.pem" { Duration::ZERO } else { 2 * NEW };
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        let certificates = certificates(dir.path(), in_force(dir.path()));
        let loaded = ingress::Certificates { files: vec!["/run/x/0a.pem".into()], not_ordered: vec![] };
        certificates.prune(&loaded);
        let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["0a.pem", "1f.pem", "young.pem"]);
    }

    #[test]
    fn trouble_says_what_is_shown_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Some(Failure { reason: "no credit".into(), again: SystemTime::now(), is_in_force: false });
        let none = certificates(dir.path(), Status { in_force: None, failure: failure.clone() });
        assert_eq!(
            none.trouble().unwrap(),
            "no certificate for example.com, *.example.com by DNS-01 (there is none yet): no credit"
        );
        let some = certificates(dir.path(), Status { failure, ..in_force(dir.path()) });
        assert!(some.trouble().unwrap().contains("(the one before is shown, until 2096-10-02T07:06:40Z)"));
        assert_eq!(certificates(dir.path(), in_force(dir.path())).trouble(), None);
    }
}
