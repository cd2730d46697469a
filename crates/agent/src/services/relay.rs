//! Carries connections from a port of this host's tunnel address to an external service: the edge reaches that address and
//! nothing else of a home.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

/// Connections at a time: Caddy keeps a few open, and each upload or download is one.
const CONNECTIONS: usize = 256;
/// For the service to accept one.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for so long is asked whether the other end is still there.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
/// Until an address that cannot be bound is tried again: the tunnel's link may be on its way.
const RETRY: Duration = Duration::from_secs(1);

/// A running relay; it ends when dropped, with its connections.
#[derive(Debug)]
pub(super) struct Relay {
    from: SocketAddr,
    to: SocketAddr,
    problem: watch::Receiver<Option<String>>,
    _running: DropGuard,
}

impl Relay {
    /// Starts a relay. `news` is told when it cannot listen, and when it can again.
    pub(super) fn start(from: SocketAddr, to: SocketAddr, news: watch::Sender<()>, stop: &CancellationToken) -> Self {
        let token = stop.child_token();
        let (sender, problem) = watch::channel(None);
        tokio::spawn(token.clone().run_until_cancelled_owned(run(from, to, sender, news, token.clone())));
        Self { from, to, problem, _running: token.drop_guard() }
    }

    /// Whether it is between these two.
    pub(super) fn is(&self, from: SocketAddr, to: SocketAddr) -> bool {
        (self.from, self.to) == (from, to)
    }

    /// Why it does not listen, if it does not.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }
}

async fn run(
    from: SocketAddr,
    to: SocketAddr,
    problem: watch::Sender<Option<String>>,
    news: watch::Sender<()>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let tell = |reason: Option<String>| {
        let changed = problem.send_if_modified(|old| {
            let changed = *old != reason;
            *old = reason;
            changed
        });
        if changed {
            news.send_replace(());
        }
        changed
    };
    loop {
        let listener = match TcpListener::bind(from).await {
            Ok(listener) => listener,
            Err(error) => {
                let reason = format!("{from} cannot be listened on: {error}");
                if tell(Some(reason.clone())) {
                    warn!(reason, "an external service cannot be published");
                }
                sleep(RETRY).await;
                continue;
            }
        };
        tell(None);
        info!(%from, %to, "carrying connections to an external service");
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (mut visitor, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%from, %error, "no connection could be accepted");
                    sleep(RETRY).await;
                    break;
                }
            };
            let carried = async move {
                let _place = place;
                match timeout(CONNECT, TcpStream::connect(to)).await {
                    Ok(Ok(mut service)) => {
                        // Places are few: an end that went without a word must not keep one.
                        for end in [&visitor, &service] {
                            if let Err(error) = SockRef::from(end).set_tcp_keepalive(&KEEPALIVE) {
                                debug!(%to, %error, "a connection is not watched for ends that go without a word");
                            }
                        }
                        // Either end may break off; the other then hears of it by the close.
                        let _ = copy_bidirectional(&mut visitor, &mut service).await;
                    }
                    Ok(Err(error)) => debug!(%to, %error, "the external service does not answer"),
                    Err(_) => debug!(%to, "the external service does not answer in time"),
                }
            };
            tokio::spawn(stop.clone().run_until_cancelled_owned(carried));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn it_carries_both_ways_and_ends_with_its_owner() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = service.local_addr().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let from = free.local_addr().unwrap();
        let news = watch::Sender::new(());
        let mut heard = news.subscribe();
        let relay = Relay::start(from, to, news, &CancellationToken::new());
        heard.changed().await.unwrap();
        assert!(relay.problem().unwrap().contains("cannot be listened on"));
        drop(free);
        heard.changed().await.unwrap();
        assert_eq!(relay.problem(), None);

        let mut visitor = TcpStream::connect(from).await.unwrap();
        let (mut served, _) = service.accept().await.unwrap();
        visitor.write_all(b"question").await.unwrap();
        let mut heard = [0; 8];
        served.read_exact(&mut heard).await.unwrap();
        served.write_all(b"answer").await.unwrap();
        drop(served);
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).await.unwrap();
        assert_eq!((&heard, answer.as_str()), (b"question", "answer"));

        let mut open = TcpStream::connect(from).await.unwrap();
        let (_served, _) = service.accept().await.unwrap();
        drop(relay);
        assert_eq!(open.read(&mut [0; 1]).await.unwrap_or(0), 0, "open connections end with it");
    }
}
