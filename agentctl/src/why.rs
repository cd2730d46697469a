//! `agentctl why`: one story from what both hosts saw. What changed, what failed first, what was tried.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::pin;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use control::InspectorError;
use futures_util::StreamExt;
use model::{Event, EventKind, ServiceName, ServiceStatus, Serving, Subject};
use serde::Serialize;

use crate::ask::ask;
use crate::cli::WhyArgs;
use crate::events::concerns;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, clean, events, human_time};
use crate::status::Report;
use crate::verdict::services;

/// What failed so long before a name stopped serving may be the cause: a name is proven every 15 s while it serves.
const CAUSE_WINDOW_MILLIS: u64 = 60_000;
/// What changed so long before the first failure is told with it.
const CHANGE_WINDOW_MILLIS: u64 = 120_000;
/// A story has so many events at most; the middle of a longer one is left out.
const TOLD: usize = 40;

/// Asks the agent and prints the story; the exit code tells whether the service serves.
pub(crate) fn run(args: &WhyArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (report, all) = ask(args.ask.socket.as_deref(), async |inspector| {
        let report = Report::of(inspector).await?;
        let mut all = Vec::new();
        let mut batches = pin!(inspector.events(false).await?);
        while let Some(batch) = batches.next().await {
            all.extend(batch?);
        }
        Ok::<_, InspectorError>((report, all))
    })?;
    let public: Vec<&ServiceStatus> =
        services(&report).into_iter().filter(|service| service.hostname.is_some()).collect();
    let service = chosen(&public, args.service.as_ref())?;
    let story = story(service, &all);
    if args.ask.json {
        serde_json::to_writer_pretty(&mut *out, &story).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(told(&story, colour, SystemTime::now()).as_bytes())?;
    }
    Ok(if story.serves { Exit::Ok } else { Exit::Unwell })
}

/// The service that was named, or else the first that does not serve, or else the first.
fn chosen<'a>(public: &[&'a ServiceStatus], name: Option<&ServiceName>) -> Result<&'a ServiceStatus, Failure> {
    let found = match name {
        Some(name) => public.iter().find(|service| service.name == *name),
        None => public.iter().find(|service| service.serving != Serving::Yes).or(public.first()),
    };
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = public.iter().map(|service| service.name.as_str()).collect();
        match name {
            Some(name) => Failure::new(
                anyhow!("no service {name} is published"),
                format!("there are: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") }),
            ),
            None => Failure::new(anyhow!("no service is published"), "look at agentctl status"),
        }
    })
}

/// Why a service does not serve, or did not last.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Story {
    service: ServiceName,
    hostname: Option<String>,
    /// Whether it serves now.
    serves: bool,
    /// What is wrong now, in the edge's words.
    reason: Option<String>,
    /// Since when that is so, as far as the timelines go back: Unix time, milliseconds.
    since: Option<u64>,
    /// The first failure before it stopped serving, now or last.
    first: Option<Event>,
    /// All of it, oldest first.
    events: Vec<Event>,
}

