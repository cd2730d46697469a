//! What the ingress publishes, as a table.

use model::{IngressOptions, IngressReport, PublishedSite};

use super::{Colour, Table, Tone, clean, human_time, or_dash, serving_cell};

/// A certificate that ends so soon has not been renewed: Caddy does so when a third of its time is left.
const ENDS_SOON: u64 = 7 * 86_400;

/// The whole text. `now` is Unix time in seconds.
pub(crate) fn render(report: &IngressReport, colour: Colour, now: u64) -> String {
    let mut text = String::new();
    if let Some(reason) = &report.reason {
        text.push_str(&colour.paint(Tone::Bad, &clean(reason)));
        text.push_str("\n\n");
    }
    if report.sites.is_empty() {
        text.push_str("Nothing is published\n");
    } else {
        let mut table = Table::default();
        table.row(
            ["NAME", "SERVICE", "HOST", "UPSTREAM", "STATE", "CERTIFICATE"].map(|head| (Tone::Plain, head.to_owned())),
        );
        report.sites.iter().for_each(|site| rows(site, now, &mut table));
        table.write(colour, &mut text);
    }
    if !report.refused.is_empty() {
        text.push_str(&format!("\n{}\n", colour.paint(Tone::Strong, "Refused")));
        let mut table = Table::default();
        for refused in &report.refused {
            table.row([(Tone::Bad, refused.service.to_string()), (Tone::Plain, refused.host.to_string())]);
            table.note(refused.reason.clone());
        }
        table.write(colour, &mut text);
    }
    text
}

fn rows(site: &PublishedSite, now: u64, table: &mut Table) {
    let upstream = match site.upstream {
        Some(upstream) => (Tone::Plain, upstream.to_string()),
        None => (Tone::Bad, "holding page".to_owned()),
    };
    table.row([
        (Tone::Plain, site.hostname.to_string()),
        (Tone::Plain, site.service.to_string()),
        (Tone::Plain, site.host.to_string()),
        upstream,
        serving_cell(&site.serving, true),
        certificate(site.certificate_ends, now),
    ]);
    if let Some(away) = &site.away {
        let since = site.away_since.map(|at| format!(", since {}", human_time(now.saturating_sub(at))));
        table.note(format!("holding page: {away}{}", since.unwrap_or_default()));
    }
    if let Some(reason) = site.serving.reason() {
        table.note(format!("{}: {reason}", site.serving.word()));
    }
    if !site.also.is_empty() {
        let names: Vec<_> = site.also.iter().map(ToString::to_string).collect();
        table.plain_note(format!("also: {}", names.join(", ")));
    }
    options(&site.options).into_iter().for_each(|option| table.plain_note(option));
}

fn certificate(ends: Option<u64>, now: u64) -> (Tone, String) {
    let Some(ends) = ends else { return or_dash(None) };
    match ends.checked_sub(now) {
        Some(left) => {
            let tone = if left < ENDS_SOON { Tone::Doubtful } else { Tone::Plain };
            (tone, format!("ends in {}", human_time(left)))
        }
        None => (Tone::Bad, format!("ended {} ago", human_time(now - ends))),
    }
}

/// What its owner asked for, a line each, by the keys of the configuration.
fn options(options: &IngressOptions) -> Vec<String> {
    let IngressOptions { allow, deny, users, forward_auth, headers, paths, strip_prefix, login_paths } = options;
    let networks = |networks: &[_]| networks.iter().map(ToString::to_string).collect::<Vec<String>>().join(", ");
    let mut lines = Vec::new();
    if !allow.is_empty() {
        lines.push(format!("allow: {}", networks(allow)));
    }
    if !deny.is_empty() {
        lines.push(format!("deny: {}", networks(deny)));
    }
    if !users.is_empty() {
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        lines.push(format!("basic_auth: {}", names.join(", ")));
    }
    lines.extend(forward_auth.as_ref().map(|auth| format!("forward_auth: {} on {}", auth.uri, auth.upstream)));
    for (name, value) in headers {
        lines.push(if value.is_empty() {
            format!("header {name}: removed")
        } else {
            format!("header {name}: {value}")
        });
    }
    if !paths.is_empty() {
        lines.push(format!("paths: {}", paths.join(", ")));
    }
    lines.extend(strip_prefix.as_ref().map(|prefix| format!("strip_prefix: {prefix}")));
    if !login_paths.is_empty() {
        lines.push(format!("login_paths: {}, few attempts a minute pass", login_paths.len()));
    }
    lines
}
