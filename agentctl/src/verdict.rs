//! What a report means: does everything serve, and what is not well.

use model::{ContainerState, Health, HostStatus, ServiceStatus, Serving, TunnelState};

use crate::status::Report;

/// The meaning of a report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// One line for people.
    pub(crate) summary: String,
    /// Every service is serving, and nothing else is wrong.
    pub(crate) well: bool,
}

/// Draws the conclusion.
pub(crate) fn judge(report: &Report) -> Verdict {
    let services = services(report);
    let public: Vec<_> = services.iter().copied().filter(|service| is_public(service)).collect();
    let failing: Vec<_> = public.iter().copied().filter(|service| service.serving != Serving::Yes).collect();
    let concerns = concerns(report);
    let more = |count: usize| if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };

    let summary = match (public.as_slice(), failing.first()) {
        ([], _) => {
            let reason = concerns.first().map_or("home announces none", String::as_str);
            format!("No service is published: {reason}{}", more(concerns.len()))
        }
        (_, Some(first)) => {
            let others = match public.len() {
                1 => String::new(),
                all => format!(" ({} of {all} services are serving)", all - failing.len()),
            };
            let state = match &first.serving {
                Serving::Unknown | Serving::No { .. } => "NOT serving",
                known => known.word(),
            };
            format!("{} is {state}: {}{others}", public_name(first), reason(report, first))
        }
        (all, None) => {
            let who = match all {
                [one] => format!("{} is serving", public_name(one)),
                _ => format!("All {} services are serving", all.len()),
            };
            match concerns.first() {
                None => who,
                Some(concern) => format!("{who}, but {concern}{}", more(concerns.len())),
            }
        }
    };
    Verdict { summary, well: !public.is_empty() && failing.is_empty() && concerns.is_empty() }
}

/// The services of both hosts, each once: in the words of the host that was asked where it knows it.
pub(crate) fn services(report: &Report) -> Vec<&ServiceStatus> {
    let mut services: Vec<_> = report.local.services.iter().collect();
    for service in report.peer.iter().flat_map(|peer| &peer.services) {
        if !services.iter().any(|known| known.host == service.host && known.name == service.name) {
            services.push(service);
        }
    }
    // What people use first, what serves it after.
    services.sort_by_key(|service| !is_public(service));
    services
}

/// Whether the peer's report is recent enough to speak of now.
pub(crate) fn peer_is_fresh(report: &Report) -> bool {
    report.peer.is_some() && report.peer_age_seconds.is_some_and(|age| age <= control::SILENCE_LIMIT.as_secs())
}

/// Whether it is (to be) reached by a public name; Caddy, for one, is not.
fn is_public(service: &ServiceStatus) -> bool {
    service.hostname.is_some() || service.serving != Serving::Unknown
}

fn public_name(service: &ServiceStatus) -> &str {
    service.hostname.as_ref().map_or(service.name.as_str(), |hostname| hostname.as_str())
}

/// Why a service does not serve, down to the tunnel if that is the cause.
fn reason(report: &Report, service: &ServiceStatus) -> String {
    let mut reason = service.serving.reason().unwrap_or("not proven yet").to_owned();
    if report.local.tunnel.state != TunnelState::Connected {
        reason.push_str(&format!("; {}", tunnel_concern(&report.local)));
    } else if let Some(why) = service.health.reason().filter(|why| !reason.contains(why)) {
        reason.push_str(&format!("; {} is {}: {why}", service.name, service.health.word()));
    }
    reason
}

/// Everything that is not well besides names that do not serve.
fn concerns(report: &Report) -> Vec<String> {
    let mut concerns = Vec::new();
    host_concerns(&report.local, &mut concerns);
    match &report.peer {
        Some(peer) if peer_is_fresh(report) => host_concerns(peer, &mut concerns),
        Some(peer) => {
            let age = report.peer_age_seconds.unwrap_or_default();
            concerns.push(format!("{} was last heard {age} s ago", peer.host));
        }
        None => concerns.push("the opposite host has not reported yet".to_owned()),
    }
    let current = |service: &&ServiceStatus| {
        peer_is_fresh(report) || report.local.services.iter().any(|local| std::ptr::eq(local, *service))
    };
    for service in services(report).into_iter().filter(current) {
        if service.health != Health::Healthy {
            let what = format!("{} on {} is {}", service.name, service.host, service.health.word());
            concerns.push(with_reason(what, service.health.reason()));
        }
    }
    concerns
}

