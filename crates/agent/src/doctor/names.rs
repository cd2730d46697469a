//! Where the public names lead.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use model::{Finding, Grade, HostStatus, Role};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::found;

/// For a name server to answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// HTTPS, for names to be resolved with.
const HTTPS: u16 = 443;

/// Whether home's public names lead to the edge. Home knows where that is: it dials it.
pub(super) async fn names(status: &HostStatus) -> Vec<Finding> {
    let edge = status.tunnel.remote.map(|remote| remote.ip().to_canonical());
    let Some(edge) = edge.filter(|_| status.role == Role::Home) else { return Vec::new() };
    let looks = status.services.iter().filter_map(|service| service.hostname.clone()).map(|hostname| async move {
        let looked = timeout(DEADLINE, lookup_host((hostname.as_str(), HTTPS))).await;
        let addresses = match looked {
            Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip().to_canonical()).collect::<Vec<_>>()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no name server answers within {} s", DEADLINE.as_secs())),
        };
        name(hostname.as_str(), addresses, edge)
    });
    join_all(looks).await
}

fn name(hostname: &str, addresses: Result<Vec<IpAddr>, String>, edge: IpAddr) -> Finding {
    let record = if edge.is_ipv4() { "A" } else { "AAAA" };
    let next = format!("set its {record} record to {edge}; `*.DOMAIN` covers all but the domain itself");
    match addresses {
        Err(reason) => found("DNS", Grade::Bad, format!("{hostname} has no address: {reason}"), Some(&next)),
        Ok(addresses) if addresses.contains(&edge) => {
            found("DNS", Grade::Good, format!("{hostname} leads to the edge, {edge}"), None)
        }
        // Where the edge is by the other family is not known here.
        Ok(addresses) if addresses.iter().all(|address| address.is_ipv4() != edge.is_ipv4()) => found(
            "DNS",
            Grade::Good,
            format!("{hostname} has an address; the tunnel goes to the edge by another family"),
            None,
        ),
        Ok(addresses) => {
            let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let text = format!("{hostname} leads to {}, and the tunnel to the edge at {edge}", listed.join(" and "));
            found("DNS", Grade::Doubtful, text, Some(&next))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_against_where_the_tunnel_goes() {
        let edge: IpAddr = "203.0.113.7".parse().unwrap();
        let grade = |addresses| name("cloud.example.com", addresses, edge).grade;
        assert_eq!(grade(Ok(vec!["2001:db8::7".parse().unwrap(), edge])), Grade::Good);
        assert_eq!(grade(Ok(vec!["198.51.100.1".parse().unwrap()])), Grade::Doubtful);
        assert_eq!(grade(Ok(vec!["2001:db8::7".parse().unwrap()])), Grade::Good);
        assert_eq!(grade(Err("no such name".into())), Grade::Bad);
    }
}
