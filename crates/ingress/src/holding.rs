//! What visitors see in place of a service that cannot be reached: made by Caddy alone, so it needs no agent.

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::site::{Away, HSTS, Site};

/// Carried by every holding page of ours, so that it can be told from an application's own 503.
pub const HOLDING_HEADER: &str = "Cloudathome-State";

/// Seconds after which a visitor should ask again.
const RETRY_AFTER: &str = "15";

/// For every request, while nothing is published at all.
pub(crate) fn of_the_server() -> Value {
    routes("This server", None, &[])
}

/// For every request to a site.
pub(crate) fn of_a_site(site: &Site) -> Value {
    routes(site.service.as_str(), site.away.as_ref(), &[("Strict-Transport-Security", HSTS)])
}

/// A page for browsers, and one line for everybody else: a client that synchronizes takes any other answer than a
/// plain refusal for the service's own.
fn routes(what: &str, away: Option<&Away>, more: &[(&str, &str)]) -> Value {
    let told = match away {
        None => format!("{what} cannot be reached at the moment."),
        Some(Away { reason, since: None, .. }) => {
            format!("{what} cannot be reached at the moment: {}.", reason.as_str())
        }
        Some(Away { reason, since: Some(since), .. }) => {
            let at = OffsetDateTime::from(*since);
            let (hour, minute) = (at.hour(), at.minute());
            format!(
                "{what} cannot be reached since {hour:02}:{minute:02} UTC on {} {} {}: {}.",
                at.day(),
                at.month(),
                at.year(),
                reason.as_str()
            )
        }
    };
    // No braces in it: Caddy would take them for placeholders.
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"{RETRY_AFTER}\"><title>Back soon</title></head>\
         <body style=\"font-family: sans-serif; max-width: 32em; margin: 20vh auto; padding: 0 1em\">\
         <h1>Back soon</h1><p>{told}</p>\
         <p>This page tries again by itself every {RETRY_AFTER} seconds.</p></body></html>\n"
    );
    let answer = |kind: &str, body: String| {
        let mut headers = json!({
            "Cache-Control": ["no-store"],
            "Content-Type": [kind],
            "Retry-After": [RETRY_AFTER],
            HOLDING_HEADER: ["holding"],
        });
        for (name, value) in more {
            headers[*name] = json!([value]);
        }
        json!([{ "handler": "static_response", "status_code": 503, "headers": headers, "body": body }])
    };
    json!([
        {
            "match": [{ "header": { "Accept": ["*text/html*"] } }],
            "terminal": true,
            "handle": answer("text/html; charset=utf-8", page),
        },
        {
            "terminal": true,
            "handle": answer("text/plain; charset=utf-8", format!("{told}\nTry again in {RETRY_AFTER} seconds.\n")),
        },
    ])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::site::AwayReason;

    #[test]
    fn pages_say_what_is_known_and_have_no_placeholders() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_449_120);
        let away =
            Away { reason: AwayReason::Unreachable, since: Some(since), upstream: "10.86.0.2:80".parse().unwrap() };
        let routes = routes("nextcloud", Some(&away), &[]);
        for (route, kind) in [(0, "text/html; charset=utf-8"), (1, "text/plain; charset=utf-8")] {
            let page = &routes[route]["handle"][0];
            assert_eq!(page["status_code"], 503);
            assert_eq!(page["headers"]["Content-Type"], json!([kind]));
            assert_eq!(page["headers"]["Retry-After"], json!(["15"]));
            let body = page["body"].as_str().unwrap();
            assert!(body.contains("nextcloud cannot be reached since 15:52 UTC on 23 November 2026: the"), "{body}");
            assert!(!body.contains(['{', '}']), "placeholders in {body}");
        }
    }
}
