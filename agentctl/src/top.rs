//! `agentctl top`: how it goes, live, on the whole terminal.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use control::{Inspector, InspectorError};
use model::{HostId, ServiceName, ServiceStatus, Serving, TunnelReport};
use tokio::time::Instant;

use crate::ask::{ask_at, runtime, socket_or_default};
use crate::cli::TopArgs;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, top};
use crate::screen::{Screen, Woken, next};
use crate::status::Report;
use crate::verdict::services;

/// How often the agent is asked. Its own counts are new every second.
const PERIOD: Duration = Duration::from_secs(1);
/// As much as the widest terminal shows.
const KEPT: usize = 240;

/// What was seen, the newest last. A look that brought nothing is kept as such: time goes on.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Bytes a second.
    pub(crate) received: VecDeque<Option<f64>>,
    /// Bytes a second.
    pub(crate) sent: VecDeque<Option<f64>>,
    /// Dropped packets a second.
    pub(crate) dropped: VecDeque<Option<f64>>,
    /// Milliseconds.
    pub(crate) round_trip: VecDeque<Option<f64>>,
    /// What people got of each service.
    pub(crate) serving: BTreeMap<(HostId, ServiceName), VecDeque<Serving>>,
    /// The last look: when, which start of the agent, and its counts.
    last: Option<(Instant, String, [u64; 3])>,
}

/// One look.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) report: Report,
    pub(crate) tunnel: TunnelReport,
}

impl Look {
    async fn of(inspector: &mut Inspector) -> Result<Self, InspectorError> {
        Ok(Self { report: Report::of(inspector).await?, tunnel: inspector.tunnel().await? })
    }
}

impl History {
    fn add(&mut self, look: Option<&Look>, at: Instant) {
        let mut rates = [None; 3];
        if let Some(Look { report, tunnel }) = look {
            let counts = [tunnel.status.received_bytes, tunnel.status.sent_bytes, tunnel.status.packets_dropped];
            let boot = &report.local.boot_id;
            if let Some((before, same, old)) = &self.last
                && same == boot
                && at > *before
            {
                let seconds = at.duration_since(*before).as_secs_f64();
                for (rate, (new, old)) in rates.iter_mut().zip(counts.iter().zip(old)) {
                    *rate = Some(new.saturating_sub(*old) as f64 / seconds);
                }
            }
            self.last = Some((at, boot.clone(), counts));
        }
        let [received, sent, dropped] = rates;
        let micros = look.and_then(|look| look.report.local.control.round_trip_micros);
        push(&mut self.received, received);
        push(&mut self.sent, sent);
        push(&mut self.dropped, dropped);
        push(&mut self.round_trip, micros.map(|micros| micros as f64 / 1000.0));
        let now: Vec<&ServiceStatus> = look.map(|look| services(&look.report)).unwrap_or_default();
        for service in &now {
            self.serving.entry((service.host.clone(), service.name.clone())).or_default();
        }
        for ((host, name), history) in &mut self.serving {
            let status = now.iter().find(|service| service.host == *host && service.name == *name);
            push(history, status.map(|status| status.serving.clone()).unwrap_or_default());
        }
    }
}

fn push<T>(history: &mut VecDeque<T>, value: T) {
    if history.len() == KEPT {
        history.pop_front();
    }
    history.push_back(value);
}

/// Shows it until the person has seen enough.
pub(crate) fn run(args: &TopArgs, colour: Colour) -> Result<Exit, Failure> {
    if !Screen::is_there() {
        return Err(Failure::new(
            anyhow!("top needs a terminal, and standard input or output is none"),
            "use agentctl status --watch, with --json for programs",
        ));
    }
    let socket = socket_or_default(args.socket.as_deref())?;
    let runtime = runtime()?;
    let ended = runtime.block_on(live(&socket, colour));
    // A key that nobody will press must not hold the end up.
    runtime.shutdown_background();
    ended.map(|()| Exit::Ok)
}

async fn live(socket: &Path, colour: Colour) -> Result<(), Failure> {
    // An agent that does not answer from the start is rather the wrong one.
    let mut look = Ok::<Look, Failure>(ask_at(socket, Look::of).await?);
    let mut screen = Screen::open()?;
    let mut history = History::default();
    let mut asked = Instant::now();
    history.add(look.as_ref().ok(), asked);
    loop {
        let (columns, _) = Screen::size();
        let text = match &look {
            Ok(look) => top::render(look, &history, columns, colour, SystemTime::now()),
            Err(failure) => top::render_failure(&failure.to_string(), &history, columns, colour),
        };
        screen.draw(&text)?;
        match screen.wait(next(asked, PERIOD)).await {
            Woken::Quit => return Ok(()),
            Woken::Resized => continue,
            Woken::Time => asked = Instant::now(),
        }
        // It may be starting again.
        look = ask_at(socket, Look::of).await;
        history.add(look.as_ref().ok(), asked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::fake_report;

    #[test]
    fn rates_are_of_the_time_between_and_of_one_start_of_the_agent() {
        let start = Instant::now();
        let look = |boot: &str, received: u64| {
            let mut look = Look { report: fake_report(), tunnel: TunnelReport::default() };
            look.report.local.boot_id = boot.to_owned();
            look.tunnel.status.received_bytes = received;
            look
        };
        let mut history = History::default();
        for (second, boot, received) in [(0, "a", 1_000), (2, "a", 5_000), (3, "b", 100), (4, "b", 50), (5, "b", 60)] {
            history.add(Some(&look(boot, received)), start + Duration::from_secs(second));
        }
        history.add(None, start + Duration::from_secs(6));
        assert_eq!(history.received, [None, Some(2_000.0), None, Some(0.0), Some(10.0), None]);
        assert_eq!(history.round_trip.back(), Some(&None));
        let nextcloud = ("attic".parse().unwrap(), "nextcloud".parse().unwrap());
        let seen = &history.serving[&nextcloud];
        assert_eq!((seen.front(), seen.back()), (Some(&Serving::Yes), Some(&Serving::Unknown)));
        (0..500).for_each(|second| history.add(None, start + Duration::from_secs(7 + second)));
        assert_eq!(history.received.len(), KEPT);
    }
}
