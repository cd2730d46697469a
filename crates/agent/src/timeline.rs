//! What happened on this host, noted where its status changes, and what the peer told of its own.

mod differences;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use control::{Asked, Clocks, News, Snapshot, Timelines};
use model::{
    ControlStatus, Event, EventKind, HostId, HostStatus, ServiceName, ServiceStatus, Serving, Subject, Timeline,
};
use state::{StateError, StateFile};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};
use tracing::warn;

use self::differences::{Noted, differences};

/// The timeline is stored at most this often: things may change many times a second.
const STORE_INTERVAL: Duration = Duration::from_secs(2);

/// The last event of an agent that was stopped.
const STOPS: &str = "agent stops";
/// Longer texts are cut, in characters: some come from containers, or from the other host.
const TEXT: usize = 512;

/// Publishes this agent's status, and keeps the timelines of both hosts.
#[derive(Debug)]
pub struct Recorder {
    file: StateFile<Timeline>,
    snapshot: watch::Sender<Snapshot>,
    timelines: watch::Sender<Timelines>,
    clocks: Option<Clocks>,
    /// Whether there is anything that is not stored yet.
    unsaved: bool,
    stored: Option<Instant>,
    /// Since when people get what they get of each service: the state's word and the Unix time in seconds.
    since: BTreeMap<(HostId, ServiceName), (&'static str, u64)>,
}

impl Recorder {
    /// Goes on with the timeline in `file`, and notes that the agent started. `snapshot` has the status that the agent
    /// starts with.
    #[must_use]
    pub fn start(file: StateFile<Timeline>, snapshot: watch::Sender<Snapshot>) -> Self {
        let own = match file.load() {
            Ok(own) => own.unwrap_or_default(),
            Err(error) => {
                // It only helps people; the agent does its work without.
                warn!("{}; the timeline begins anew", crate::config::chain(&error));
                Timeline::default()
            }
        };
        let timelines = Timelines { own: Arc::new(named(own)), ..Timelines::default() };
        let (timelines, _) = watch::channel(timelines);
        let mut recorder =
            Self { file, snapshot, timelines, clocks: None, unsaved: false, stored: None, since: BTreeMap::new() };
        let version = recorder.snapshot.borrow().local.version.clone();
        let stopped = recorder.timelines.borrow().own.events.back().is_none_or(|last| last.text == STOPS);
        let how = if stopped { "" } else { "; it had not been stopped" };
        recorder.note(Noted::new(Subject::Agent, EventKind::Change, format!("agent {version} started{how}")));
        recorder
    }

    /// To watch both timelines.
    #[must_use]
    pub fn timelines(&self) -> watch::Receiver<Timelines> {
        self.timelines.subscribe()
    }

    /// This host's timeline.
    #[must_use]
    pub fn own(&self) -> Arc<Timeline> {
        Arc::clone(&self.timelines.borrow().own)
    }

    /// The peer told of what happened there.
    pub fn heard(&mut self, news: News) {
        self.timelines.send_if_modified(|timelines| {
            let mut peer = Timeline::clone(&timelines.peer);
            if peer.id != news.timeline {
                peer = Timeline { id: news.timeline, ..Timeline::default() };
            }
            // All of them: there may be any number of known ones before a new one.
            let added = news.events.into_iter().filter(|event| peer.add(event.clone())).count();
            if added > 0 {
                timelines.peer = Arc::new(peer);
            }
            added > 0
        });
    }

    /// The way to the peer and its clock were measured.
    pub fn measured(&mut self, clocks: Clocks) {
        self.clocks = Some(clocks);
        self.timelines.send_if_modified(|timelines| {
            timelines.ahead_millis = clocks.ahead_millis;
            false
        });
    }

    /// Somebody asked for something to be done with a service of this host.
    pub fn asked(&mut self, asked: Asked) {
        let text = format!("asked on {}: {}", asked.on, asked.what);
        self.note(Noted::of(Subject::Service, &asked.service, EventKind::Change, text));
    }

