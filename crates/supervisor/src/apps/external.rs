//! Something that already serves, on this host or on its network: watched and published, never started or stopped.

use std::net::SocketAddr;
use std::time::Duration;

use model::{Check, HttpProbe, Probe, ServiceName, ServiceSpec, Target};

/// What is to be decided about an external service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalSettings {
    /// Where it answers plain HTTP.
    pub address: SocketAddr,
    /// The path that shows it well; none: a TCP connection that is accepted does.
    pub health_path: Option<String>,
    /// The status of its answer there.
    pub health_status: u16,
}

/// The checks of an external service; it has nothing else. `host` is what requests ask for.
#[must_use]
pub fn external(settings: &ExternalSettings, service: &ServiceName, host: &str) -> ServiceSpec {
    let probe = match &settings.health_path {
        None => Probe::Tcp(settings.address),
        Some(path) => Probe::Http(HttpProbe {
            target: Target::Tcp(settings.address),
            path: path.clone(),
            host: host.to_owned(),
            forwarded_https: true,
            status: settings.health_status,
            expect: Vec::new(),
        }),
    };
    let check = Check {
        container: None,
        probe,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(3),
        grace: Duration::ZERO,
    };
    ServiceSpec { checks: vec![check], ..ServiceSpec::new(service.clone(), Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_and_nothing_else() {
        let settings = ExternalSettings {
            address: "192.168.1.5:8123".parse().unwrap(),
            health_path: Some("/manifest.json".into()),
            health_status: 200,
        };
        let spec = external(&settings, &"hub".parse().unwrap(), "hub.example.com");
        assert!(spec.units.is_empty() && spec.volumes.is_empty());
        let Probe::Http(probe) = &spec.checks[0].probe else { panic!("{spec:?}") };
        assert_eq!((probe.host.as_str(), probe.path.as_str()), ("hub.example.com", "/manifest.json"));
        let tcp = external(&ExternalSettings { health_path: None, ..settings }, &"hub".parse().unwrap(), "x");
        assert_eq!(tcp.checks[0].probe, Probe::Tcp("192.168.1.5:8123".parse().unwrap()));
    }
}
