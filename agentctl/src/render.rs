//! A report as text for people.

pub(crate) mod codes;
pub(crate) mod credentials;
pub(crate) mod devices;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod identities;
pub(crate) mod ingress;
pub(crate) mod services;
pub(crate) mod top;
pub(crate) mod tunnel;

use std::time::{Duration, SystemTime};

use model::{ContainerState, ContainerStatus, Health, HostStatus, IdentityStatus, ServiceStatus, Serving, TunnelState};

use crate::status::Report;
use crate::verdict::{Verdict, container_word, peer_is_fresh, services, tunnel_word};

/// Clocks that are so far apart are worth a word, milliseconds: certificates and logins with one-time codes suffer.
const CLOCK_DIFFERENCE: u64 = 5_000;

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(bool);

impl Colour {
    /// Coloured when `wanted`.
    #[must_use]
    pub fn when(wanted: bool) -> Self {
        Self(wanted)
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31",
            Tone::Strong => "1",
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[derive(Debug, Clone, Copy)]
enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
    Strong,
}

/// The whole text. `now` tells how long containers run.
pub(crate) fn render(report: &Report, verdict: &Verdict, colour: Colour, now: SystemTime) -> String {
    let tone = if verdict.well { Tone::Good } else { Tone::Bad };
    let mut text = colour.paint(tone, &clean(&verdict.summary));
    text.push('\n');

    let services = services(report);
    if !services.is_empty() {
        text.push_str(&format!("\n{}\n", colour.paint(Tone::Strong, "Services")));
        let mut table = Table::default();
        table.row(
            ["STATE", "SINCE", "HEALTH", "SERVICE", "HOST", "NAME", "UPSTREAM"]
                .map(|head| (Tone::Plain, head.to_owned())),
        );
        services.iter().for_each(|service| service_rows(service, now, &mut table));
        table.write(colour, &mut text);
    }

    host(&report.local, " (this host)", colour, now, &mut text);
    match &report.peer {
        Some(peer) if peer_is_fresh(report) => host(peer, "", colour, now, &mut text),
        Some(peer) => {
            let age = human_time(report.peer_age_seconds.unwrap_or_default());
            host(peer, &format!(" (as it was: last report {age} ago)"), colour, now, &mut text);
        }
        None => text.push_str("\nThe opposite host has not reported yet.\n"),
    }
    text
}

fn service_rows(service: &ServiceStatus, now: SystemTime, table: &mut Table) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    table.row([
        serving_cell(&service.serving, service.hostname.is_some()),
        since_cell(service, now),
        health_cell(&service.health),
        (Tone::Plain, service.name.to_string()),
        (Tone::Plain, service.host.to_string()),
        or_dash(service.hostname.as_ref().map(ToString::to_string)),
        or_dash(service.upstream.map(|upstream| upstream.to_string())),
    ]);
    reasons(service).for_each(|reason| table.note(reason));
}

/// What is not well with a service, each reason once.
fn reasons(service: &ServiceStatus) -> impl Iterator<Item = String> {
    let serving = service.serving.reason();
    let health = service.health.reason().filter(|reason| serving != Some(*reason));
    let serving = serving.map(|reason| format!("{}: {reason}", service.serving.word()));
    serving.into_iter().chain(health.map(|reason| format!("{}: {reason}", service.health.word())))
}

/// Whether a name, or what has none, serves.
fn serving_cell(serving: &Serving, has_name: bool) -> (Tone, String) {
    let tone = match serving {
        Serving::Yes => Tone::Good,
        Serving::No { .. } => Tone::Bad,
        Serving::Unknown if !has_name => return or_dash(None),
        Serving::Unknown | Serving::Degraded { .. } | Serving::Starting { .. } | Serving::Stopped { .. } => {
            Tone::Doubtful
        }
    };
    (tone, serving.word().to_owned())
}

/// How long it has been so. `now` is Unix time in seconds.
fn since_cell(service: &ServiceStatus, now: u64) -> (Tone, String) {
    or_dash(service.since.map(|since| human_time(now.saturating_sub(since))))
}