fn story(service: &ServiceStatus, all: &[Event]) -> Story {
    let events: Vec<&Event> = all.iter().filter(|event| concerns(event, &service.name)).collect();
    let proofs = events.iter().enumerate().filter(|(_, event)| event.subject == Subject::Serving);
    // The last outage: from the first failed proof after one that held.
    let (mut outage, mut end) = (None, None);
    for (at, event) in proofs {
        match event.kind {
            EventKind::Fault | EventKind::Change if outage.is_none() || end.is_some() => {
                (outage, end) = (Some(at), None);
            }
            // A new edge-agent proves again what still serves.
            EventKind::Recovery if end.is_none() => end = Some(at),
            EventKind::Recovery => {}
            EventKind::Fault | EventKind::Change => {}
        }
    }
    let serves = service.serving == Serving::Yes;
    // The edge proves it, and may not have been heard since: then what failed here after the last proof is all that is known.
    if !serves && (outage.is_none() || end.is_some()) {
        let proven = end.map_or(0, |end| end + 1);
        let fault = events[proven..].iter().position(|event| event.kind == EventKind::Fault);
        (outage, end) = (fault.map(|at| proven + at), None);
    }
    let since = if serves { end } else { outage };
    let begin = outage.map(|outage| {
        let before = events[outage].at.saturating_sub(CAUSE_WINDOW_MILLIS);
        // What was well again before then is another story.
        let healed =
            events[..outage].iter().rposition(|event| event.subject == Subject::Serving).map_or(0, |at| at + 1);
        let fault = |event: &&Event| event.kind == EventKind::Fault && event.at >= before;
        healed + events[healed..=outage].iter().position(fault).unwrap_or(outage - healed)
    });
    let told = begin.map_or(events.len(), |begin| {
        let before = events[begin].at.saturating_sub(CHANGE_WINDOW_MILLIS);
        events[..begin].iter().rposition(|event| event.at < before).map_or(0, |at| at + 1)
    });
    let last = end.map_or(events.len(), |end| end + 1).max(told);
    Story {
        service: service.name.clone(),
        hostname: service.hostname.as_ref().map(ToString::to_string),
        serves,
        reason: match &service.serving {
            Serving::Unknown => Some("it has not been proven yet".to_owned()),
            known => known.reason().map(str::to_owned),
        },
        since: since.map(|at| events[at].at),
        first: begin.map(|begin| events[begin].clone()),
        events: events[told..last].iter().map(|event| (*event).clone()).collect(),
    }
}

fn told(story: &Story, colour: Colour, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let name = story.hostname.as_deref().unwrap_or(story.service.as_str());
    let since = story.since.map(|at| {
        let seconds = u64::try_from(now.saturating_sub(u128::from(at)) / 1000).unwrap_or_default();
        format!(" since {} UTC ({})", events::moment(at), human_time(seconds))
    });
    let since = since.unwrap_or_default();
    let mut text = match &story.reason {
        None => format!("{name} serves{since}\n"),
        Some(reason) => format!("{name} does NOT serve{since}: {}\n", clean(reason)),
    };
    let Some(first) = &story.first else {
        text.push_str(if story.serves {
            "\nNo failure is known.\n"
        } else {
            "\nIt has not been seen to serve, and no failure is known.\n"
        });
        return text;
    };
    let when = if story.serves { "The last time it did not, the first sign was" } else { "The first sign was" };
    text.push_str(&format!("\n{when}\n  {}", events::line(first, colour)));
    text.push_str("\nWhat both hosts saw, by this host's clock, in UTC:\n");
    let mut shown: VecDeque<&Event> = story.events.iter().collect();
    let tail = shown.split_off(shown.len().min(TOLD / 2));
    let left_out = tail.len().saturating_sub(TOLD / 2);
    shown.iter().for_each(|event| text.push_str(&format!("  {}", events::line(event, colour))));
    if left_out > 0 {
        text.push_str(&format!("  ... {left_out} more: agentctl events --service {}\n", story.service));
    }
    tail.iter().skip(left_out).for_each(|event| text.push_str(&format!("  {}", events::line(event, colour))));
    text
}

#[cfg(test)]
mod tests {
    use model::Health;

    use super::*;

    fn service(serving: Serving) -> ServiceStatus {
        ServiceStatus {
            name: "cloud".parse().unwrap(),
            host: "attic".parse().unwrap(),
            hostname: Some("cloud.example.com".parse().unwrap()),
            upstream: None,
            health: Health::Healthy,
            serving,
            since: None,
        }
    }

    fn no() -> Serving {
        Serving::No { reason: "it shows the holding page".into() }
    }

    /// Events at these seconds.
    fn timeline(events: &[(u64, Subject, Option<&str>, EventKind, &str)]) -> Vec<Event> {
        let event =
            |(number, (at, subject, service, kind, text)): (usize, &(u64, Subject, Option<&str>, EventKind, &str))| {
                Event {
                    number: number as u64 + 1,
                    at: 1000 * at,
                    host: "vps".parse().unwrap(),
                    subject: *subject,
                    service: service.map(|service| service.parse().unwrap()),
                    kind: *kind,
                    text: (*text).to_owned(),
                }
            };
        events.iter().enumerate().map(event).collect()
    }

