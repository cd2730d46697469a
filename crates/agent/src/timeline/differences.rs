//! What a change of the status means to people.

use model::{
    ContainerState, ContainerStatus, EventKind, Health, HostStatus, IdentityStatus, Role, ServiceName, ServiceStatus,
    Serving, Subject, TunnelState, TunnelStatus,
};

/// An event that has no place in a timeline yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) subject: Subject,
    pub(super) service: Option<ServiceName>,
    pub(super) kind: EventKind,
    pub(super) text: String,
}

impl Noted {
    pub(super) fn new(subject: Subject, kind: EventKind, text: String) -> Self {
        Self { subject, service: None, kind, text }
    }

    pub(super) fn of(subject: Subject, service: &ServiceName, kind: EventKind, text: String) -> Self {
        Self { service: Some(service.clone()), ..Self::new(subject, kind, text) }
    }
}

/// What has happened between two statuses of one host, causes before effects.
pub(super) fn differences(old: &HostStatus, new: &HostStatus) -> Vec<Noted> {
    let mut noted: Vec<Noted> = tunnel(&old.tunnel, &new.tunnel).into_iter().collect();
    noted.extend(control(old, new));
    noted.extend(identity(old.identity.as_ref(), new.identity.as_ref()));
    for now in &new.containers {
        let before = old.containers.iter().find(|before| before.name == now.name);
        noted.extend(before.and_then(|before| container(before, now)));
    }
    for now in &new.services {
        let before = old.services.iter().find(|before| before.name == now.name && before.host == now.host);
        // Its own host tells how it is, and the edge, which proves it, whether it serves.
        if now.host == new.host {
            noted.extend(health(before, now));
        }
        if new.role == Role::Edge {
            noted.extend(serving(before, now));
        }
    }
    noted
}

fn tunnel(old: &TunnelStatus, new: &TunnelStatus) -> Option<Noted> {
    use TunnelState::Connected;
    let by = new.transport.as_deref().unwrap_or_default().to_uppercase();
    let (kind, text) = match (old.state, new.state) {
        (Connected, Connected) if old.transport != new.transport && new.transport.is_some() => {
            (EventKind::Change, format!("goes over {by} now"))
        }
        (Connected, Connected) if old.remote != new.remote && new.remote.is_some() => {
            let remote = new.remote.map(|remote| remote.to_string()).unwrap_or_default();
            (EventKind::Change, format!("the opposite host is at {remote} now"))
        }
        (Connected, Connected) => return None,
        (_, Connected) => {
            let peer = new.remote.map_or_else(|| "a device".to_owned(), |remote| remote.to_string());
            (EventKind::Recovery, format!("connected with {peer} {by}").trim_end().to_owned())
        }
        (Connected, _) => {
            let why = new.reason.as_deref().unwrap_or("the other end has not been heard");
            (EventKind::Fault, format!("down: {why}"))
        }
        _ if differs(old.reason.as_deref(), new.reason.as_deref()) => (EventKind::Fault, new.reason.clone()?),
        _ => return None,
    };
    Some(Noted::new(Subject::Tunnel, kind, text))
}

fn control(old: &HostStatus, new: &HostStatus) -> Option<Noted> {
    let peer = || new.control.peer.as_ref().map_or_else(|| "the opposite host".to_owned(), ToString::to_string);
    let reason = || new.control.reason.clone().unwrap_or_else(|| "no reason is known".to_owned());
    match (old.control.connected, new.control.connected) {
        (false, true) => Some(Noted::new(Subject::Control, EventKind::Recovery, format!("{} reports", peer()))),
        (true, false) => {
            Some(Noted::new(Subject::Control, EventKind::Fault, format!("{} does not report: {}", peer(), reason())))
        }
        // What is wrong while it is connected is a configuration that was refused.
        (true, true) if new.control.reason.is_some() && old.control.reason != new.control.reason => {
            Some(Noted::new(Subject::Config, EventKind::Fault, reason()))
        }
        // What was in force before the agent started is no news, nor what the edge only wants.
        _ if old.generation != new.generation && old.generation.0 != 0 => {
            let what = if new.role == Role::Edge { "wanted of home" } else { "in force" };
            let text = format!("configuration {} is {what}", new.generation);
            Some(Noted::new(Subject::Config, EventKind::Change, text))
        }
        _ => None,
    }
}