fn health_cell(health: &Health) -> (Tone, String) {
    let tone = match health {
        Health::Healthy => Tone::Good,
        Health::Unknown | Health::Starting { .. } | Health::Degraded { .. } | Health::Stopped { .. } => Tone::Doubtful,
        Health::Unhealthy { .. } => Tone::Bad,
    };
    (tone, health.word().to_owned())
}

fn or_dash(text: Option<String>) -> (Tone, String) {
    (Tone::Plain, text.unwrap_or_else(|| "-".to_owned()))
}

fn host(status: &HostStatus, remark: &str, colour: Colour, now: SystemTime, text: &mut String) {
    let title = clean(&format!("{} {}{remark}", capital(status.role.as_str()), status.host));
    let about = clean(&format!(
        "up {}, version {}, configuration {}",
        human_time(status.uptime_seconds),
        status.version,
        status.generation
    ));
    text.push_str(&format!("\n{}: {about}\n", colour.paint(Tone::Strong, &title)));

    let mut table = Table::default();
    tunnel_rows(status, &mut table);
    control_rows(status, &mut table);
    status.identity.iter().for_each(|identity| identity_rows(identity, now, &mut table));
    status.containers.iter().for_each(|container| container_rows(container, now, &mut table));
    table.write(colour, text);
}

fn identity_rows(identity: &IdentityStatus, now: SystemTime, table: &mut Table) {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (tone, word, ends) = match identity.certificate_ends.checked_sub(now) {
        Some(left) if identity.trouble.is_none() => (Tone::Good, "valid", format!("ends in {}", human_time(left))),
        Some(left) => (Tone::Doubtful, "valid", format!("ends in {}", human_time(left))),
        None => (Tone::Bad, "ended", "its time is over".to_owned()),
    };
    table.row([(tone, word.to_owned()), (Tone::Plain, "certificate".into()), (Tone::Plain, ends)]);
    table.notes(identity.trouble.clone());
}

fn tunnel_rows(status: &HostStatus, table: &mut Table) {
    let tunnel = &status.tunnel;
    let tone = match tunnel.state {
        TunnelState::Connected => Tone::Good,
        TunnelState::Listening | TunnelState::Connecting => Tone::Doubtful,
        TunnelState::Down => Tone::Bad,
    };
    let mut facts = Vec::new();
    match (tunnel.address, tunnel.peer_address) {
        (Some(ours), Some(theirs)) => facts.push(format!("{ours} to {theirs}")),
        (Some(ours), None) => facts.push(ours.to_string()),
        (None, _) => {}
    }
    let transport = tunnel.transport.as_ref().map(|transport| format!(" over {}", transport.to_uppercase()));
    facts.extend(tunnel.remote.map(|remote| format!("peer at {remote}{}", transport.unwrap_or_default())));
    facts.extend(tunnel.cipher.clone());
    facts.extend(tunnel.data_path.clone());
    if tunnel.peers > 1 {
        facts.push(format!("{} peers", tunnel.peers));
    }
    facts.push(format!("{} in, {} out", human_bytes(tunnel.received_bytes), human_bytes(tunnel.sent_bytes)));
    table.row([
        (tone, tunnel_word(tunnel.state).to_owned()),
        (Tone::Plain, "tunnel".into()),
        (Tone::Plain, facts.join(", ")),
    ]);
    table.notes(tunnel.reason.clone());
    if tunnel.handshakes_failed > 0 || tunnel.packets_dropped > 0 {
        table.note(format!(
            "since start: failed handshakes {}, dropped datagrams {}",
            tunnel.handshakes_failed, tunnel.packets_dropped
        ));
    }
}

