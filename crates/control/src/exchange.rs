//! The loop both ends of a session run: latest state out, messages in, silence ends it.

use std::collections::VecDeque;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::{HEARTBEAT, SILENCE_LIMIT};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the agent is stopping")]
    Stopped,
    #[error("the tunnel is down")]
    TunnelDown,
    #[error("the peer closed the stream")]
    Closed,
    #[error("nothing heard from the peer for {} s", SILENCE_LIMIT.as_secs())]
    Silent,
    #[error("the peer does not read what is sent to it")]
    Stuck,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Transport(#[from] Box<tonic::Status>),
}

/// Runs until the session ends. `encode` turns the latest state into the messages that are due: at every change and every
/// [`HEARTBEAT`], and not before those of the last time have gone out, so that a peer that reads slowly gets the latest state later
/// and nothing queues. `handle` turns one message into the event it means, if any, or ends the session; events wait for the
/// agent to take them, so that a busy agent slows the peer down.
pub(crate) async fn exchange<State, Out, In, Event>(
    mut inbound: Streaming<In>,
    outbound: mpsc::Sender<Out>,
    mut state: watch::Receiver<State>,
    stop: CancellationToken,
    mut encode: impl FnMut(&State) -> Vec<Out>,
    events: &mpsc::Sender<Event>,
    mut handle: impl FnMut(In) -> Result<Option<Event>, Ended>,
) -> Ended {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut took) = (Instant::now(), Instant::now());
    let mut due = VecDeque::new();
    state.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ended::Stopped,
            () = sleep_until(heard + SILENCE_LIMIT) => return Ended::Silent,
            () = sleep_until(took + SILENCE_LIMIT), if !due.is_empty() => return Ended::Stuck,
            room = outbound.reserve(), if !due.is_empty() => {
                let Ok(room) = room else { return Ended::Closed };
                took = Instant::now();
                if let Some(message) = due.pop_front() {
                    room.send(message);
                }
                continue;
            }
            message = inbound.message() => match message {
                Ok(Some(message)) => {
                    heard = Instant::now();
                    match handle(message) {
                        Ok(Some(event)) => if events.send(event).await.is_err() { return Ended::Stopped },
                        Ok(None) => {}
                        Err(ended) => return ended,
                    }
                    continue;
                }
                Ok(None) => return Ended::Closed,
                Err(status) => return Ended::Transport(Box::new(status)),
            },
            changed = state.changed(), if due.is_empty() => if changed.is_err() { return Ended::Stopped },
            _ = heartbeat.tick(), if due.is_empty() => {}
        }
        due.extend(encode(&state.borrow_and_update()));
        took = Instant::now();
    }
}

/// Waits for the first message of a stream.
pub(crate) async fn first<In>(inbound: &mut Streaming<In>) -> Result<In, Ended> {
    match timeout(SILENCE_LIMIT, inbound.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(Ended::Closed),
        Ok(Err(status)) => Err(Ended::Transport(Box::new(status))),
        Err(_) => Err(Ended::Silent),
    }
}
