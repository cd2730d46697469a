//! Ends requests that stand still at a service that is away, so that their visitors learn of it. Caddy cannot: a request to
//! a host that has vanished, or to an application that hangs, waits until the kernel gives up, for a quarter of an hour.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use hostnet::connections::{self, Connection};
use ingress::{AwayReason, Site};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::publisher::Publication;

const INTERVAL: Duration = Duration::from_secs(1);
/// A connection to a host that is away, and from whose kernel nothing came for so long, is dead. One that is only quiet is not:
/// Caddy has the kernels ask each other every three seconds.
const UNREACHABLE: Duration = Duration::from_secs(4);
/// Of an application that fails its check the kernel still answers. What stands still for so long since then is given up; it may
/// have been a long piece of work on a slow disk.
const UNWELL: Duration = Duration::from_secs(15);

/// Watches until the publisher is gone.
pub(crate) async fn run(mut published: watch::Receiver<Option<Publication>>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut still = Still::default();
    let mut complained = false;
    loop {
        ticks.tick().await;
        if published.has_changed().is_err() {
            return;
        }
        let sites = published.borrow_and_update().as_ref().map(|published| published.sites.clone()).unwrap_or_default();
        let worked = tokio::task::spawn_blocking(move || {
            let ended = pass(&mut still, &sites, Instant::now());
            (still, ended)
        });
        let Ok((returned, ended)) = worked.await else { return };
        still = returned;
        match ended {
            Ok(0) => {}
            Ok(ended) => info!(ended, "connections that stood still at services that are away were ended"),
            Err(error) if !complained => {
                complained = true;
                warn!(%error, "requests that stand still cannot be ended; they wait until the kernel gives them up");
            }
            Err(_) => {}
        }
    }
}

/// Looks at the connections to all services, and ends those that are dead.
fn pass(still: &mut Still, sites: &[Site], now: Instant) -> io::Result<usize> {
    let mut dead = Vec::new();
    let mut unwell = Vec::new();
    for away in sites.iter().filter_map(|site| site.away.as_ref()) {
        let connections = connections::established(away.upstream)?;
        match away.reason {
            AwayReason::Unreachable => dead.extend(connections.into_iter().filter(is_silent)),
            AwayReason::Starting | AwayReason::Unwell => unwell.extend(connections),
        }
    }
    dead.extend(still.look(now, &unwell));
    let mut ended = 0;
    for connection in dead {
        connections::end(&connection)?;
        ended += 1;
    }
    Ok(ended)
}

fn is_silent(connection: &Connection) -> bool {
    connection.heard >= UNREACHABLE
}

/// Since when nothing moves in each connection to what is unwell.
#[derive(Debug, Default)]
struct Still(HashMap<[u8; 48], (u64, Instant)>);

impl Still {
    /// Notes what has moved. Returns the connections in which nothing has for longer than [`UNWELL`].
    fn look(&mut self, now: Instant, seen: &[Connection]) -> Vec<Connection> {
        let mut next = HashMap::new();
        let mut dead = Vec::new();
        for connection in seen {
            let since = match self.0.get(&connection.id()) {
                Some((moved, since)) if *moved == connection.moved => *since,
                _ => now,
            };
            next.insert(connection.id(), (connection.moved, since));
            if now.duration_since(since) >= UNWELL {
                dead.push(*connection);
            }
        }
        self.0 = next;
        dead
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_what_stands_still_at_something_that_is_unwell_is_dead() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _idle = TcpStream::connect(address).unwrap();
        let _idle_end = listener.accept().unwrap();
        let mut busy = TcpStream::connect(address).unwrap();
        let mut busy_end = listener.accept().unwrap().0;
        let (mut still, begin) = (Still::default(), Instant::now());
        let mut look = |after: u64, is_unwell: bool| {
            busy.write_all(b"x").unwrap();
            busy_end.read_exact(&mut [0]).unwrap();
            let all = connections::established(address).unwrap();
            assert_eq!(all.len(), 2);
            still.look(begin + Duration::from_secs(after), if is_unwell { &all } else { &[] }).len()
        };
        assert_eq!(look(0, true), 0);
        assert_eq!(look(14, true), 0, "it may be a pause");
        assert_eq!(look(15, true), 1);
        assert_eq!(look(600, false), 0, "what is well may take its time");
        assert_eq!(look(601, true), 0, "it was well until now");
        assert_eq!(look(616, true), 1);
    }

    #[test]
    fn a_host_whose_kernel_answers_is_not_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _quiet = TcpStream::connect(address).unwrap();
        let mut connection = connections::established(address).unwrap()[0];
        assert!(!is_silent(&connection), "{connection:?}");
        connection.heard = UNREACHABLE;
        assert!(is_silent(&connection));
    }
}