    fn outage() -> Vec<Event> {
        use EventKind::{Change, Fault, Recovery};
        use Subject::{Config, Container, Service, Serving, Tunnel};
        timeline(&[
            (10, Serving, Some("cloud"), Recovery, "serves"),
            (800, Tunnel, None, Fault, "an old story"),
            (801, Tunnel, None, Recovery, "connected"),
            (900, Config, None, Change, "configuration 4 is in force"),
            (1000, Container, Some("cloud"), Fault, "cloud-db ended"),
            (1001, Container, Some("blog"), Fault, "of another service"),
            (1002, Service, Some("cloud"), Fault, "unhealthy"),
            (1010, Serving, Some("cloud"), Fault, "does not serve: 503"),
            (1012, Serving, Some("cloud"), Fault, "does not serve: 500"),
            (1020, Container, Some("cloud"), Change, "cloud-db started"),
        ])
    }

    #[test]
    fn the_story_begins_with_what_failed_first_and_what_changed_before() {
        let story = story(&service(no()), &outage());
        assert_eq!((story.serves, story.since), (false, Some(1_010_000)));
        assert_eq!(story.first.as_ref().unwrap().text, "cloud-db ended");
        let texts: Vec<&str> = story.events.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "configuration 4 is in force",
                "cloud-db ended",
                "unhealthy",
                "does not serve: 503",
                "does not serve: 500",
                "cloud-db started"
            ]
        );
        let text = told(&story, Colour::when(false), UNIX_EPOCH + std::time::Duration::from_secs(1100));
        let head = "cloud.example.com does NOT serve since 1970-01-01 00:16:50.000 UTC (1 min 30 s): it shows the holding page\n";
        assert!(text.starts_with(head), "{text}");
    }

    #[test]
    fn what_is_over_is_told_as_the_last_time() {
        let mut events = outage();
        events.extend(timeline(&[(1030, Subject::Serving, Some("cloud"), EventKind::Recovery, "serves")]));
        events.extend(timeline(&[(1500, Subject::Tunnel, None, EventKind::Fault, "later, and it still serves")]));
        let story = story(&service(Serving::Yes), &events);
        assert_eq!((story.serves, story.since), (true, Some(1_030_000)));
        assert_eq!(story.first.as_ref().unwrap().text, "cloud-db ended");
        assert_eq!(story.events.last().unwrap().text, "serves");
        assert!(told(&story, Colour::when(false), UNIX_EPOCH).contains("The last time it did not"));
    }

    #[test]
    fn without_a_word_from_the_edge_it_is_what_failed_here() {
        use EventKind::{Fault, Recovery};
        let mut events = outage();
        events.extend(timeline(&[
            (1030, Subject::Serving, Some("cloud"), Recovery, "serves"),
            (5000, Subject::Serving, Some("cloud"), Recovery, "serves, says a new edge-agent"),
        ]));
        assert_eq!(story(&service(Serving::Yes), &events).since, Some(1_030_000));
        events.extend(timeline(&[
            (9000, Subject::Tunnel, None, Fault, "down"),
            (9001, Subject::Control, None, Fault, "vps does not report"),
        ]));
        let told = story(&service(no()), &events);
        assert_eq!((told.since, told.first.unwrap().text), (Some(9_000_000), "down".to_owned()));
        assert_eq!(told.events.len(), 2);
    }

    #[test]
    fn without_failures_there_is_no_story() {
        let well = timeline(&[(10, Subject::Serving, Some("cloud"), EventKind::Recovery, "serves")]);
        let story = story(&service(Serving::Yes), &well);
        assert_eq!((story.since, story.first.clone(), story.events.len()), (Some(10_000), None, 0));
        assert!(told(&story, Colour::when(false), UNIX_EPOCH).contains("No failure is known."));
        assert_eq!(super::story(&service(no()), &[]).since, None);
    }

    #[test]
    fn a_long_story_keeps_its_beginning_and_its_end() {
        let mut events = outage();
        for at in 0..100 {
            events.extend(timeline(&[(1100 + at, Subject::Tunnel, None, EventKind::Change, &format!("try {at}"))]));
        }
        let text = told(&story(&service(no()), &events), Colour::when(false), UNIX_EPOCH);
        assert!(text.contains("cloud-db ended") && text.contains("try 99") && text.contains("... 66 more"), "{text}");
    }
}
