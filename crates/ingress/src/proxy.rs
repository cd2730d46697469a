//! How requests reach an upstream.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::site::Site;

/// What a visitor could send to be taken for somebody else or to mislead an application. PHP and others make no
/// difference between `X_Real_Ip` and `X-Real-IP`, therefore no name with an underscore passes (`*_*`).
const FORGEABLE_HEADERS: [&str; 19] = [
    "*_*",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "Client-IP",
    "Cloudathome-*",
    "Fastly-Client-IP",
    "Forwarded",
    "Forwarded-*",
    "Front-End-Https",
    "Proxy",
    "True-Client-IP",
    "Via",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Forwarded-*",
    "X-Original-URL",
    "X-Real-IP",
    "X-Rewrite-URL",
    // Nextcloud takes it for `Authorization`.
    "XAuthorization",
];

/// A WebSocket outlives the configuration under which it was opened by this, so that one change of any site does not close
/// those of all.
const STREAMS_OUTLIVE: &str = "24h";

/// Forgets what only a proxy in front could truly say: the edge is the first that a visitor meets. What is true is said
/// on the way to the upstream.
pub(crate) fn drop_forged() -> Value {
    json!({ "handler": "headers", "request": { "delete": FORGEABLE_HEADERS } })
}

/// `Connection` names headers that no proxy hands on. A visitor must not take away so what the edge itself says or asks: of its
/// words only the one for WebSockets stays.
pub(crate) fn plain_connection() -> [Value; 2] {
    let upgrade = json!({ "header_regexp": { "Connection": { "pattern": r"(?i)(^|,)\s*upgrade\s*(,|$)" } } });
    let change = |matcher: Value, request: Value| json!({ "match": [matcher], "handle": [{ "handler": "headers", "request": request }] });
    [
        change(json!({ "not": [upgrade] }), json!({ "delete": ["Connection"] })),
        change(upgrade, json!({ "set": { "Connection": ["Upgrade"] } })),
    ]
}

/// A question and an answer of a proof: what is asked here comes back only with what the upstream has answered, so that
/// neither the holding page, nor another server, nor a cache is taken for the service.
pub(crate) const NONCE_HEADER: &str = "Cloudathome-Nonce";
/// The answer.
pub(crate) const PROOF_HEADER: &str = "Cloudathome-Proof";
/// Holds the nonce of a request.
const NONCE: &str = "cloudathome_nonce";
/// The form of a nonce.
const NONCE_PATTERN: &str = "^[0-9a-f]{32}$";

/// Takes note of a nonce, before headers like its own are dropped.
pub(crate) fn remember_nonce() -> Value {
    json!({
        "match": [{ "header_regexp": { NONCE_HEADER: { "pattern": NONCE_PATTERN } } }],
        "handle": [{ "handler": "vars", NONCE: format!("{{http.request.header.{NONCE_HEADER}}}") }],
    })
}

/// Gives the nonce back with the upstream's answer.
pub(crate) fn echo_nonce() -> Value {
    json!({
        "match": [{ "vars_regexp": { NONCE: { "pattern": NONCE_PATTERN } } }],
        "handle": [{
            "handler": "headers",
            "response": { "deferred": true, "set": { PROOF_HEADER: [format!("{{http.vars.{NONCE}}}")] } },
        }],
    })
}

/// Bodies are never buffered (uploads are gigabytes) and have no limit of ours, and `trusted_proxies` is never set. Caddy
/// adds `X-Forwarded-For`, `-Proto` and `-Host`.
pub(crate) fn to_upstream(site: &Site, upstream: SocketAddr) -> Value {
    let mut proxy = json!({
        "handler": "reverse_proxy",
        "upstreams": [{ "dial": upstream.to_string() }],
        "transport": {
            "protocol": "http",
            "dial_timeout": "2s",
            // A download whose upstream has vanished without a word ends after ten of these.
            "keep_alive": { "enabled": true, "probe_interval": "3s" },
        },
        "headers": { "request": { "set": { "X-Real-IP": ["{http.request.remote.host}"] } } },
        "stream_close_delay": STREAMS_OUTLIVE,
    });
    match site.health_status {
        // Caddy's own watch: it turns to the holding page even if the agents are dead, and when the application accepts
        // connections without answering. Within 5 s, all told: a check begins every second, whether the one before has
        // ended or not. It needs one status to expect.
        Some(status) => {
            proxy["health_checks"] = json!({ "active": {
                "uri": site.health_path,
                "headers": { "Host": [site.hostname], "X-Forwarded-Proto": ["https"] },
                "interval": "1s",
                "timeout": "2500ms",
                "fails": 2,
                "expect_status": status,
            } });
        }
        // With nothing to ask, only a new connection shows that the upstream is there.
        None => proxy["transport"]["keep_alive"] = json!({ "enabled": false }),
    }
    proxy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caddy_config::tests::site;

    #[test]
    fn caddy_watches_what_has_a_status_to_expect() {
        let proxy = |status: Option<u16>| {
            let site = Site { health_status: status, ..site("a.example.com", Some("10.86.0.2:80")) };
            to_upstream(&site, "10.86.0.2:80".parse().unwrap())
        };
        assert_eq!(proxy(Some(204))["health_checks"]["active"]["expect_status"], 204);
        let unwatched = proxy(None);
        assert_eq!(unwatched["health_checks"], Value::Null);
        assert_eq!(unwatched["transport"]["keep_alive"]["enabled"], false);
    }
}