fn host_concerns(status: &HostStatus, concerns: &mut Vec<String>) {
    if status.tunnel.state != TunnelState::Connected {
        concerns.push(tunnel_concern(status));
    }
    match (&status.control.reason, status.control.connected) {
        (None, true) => {}
        (Some(reason), true) => concerns.push(reason.clone()),
        (reason, false) => {
            concerns.push(with_reason(format!("the control channel of {} is down", status.host), reason.as_deref()));
        }
    }
    for container in &status.containers {
        if container.state != ContainerState::Running || container.reason.is_some() {
            let what =
                format!("container {} on {} is {}", container.name, status.host, container_word(container.state));
            concerns.push(with_reason(what, container.reason.as_deref()));
        }
    }
}

fn tunnel_concern(status: &HostStatus) -> String {
    with_reason(
        format!("the tunnel of {} is {}", status.host, tunnel_word(status.tunnel.state)),
        status.tunnel.reason.as_deref(),
    )
}

fn with_reason(what: String, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what,
    }
}

/// One word for tables.
pub(crate) fn tunnel_word(state: TunnelState) -> &'static str {
    match state {
        TunnelState::Down => "down",
        TunnelState::Listening => "listening",
        TunnelState::Connecting => "connecting",
        TunnelState::Connected => "connected",
    }
}

/// One word for tables.
pub(crate) fn container_word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Absent => "absent",
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::fake_report;

    #[test]
    fn all_well() {
        let verdict = judge(&fake_report());
        assert_eq!(verdict, Verdict { summary: "cloud.example.test is serving".into(), well: true });
    }

    #[test]
    fn a_name_that_does_not_serve_is_told_first_with_its_cause() {
        let mut report = fake_report();
        report.local.services[1].serving = Serving::No { reason: "answered 503".into() };
        report.local.services[1].health = Health::Unhealthy { reason: "no answer in 5 s".into() };
        let verdict = judge(&report);
        assert!(!verdict.well);
        assert_eq!(
            verdict.summary,
            "cloud.example.test is NOT serving: answered 503; nextcloud is unhealthy: no answer in 5 s"
        );

        report.local.tunnel.state = TunnelState::Listening;
        report.local.tunnel.reason = Some("home has not called".into());
        assert_eq!(
            judge(&report).summary,
            "cloud.example.test is NOT serving: answered 503; the tunnel of vps is listening: home has not called"
        );
    }

    #[test]
    fn what_serves_may_still_not_be_well() {
        let mut report = fake_report();
        report.peer.as_mut().unwrap().containers[0].state = ContainerState::Exited;
        report.local.services[0].health = Health::Degraded { reason: "slow".into() };
        let verdict = judge(&report);
        assert!(!verdict.well);
        assert_eq!(
            verdict.summary,
            "cloud.example.test is serving, but container nextcloud on attic is exited (and 1 more)"
        );
    }

    #[test]
    fn an_old_report_is_a_concern_and_says_nothing_of_now() {
        let mut report = fake_report();
        report.peer.as_mut().unwrap().containers[0].state = ContainerState::Exited;
        report.peer_age_seconds = Some(12);
        let verdict = judge(&report);
        assert_eq!(verdict.summary, "cloud.example.test is serving, but attic was last heard 12 s ago");
        assert!(!verdict.well);
    }

    #[test]
    fn nothing_published_is_not_well() {
        let mut report = fake_report();
        report.local.services.truncate(1);
        report.peer.as_mut().unwrap().services.clear();
        let verdict = judge(&report);
        assert_eq!(verdict, Verdict { summary: "No service is published: home announces none".into(), well: false });

        report.peer = None;
        assert_eq!(judge(&report).summary, "No service is published: the opposite host has not reported yet");
    }

    #[test]
    fn a_service_without_a_name_yet_counts_as_not_serving() {
        let mut report = fake_report();
        report.local.services[1].hostname = None;
        report.local.services[1].serving = Serving::No { reason: "the edge refuses it".into() };
        assert_eq!(judge(&report).summary, "nextcloud is NOT serving: the edge refuses it");
    }

    #[test]
    fn with_several_names_the_others_are_counted() {
        let mut report = fake_report();
        let mut photos = report.local.services[1].clone();
        photos.name = "photos".parse().unwrap();
        photos.hostname = Some("photos.example.test".parse().unwrap());
        report.local.services.push(photos);
        assert_eq!(judge(&report).summary, "All 2 services are serving");
        report.local.services[2].serving = Serving::Unknown;
        assert_eq!(
            judge(&report).summary,
            "photos.example.test is NOT serving: not proven yet (1 of 2 services are serving)"
        );
    }
}