    /// Writes what is known of the way to the peer into a status.
    pub fn complete(&self, control: &mut ControlStatus) {
        let clocks = self.clocks.filter(|_| control.connected);
        control.round_trip_micros = clocks.and_then(|clocks| u64::try_from(clocks.round_trip.as_micros()).ok());
        control.clock_ahead_millis = clocks.map(|clocks| clocks.ahead_millis);
    }

    /// Writes into services since when each has the state that it has, where that is not known.
    pub fn date(&mut self, services: &mut [ServiceStatus]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for service in services.iter_mut().filter(|service| service.serving != Serving::Unknown) {
            let word = service.serving.word();
            let key = (service.host.clone(), service.name.clone());
            let since = match (service.since, self.since.get(&key)) {
                (Some(since), _) => since,
                (None, Some((before, since))) if *before == word => *since,
                (None, Some(_)) => now,
                // The agent has just started, and its timeline goes back further.
                (None, None) => self.last_change(service).unwrap_or(now),
            };
            service.since = Some(since);
            self.since.insert(key, (word, since));
        }
        // A service that is gone is forgotten.
        self.since.retain(|(host, name), _| services.iter().any(|known| known.host == *host && known.name == *name));
    }

    /// When a service came into the state that it has, if that was the last that was noted of it. A state is noted anew when its
    /// reason changes.
    fn last_change(&self, service: &ServiceStatus) -> Option<u64> {
        let text = format!("{} is {}", service.hostname.as_ref()?, service.serving.word());
        let timelines = self.timelines.borrow();
        let noted = timelines.own.events.iter().rev();
        let noted =
            noted.filter(|event| event.subject == Subject::Serving && event.service.as_ref() == Some(&service.name));
        let same = noted.take_while(|event| event.text.starts_with(&text));
        Some(same.last()?.at / 1000)
    }

    /// Stores a new status, notes what has changed since the one before, and wakes the watchers if something did besides
    /// clocks and byte counts, which they see when they look for another reason. Whether something did.
    pub fn publish(&mut self, new: Snapshot) -> bool {
        let noted = differences(&self.snapshot.borrow().local, &new.local);
        for noted in noted {
            self.note(noted);
        }
        self.save(false);
        self.snapshot.send_if_modified(|old| {
            let changed = steady(&old.local) != steady(&new.local)
                || old.peer.as_ref().map(|(peer, _)| steady(peer)) != new.peer.as_ref().map(|(peer, _)| steady(peer));
            *old = new;
            changed
        })
    }

    fn note(&mut self, noted: Noted) {
        let host = self.snapshot.borrow().local.host.clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.timelines.send_modify(|timelines| {
            let own = Arc::make_mut(&mut timelines.own);
            own.add(Event {
                number: own.last() + 1,
                at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
                host,
                subject: noted.subject,
                service: noted.service,
                kind: noted.kind,
                text: noted.text.chars().take(TEXT).collect(),
            });
        });
        self.unsaved = true;
    }

