//! When the supervisor looks again: at the latest after a while, and whenever something was heard.

use std::time::Duration;

use futures_util::stream::StreamExt;
use model::ServiceSpec;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::Worker;
use super::requests::Request;
use crate::engine::Engine;
use crate::health::Key;

/// How far images are is told this often.
const PROGRESS: Duration = Duration::from_secs(1);

impl<E: Engine> Worker<E> {
    pub(super) fn next_look(&self, desired: &[ServiceSpec]) -> Instant {
        let now = Instant::now();
        let retries = self.tracks.values().filter_map(|track| track.waits_until(now));
        let hooks = self.setups.values().filter_map(|setup| setup.waits_until(now));
        let hangs = desired.iter().flat_map(|service| &service.units).filter_map(|unit| {
            let name = &unit.container.name;
            let since = self.checks.verdict(&Key::Unit(name.clone())).failing_since?;
            let since = since.max(self.seen_since?);
            Some(since + self.tracks.get(name)?.patience(unit.restart_after?)).filter(|at| *at > now)
        });
        retries.chain(hooks).chain(hangs).fold(now + self.resync, Instant::min)
    }

    pub(super) async fn wait(&mut self, until: Instant) {
        loop {
            let hint = async {
                match &mut self.hints {
                    Some(hints) => hints.next().await,
                    None => std::future::pending().await,
                }
            };
            let desired = async {
                if self.desired.changed().await.is_err() {
                    // Whoever knew what is wanted is gone; what was wanted last still is.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = desired => return,
                hint = hint => {
                    if hint.is_none() {
                        self.hints = None;
                    }
                    return;
                }
                () = self.checks.heard() => return,
                Some(request) = self.requests.recv() => {
                    match request {
                        Request::Restart(service, answer) => self.asked.push((service, answer)),
                        Request::StopAll(answer) => {
                            self.closing = true;
                            self.closers.push(answer);
                        }
                    }
                    return;
                }
                Some(done) = self.work.join_next() => {
                    match done {
                        Ok(report) => self.worked(report),
                        Err(error) => {
                            warn!("work on a service was broken off: {error}");
                            self.work.abort_all();
                            self.busy.clear();
                            self.restarting.clear();
                        }
                    }
                    return;
                }
                Some(done) = self.hooks.join_next() => {
                    match done {
                        Ok(outcome) => {
                            if let Some(setup) = self.setups.get_mut(&outcome.service) {
                                setup.ran(outcome, Instant::now());
                            }
                        }
                        Err(error) => {
                            warn!("setting up a service was broken off: {error}");
                            self.hooks.abort_all();
                            self.setups.clear();
                        }
                    }
                    return;
                }
                Some(done) = self.pulls.join_next() => {
                    match done {
                        Ok((reference, result)) => self.pulled(&reference, result),
                        Err(error) => {
                            warn!("fetching an image was broken off: {error}");
                            self.pulls.abort_all();
                            self.pulling.clear();
                        }
                    }
                    return;
                }
                () = sleep(PROGRESS), if !self.pulling.is_empty() => {}
                () = sleep_until(until) => return,
            }
            let desired = self.desired.borrow().clone();
            self.publish(desired.as_deref());
        }
    }
}