fn control_rows(status: &HostStatus, table: &mut Table) {
    let control = &status.control;
    let (tone, word) = if control.connected { (Tone::Good, "connected") } else { (Tone::Bad, "down") };
    let mut facts = Vec::new();
    facts.extend(control.peer.as_ref().map(|peer| format!("with {peer}")));
    facts.extend(control.last_heard_seconds.map(|age| format!("heard {} ago", human_time(age))));
    facts.extend(control.round_trip_micros.map(|micros| format!("round trip {:.1} ms", micros as f64 / 1000.0)));
    facts.extend(control.clock_ahead_millis.filter(|ahead| ahead.unsigned_abs() >= CLOCK_DIFFERENCE).map(|ahead| {
        let direction = if ahead > 0 { "ahead" } else { "behind" };
        format!("its clock is {} {direction}", human_time(ahead.unsigned_abs() / 1000))
    }));
    table.row([(tone, word.to_owned()), (Tone::Plain, "control channel".into()), (Tone::Plain, facts.join(", "))]);
    table.notes(control.reason.clone());
}

fn container_rows(container: &ContainerStatus, now: SystemTime, table: &mut Table) {
    let tone = match container.state {
        ContainerState::Running => Tone::Good,
        ContainerState::Created => Tone::Doubtful,
        ContainerState::Absent | ContainerState::Exited => Tone::Bad,
    };
    let mut facts = vec![container.image.clone()];
    if !container.id.is_empty() {
        facts.push(container.id.clone());
    }
    if let (ContainerState::Running, Some(since)) = (container.state, started_ago(container.started_at, now)) {
        facts.push(format!("for {}", human_time(since)));
    }
    table.row([
        (tone, container_word(container.state).to_owned()),
        (Tone::Plain, format!("container {}", container.name)),
        (Tone::Plain, facts.join(", ")),
    ]);
    table.notes(container.reason.clone());
}

/// Seconds since a start; none when it never started or the clock has gone back since.
fn started_ago(started_at: i64, now: SystemTime) -> Option<u64> {
    let started = u64::try_from(started_at).ok().filter(|&seconds| seconds > 0)?;
    let started = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(started))?;
    Some(now.duration_since(started).ok()?.as_secs())
}

/// Rows of aligned columns with notes between them.
#[derive(Default)]
struct Table(Vec<Line>);

enum Line {
    Row(Vec<(Tone, String)>),
    Note(Tone, String),
}

impl Table {
    fn row<const N: usize>(&mut self, cells: [(Tone, String); N]) {
        self.0.push(Line::Row(cells.into_iter().map(|(tone, text)| (tone, clean(&text))).collect()));
    }

    fn note(&mut self, text: String) {
        self.0.push(Line::Note(Tone::Doubtful, clean(&text)));
    }

    /// What nobody needs to do anything about.
    fn plain_note(&mut self, text: String) {
        self.0.push(Line::Note(Tone::Plain, clean(&text)));
    }

    fn notes(&mut self, text: Option<String>) {
        if let Some(text) = text {
            self.note(text);
        }
    }

    fn write(&self, colour: Colour, text: &mut String) {
        let mut widths: Vec<usize> = Vec::new();
        for line in &self.0 {
            let Line::Row(cells) = line else { continue };
            widths.resize(widths.len().max(cells.len()), 0);
            for (width, (_, cell)) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in &self.0 {
            match line {
                Line::Row(cells) => {
                    let mut row = String::from("  ");
                    for (width, (tone, cell)) in widths.iter().zip(cells) {
                        row.push_str(&colour.paint(*tone, cell));
                        row.push_str(&" ".repeat(width - cell.chars().count() + 2));
                    }
                    text.push_str(row.trim_end());
                }
                Line::Note(tone, note) => text.push_str(&format!("      {}", colour.paint(*tone, note))),
            }
            text.push('\n');
        }
    }
}

/// Text from elsewhere (another host, a container's log) must not steer the reader's terminal, nor fake a line.
pub(crate) fn clean(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| {
            if c == '\n' || c == '\t' {
                ' '
            } else if steers(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// A number of bytes with a binary unit, as in `12.3 MiB`.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024.0 is one of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span in its two largest units, as in `3 h 12 min`.
pub(crate) fn human_time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
pub(crate) mod tests;