fn identity(old: Option<&IdentityStatus>, new: Option<&IdentityStatus>) -> Option<Noted> {
    let new = new?;
    let before = old.and_then(|old| old.trouble.as_ref());
    let (kind, text) = match (&new.trouble, old) {
        (Some(trouble), _) if before != Some(trouble) => (EventKind::Fault, trouble.clone()),
        (None, Some(old)) if new.certificate_ends > old.certificate_ends => {
            let kind = if before.is_some() { EventKind::Recovery } else { EventKind::Change };
            (kind, "this host's certificate was renewed".to_owned())
        }
        _ => return None,
    };
    Some(Noted::new(Subject::Agent, kind, text))
}

fn container(old: &ContainerStatus, new: &ContainerStatus) -> Option<Noted> {
    use ContainerState::{Absent, Created, Exited, Running};
    let name = &new.name;
    let because = new.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let (kind, text) = match (old.state, new.state) {
        (Running, Running) if old.id != new.id || old.started_at != new.started_at => {
            (EventKind::Change, format!("{name} was started again{because}"))
        }
        (Absent | Created | Exited, Running) => (EventKind::Change, format!("{name} started ({})", new.image)),
        (Running, Exited | Absent | Created) => {
            let kind = if new.reason.is_some() { EventKind::Fault } else { EventKind::Change };
            (kind, format!("{name} ended{because}"))
        }
        _ if new.reason.is_some() && differs(old.reason.as_deref(), new.reason.as_deref()) => {
            (EventKind::Fault, format!("{name}{because}"))
        }
        _ => return None,
    };
    Some(Noted::of(Subject::Container, &new.service, kind, text))
}

fn health(old: Option<&ServiceStatus>, new: &ServiceStatus) -> Option<Noted> {
    let unknown = Health::Unknown;
    let before = old.map_or(&unknown, |old| &old.health);
    if before.word() == new.health.word() && !differs(before.reason(), new.health.reason()) {
        return None;
    }
    let kind = match &new.health {
        Health::Unknown => return None,
        Health::Starting { .. } | Health::Stopped { .. } => EventKind::Change,
        Health::Healthy => EventKind::Recovery,
        Health::Degraded { .. } | Health::Unhealthy { .. } => EventKind::Fault,
    };
    let because = new.health.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(Noted::of(Subject::Service, &new.name, kind, format!("{}{because}", new.health.word())))
}

fn serving(old: Option<&ServiceStatus>, new: &ServiceStatus) -> Option<Noted> {
    let hostname = new.hostname.as_ref()?;
    let unknown = Serving::Unknown;
    let before = old.map_or(&unknown, |old| &old.serving);
    if before.word() == new.serving.word() && !differs(before.reason(), new.serving.reason()) {
        return None;
    }
    let kind = match &new.serving {
        Serving::Unknown => return None,
        Serving::Yes => EventKind::Recovery,
        Serving::Starting { .. } | Serving::Stopped { .. } => EventKind::Change,
        Serving::Degraded { .. } | Serving::No { .. } => EventKind::Fault,
    };
    let because = new.serving.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
    let text = format!("{hostname} is {}{because}", new.serving.word());
    Some(Noted::of(Subject::Serving, &new.name, kind, text))
}

