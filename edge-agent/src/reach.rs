//! Whether home answers through the tunnel although it does not report. A control channel that is down is no outage of the
//! services: their data may flow.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long home may be silent before it is asked. It reports every two seconds; who has not answered when the control channel
/// gives up, after five, is away.
pub(crate) const QUIET: Duration = Duration::from_millis(2500);
const TIMEOUT: Duration = Duration::from_millis(1500);
const INTERVAL: Duration = Duration::from_secs(1);

/// What to ask while home is silent; empty while it reports, or when its tunnel is down.
pub(crate) type Upstreams = BTreeSet<SocketAddr>;

/// Watches until nobody has anything to ask, or wants to know.
pub(crate) async fn watch_upstreams(mut asked: watch::Receiver<Upstreams>, answers: watch::Sender<bool>) {
    loop {
        let upstreams = asked.borrow_and_update().clone();
        let idle = upstreams.is_empty();
        let answered = any_answers(&upstreams).await;
        answers.send_if_modified(|old| std::mem::replace(old, answered) != answered);
        tokio::select! {
            changed = asked.changed() => if changed.is_err() { return },
            () = answers.closed() => return,
            () = sleep(INTERVAL), if !idle => {}
        }
    }
}

/// Whether any of these accepts a connection.
async fn any_answers(upstreams: &Upstreams) -> bool {
    let mut attempts: JoinSet<bool> = JoinSet::new();
    for upstream in upstreams.iter().copied() {
        attempts.spawn(async move { matches!(timeout(TIMEOUT, TcpStream::connect(upstream)).await, Ok(Ok(_))) });
    }
    while let Some(answered) = attempts.join_next().await {
        if matches!(answered, Ok(true)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn one_that_accepts_is_enough_and_silence_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let gone = {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        };
        let (ask, asked) = watch::channel(Upstreams::from([gone]));
        let (answers, mut heard) = watch::channel(true);
        tokio::spawn(watch_upstreams(asked, answers));
        heard.wait_for(|answered| !answered).await.unwrap();
        ask.send_replace(Upstreams::from([gone, there]));
        heard.wait_for(|answered| *answered).await.unwrap();
        ask.send_replace(Upstreams::new());
        heard.wait_for(|answered| !answered).await.unwrap();
    }
}