    /// Stores the timeline if there is anything new, and it was not stored just now or it is `urgent`.
    fn save(&mut self, urgent: bool) {
        let due = self.stored.is_none_or(|at| at.elapsed() >= STORE_INTERVAL) || urgent;
        if !self.unsaved || !due {
            return;
        }
        (self.unsaved, self.stored) = (false, Some(Instant::now()));
        let stored: Result<(), StateError> = self.file.store(&self.timelines.borrow().own);
        if let Err(error) = stored {
            warn!("{}; what happens is told all the same", crate::config::chain(&error));
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.note(Noted::new(Subject::Agent, EventKind::Change, STOPS.to_owned()));
        self.save(true);
    }
}

/// A timeline that has an id.
fn named(timeline: Timeline) -> Timeline {
    if timeline.id.is_empty() {
        Timeline { id: format!("{:016x}", rand::random::<u64>()), ..timeline }
    } else {
        timeline
    }
}

/// A status without what changes all the time.
fn steady(status: &HostStatus) -> HostStatus {
    let mut steady = status.clone();
    steady.uptime_seconds = 0;
    steady.control.last_heard_seconds = None;
    steady.control.round_trip_micros = None;
    steady.control.clock_ahead_millis = None;
    steady.tunnel.received_bytes = 0;
    steady.tunnel.sent_bytes = 0;
    steady.tunnel.packets_dropped = 0;
    steady
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use model::{Role, TunnelState};

    use super::*;
    use crate::Myself;

    fn status() -> HostStatus {
        Myself::new("attic".parse().unwrap(), Role::Home).status()
    }

    fn recorder(dir: &Path) -> Recorder {
        let (snapshot, _) = watch::channel(Snapshot { local: status(), peer: None });
        Recorder::start(StateFile::new(dir, "timeline.json"), snapshot)
    }

    fn texts(recorder: &Recorder) -> Vec<String> {
        recorder.own().events.iter().map(|event| event.text.clone()).collect()
    }

    #[tokio::test]
    async fn it_goes_on_after_a_restart_and_says_when_the_agent_had_not_been_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = recorder(dir.path());
        let mut up = status();
        up.tunnel.state = TunnelState::Connected;
        assert!(first.publish(Snapshot { local: up.clone(), peer: None }));
        let mut counted = up.clone();
        counted.tunnel.sent_bytes = 99;
        assert!(!first.publish(Snapshot { local: counted, peer: None }), "a count is no news");
        let (id, version) = (first.own().id.clone(), up.version.clone());
        drop(first);
        let told = [&format!("agent {version} started"), "connected with a device", "agent stops"].map(str::to_owned);
        let second = recorder(dir.path());
        assert_eq!(texts(&second)[..3], told);
        assert_eq!((second.own().id.clone(), second.own().last()), (id, 4));

        // Killed: what was stored last is all that is known.
        let mut killed = recorder(dir.path());
        killed.publish(Snapshot { local: up, peer: None });
        killed.save(true);
        std::mem::forget(killed);
        assert_eq!(
            texts(&recorder(dir.path())).last().unwrap(),
            &format!("agent {version} started; it had not been stopped")
        );
    }

    #[tokio::test]
    async fn a_timeline_that_cannot_be_read_does_not_keep_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("timeline.json"), "half a f").unwrap();
        assert_eq!(recorder(dir.path()).own().last(), 1);
    }

    #[tokio::test]
    async fn who_asked_for_what_is_noted() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = recorder(dir.path());
        let (on, service) = ("vps".parse().unwrap(), "nextcloud".parse().unwrap());
        recorder.asked(Asked { on, service, what: "restart".into() });
        let own = recorder.own();
        let last = own.events.back().unwrap();
        assert_eq!((last.text.as_str(), last.host.as_str()), ("asked on vps: restart", "attic"));
        assert_eq!(last.service.as_ref().unwrap().as_str(), "nextcloud");
    }

    #[tokio::test]
    async fn the_peers_events_are_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = recorder(dir.path());
        let mut seen = recorder.timelines();
        let event = |number| Event {
            number,
            at: number,
            host: "vps".parse().unwrap(),
            subject: Subject::Tunnel,
            service: None,
            kind: EventKind::Change,
            text: String::new(),
        };
        let news = |timeline: &str, numbers: &[u64]| News {
            timeline: timeline.to_owned(),
            events: numbers.iter().copied().map(event).collect(),
        };
        recorder.heard(news("a", &[1, 2]));
        assert_eq!(seen.borrow_and_update().peer.last(), 2);
        recorder.heard(news("a", &[1, 2]));
        assert!(!seen.has_changed().unwrap(), "it was known");
        recorder.heard(news("a", &[2, 3]));
        assert_eq!(seen.borrow_and_update().peer.events.len(), 3);
        recorder.heard(news("b", &[1]));
        assert_eq!(seen.borrow_and_update().peer.events.len(), 1);
        for number in 0..Timeline::KEPT as u64 + 50 {
            recorder.heard(news("b", &[number + 2]));
        }
        assert_eq!(seen.borrow_and_update().peer.events.len(), Timeline::KEPT);
    }
}