/// Whether two reasons say different things; counts and times in them are no news.
fn differs(old: Option<&str>, new: Option<&str>) -> bool {
    let words = |text: Option<&str>| -> String {
        text.unwrap_or_default().chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect()
    };
    words(old) != words(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Myself;

    fn status(role: Role) -> HostStatus {
        Myself::new("attic".parse().unwrap(), role).status()
    }

    fn texts(old: &HostStatus, new: &HostStatus) -> Vec<String> {
        differences(old, new).into_iter().map(|noted| format!("{:?} {}", noted.kind, noted.text)).collect()
    }

    #[test]
    fn a_connection_that_comes_moves_and_goes() {
        let down = status(Role::Home);
        let mut up = down.clone();
        up.tunnel.state = TunnelState::Connected;
        up.tunnel.remote = Some("203.0.113.7:1194".parse().unwrap());
        up.tunnel.transport = Some("udp".into());
        up.control.connected = true;
        up.control.peer = Some("vps".parse().unwrap());
        assert_eq!(texts(&down, &up), ["Recovery connected with 203.0.113.7:1194 UDP", "Recovery vps reports"]);
        let mut tcp = up.clone();
        tcp.tunnel.transport = Some("tcp".into());
        tcp.tunnel.sent_bytes = 17;
        assert_eq!(texts(&up, &tcp), ["Change goes over TCP now"]);
        let mut gone = down.clone();
        gone.tunnel.reason = Some("no answer for 30 s".into());
        gone.control.reason = Some("the tunnel is down".into());
        assert_eq!(
            texts(&tcp, &gone),
            ["Fault down: no answer for 30 s", "Fault the opposite host does not report: the tunnel is down"]
        );
        assert!(texts(&gone, &gone).is_empty());
        let mut again = gone.clone();
        again.tunnel.reason = Some("no address for vps.example.com".into());
        assert_eq!(texts(&gone, &again), ["Fault no address for vps.example.com"]);
    }

    #[test]
    fn a_crash_is_told_before_what_follows_and_counts_are_no_news() {
        let mut well = status(Role::Edge);
        well.containers = vec![ContainerStatus {
            name: "blog".into(),
            service: "blog".parse().unwrap(),
            image: "ghost:6".into(),
            id: "a".into(),
            state: ContainerState::Running,
            started_at: 1,
            reason: None,
        }];
        well.services = vec![ServiceStatus {
            name: "blog".parse().unwrap(),
            host: "attic".parse().unwrap(),
            hostname: Some("example.com".parse().unwrap()),
            upstream: None,
            health: Health::Healthy,
            serving: Serving::Yes,
            since: None,
        }];
        let mut crashed = well.clone();
        crashed.containers[0].state = ContainerState::Exited;
        crashed.containers[0].reason = Some("ended with exit code 1; its last words: no database".into());
        crashed.services[0].health = Health::Unhealthy { reason: "nothing answers for 2 s".into() };
        crashed.services[0].serving = Serving::No { reason: "it shows the holding page".into() };
        assert_eq!(
            texts(&well, &crashed),
            [
                "Fault blog ended: ended with exit code 1; its last words: no database",
                "Fault unhealthy: nothing answers for 2 s",
                "Fault example.com is down: it shows the holding page",
            ]
        );
        let mut later = crashed.clone();
        later.services[0].health = Health::Unhealthy { reason: "nothing answers for 14 s".into() };
        assert!(texts(&crashed, &later).is_empty());
        assert_eq!(
            texts(&later, &well),
            ["Change blog started (ghost:6)", "Recovery healthy", "Recovery example.com is serving"]
        );
        // A new agent finds what runs already: that is no event of the container.
        assert_eq!(texts(&status(Role::Edge), &well), ["Recovery healthy", "Recovery example.com is serving"]);
    }

    #[test]
    fn home_does_not_repeat_what_the_edge_proves() {
        let old = status(Role::Home);
        let mut new = old.clone();
        new.services = vec![ServiceStatus {
            name: "cloud".parse().unwrap(),
            host: "attic".parse().unwrap(),
            hostname: Some("cloud.example.com".parse().unwrap()),
            upstream: None,
            health: Health::Starting { reason: "it installs itself".into() },
            serving: Serving::Yes,
            since: None,
        }];
        assert_eq!(texts(&old, &new), ["Change starting: it installs itself"]);
    }
}
