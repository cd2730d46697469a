//! Which of the two hosts a command is about.

use std::path::Path;

use anyhow::anyhow;
use control::{Inspector, InspectorError};
use model::{HostId, HostStatus, Role, ServiceName};

use crate::ask::{ask, explain};
use crate::exit::Failure;

/// A host, seen from the agent that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its own.
    Here,
    /// The opposite one.
    There(HostId),
}

impl Place {
    /// To ask the agent there.
    pub(crate) fn inspector(&self, asked: &Inspector) -> Inspector {
        match self {
            Self::Here => asked.clone(),
            Self::There(_) => asked.opposite(),
        }
    }
}

/// Asks the agent of `host`, or else the one whose socket is at `socket`, or the one that runs here.
pub(crate) fn ask_host<T>(
    socket: Option<&Path>,
    host: Option<&HostId>,
    question: impl AsyncFnOnce(&mut Inspector) -> Result<T, InspectorError>,
) -> Result<T, Failure> {
    let Some(host) = host else { return ask(socket, question) };
    ask(socket, async |inspector| {
        let (local, peer) = inspector.status().await?;
        let place = match of_host(host, &local, peer.as_ref().map(|(peer, _)| peer)) {
            Ok(place) => place,
            Err(failure) => return Ok(Err(failure)),
        };
        let answer = question(&mut place.inspector(inspector)).await;
        Ok(answer.map_err(|error| explain(&format!("the agent of {host}"), error)))
    })?
}

/// Asks the agent of the edge: the one whose socket is at `socket`, or the one that runs here, or, where that is home's, the opposite
/// one.
pub(crate) fn ask_edge<T>(
    socket: Option<&Path>,
    question: impl AsyncFnOnce(&mut Inspector) -> Result<T, InspectorError>,
) -> Result<T, Failure> {
    ask(socket, async |inspector| {
        let (local, peer) = inspector.status().await?;
        if local.role == Role::Edge {
            return Ok(Ok(question(inspector).await?));
        }
        let edge = peer.map(|(peer, _)| peer.host).or(local.control.peer);
        let edge = edge.map_or_else(|| "the agent of the edge".to_owned(), |edge| format!("the agent of {edge}"));
        Ok(question(&mut inspector.opposite()).await.map_err(|error| explain(&edge, error)))
    })?
}

/// Where `host` is.
fn of_host(host: &HostId, local: &HostStatus, peer: Option<&HostStatus>) -> Result<Place, Failure> {
    let opposite = peer.map(|peer| &peer.host).or(local.control.peer.as_ref());
    if *host == local.host {
        Ok(Place::Here)
    } else if Some(host) == opposite {
        Ok(Place::There(host.clone()))
    } else {
        let known = opposite.map_or_else(
            || "the opposite host has not been heard of yet".to_owned(),
            |opposite| format!("the opposite host is {opposite}"),
        );
        Err(Failure::new(anyhow!("there is no host {host}: this is {}, and {known}", local.host), "correct --host"))
    }
}

/// Where the service `name` is; on `host` if one is given. One that nobody knows is looked for here, where its absence is explained.
pub(crate) fn of_service(
    name: &ServiceName,
    host: Option<&HostId>,
    local: &HostStatus,
    peer: Option<&HostStatus>,
) -> Result<Place, Failure> {
    if let Some(host) = host {
        return of_host(host, local, peer);
    }
    let known = local.services.iter().chain(peer.into_iter().flat_map(|peer| &peer.services));
    let mut hosts: Vec<&HostId> = known.filter(|service| service.name == *name).map(|service| &service.host).collect();
    hosts.sort();
    hosts.dedup();
    match hosts[..] {
        [] => Ok(Place::Here),
        [host] => of_host(host, local, peer),
        _ => {
            let names: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
            Err(Failure::new(
                anyhow!("{} have a service {name}", names.join(" and ")),
                format!("say which one with --host, as in --host {}", local.host),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{Health, ServiceStatus, Serving};

    use super::*;

    fn status(host: &str, role: Role, services: &[(&str, &str)]) -> HostStatus {
        let service = |(name, host): &(&str, &str)| ServiceStatus {
            name: name.parse().unwrap(),
            host: host.parse().unwrap(),
            hostname: None,
            upstream: None,
            health: Health::Healthy,
            serving: Serving::Yes,
            since: None,
        };
        HostStatus { services: services.iter().map(service).collect(), ..HostStatus::new(host.parse().unwrap(), role) }
    }

    #[test]
    fn a_service_is_found_where_it_is() {
        // The edge tells of home's services too.
        let edge =
            status("vps", Role::Edge, &[("blog", "vps"), ("cloud", "attic"), ("both", "vps"), ("both", "attic")]);
        let home = status("attic", Role::Home, &[("cloud", "attic"), ("both", "attic"), ("inner", "attic")]);
        let find = |name: &str, host: Option<&str>| {
            let host = host.map(|host| host.parse().unwrap());
            of_service(&name.parse().unwrap(), host.as_ref(), &home, Some(&edge)).map_err(|failure| failure.to_string())
        };
        let vps = || Ok(Place::There("vps".parse().unwrap()));
        assert_eq!(find("cloud", None), Ok(Place::Here));
        assert_eq!(find("inner", None), Ok(Place::Here));
        assert_eq!(find("blog", None), vps());
        assert_eq!(find("nobodys", None), Ok(Place::Here));
        let both = find("both", None).unwrap_err();
        assert!(both.contains("attic and vps have a service both") && both.contains("--host"), "{both}");
        assert_eq!(find("both", Some("attic")), Ok(Place::Here));
        assert_eq!(find("both", Some("vps")), vps());
        let wrong = find("both", Some("vsp")).unwrap_err();
        assert!(wrong.contains("this is attic, and the opposite host is vps"), "{wrong}");
    }
}
