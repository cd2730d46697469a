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
/// A connection to a host that is away and in which nothing has moved for so long is dead.
const UNREACHABLE: Duration = Duration::from_secs(4);
/// One to an application that fails its check may belong to a long piece of work on a slow disk.
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
    let mut seen = Vec::new();
    for site in sites {
        // What is well may take its time: stillness counts from when it is away.
        let Some(away) = &site.away else { continue };
        let patience = patience(away.reason);
        seen.extend(connections::established(away.upstream)?.into_iter().map(|connection| (connection, patience)));
    }
    let mut ended = 0;
    for connection in still.look(now, &seen) {
        connections::end(&connection)?;
        ended += 1;
    }
    Ok(ended)
}

fn patience(reason: AwayReason) -> Duration {
    match reason {
        AwayReason::Unreachable => UNREACHABLE,
        AwayReason::Starting | AwayReason::Unwell => UNWELL,
    }
}

/// Since when nothing moves in each connection.
#[derive(Debug, Default)]
struct Still(HashMap<[u8; 48], (u64, Instant)>);

impl Still {
    /// Notes what has moved. Returns the connections in which nothing has, for longer than the patience with them.
    fn look(&mut self, now: Instant, seen: &[(Connection, Duration)]) -> Vec<Connection> {
        let mut next = HashMap::new();
        let mut dead = Vec::new();
        for (connection, patience) in seen {
            let since = match self.0.get(&connection.id()) {
                Some((moved, since)) if *moved == connection.moved => *since,
                _ => now,
            };
            next.insert(connection.id(), (connection.moved, since));
            if now.duration_since(since) >= *patience {
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
    fn only_what_stands_still_at_something_that_is_away_is_dead() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _idle = TcpStream::connect(address).unwrap();
        let _idle_end = listener.accept().unwrap();
        let mut busy = TcpStream::connect(address).unwrap();
        let mut busy_end = listener.accept().unwrap().0;
        let (mut still, begin) = (Still::default(), Instant::now());
        let mut look = |after: u64, away: Option<Duration>| {
            busy.write_all(b"x").unwrap();
            busy_end.read_exact(&mut [0]).unwrap();
            let all = connections::established(address).unwrap();
            assert_eq!(all.len(), 2);
            let seen: Vec<_> = away.into_iter().flat_map(|patience| all.iter().map(move |c| (*c, patience))).collect();
            still.look(begin + Duration::from_secs(after), &seen).len()
        };
        assert_eq!(look(0, Some(UNREACHABLE)), 0);
        assert_eq!(look(3, Some(UNREACHABLE)), 0, "it may be a pause");
        assert_eq!(look(4, Some(UNREACHABLE)), 1);
        assert_eq!(look(600, None), 0, "what is not away may take its time");
        assert_eq!(look(601, Some(UNREACHABLE)), 0, "it was well until now");
        assert_eq!(look(610, Some(UNWELL)), 0);
        assert_eq!(look(616, Some(UNWELL)), 1);
    }
}
