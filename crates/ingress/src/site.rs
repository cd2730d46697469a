//! One published name: what Caddy does with its requests.

use std::net::SocketAddr;
use std::time::SystemTime;

use model::{HostId, Hostname, IngressOptions, PublicName, ServiceName};
use serde_json::{Map, Value, json};

use crate::guard::{self, Guard};
use crate::{holding, proxy, storage};

/// Half a year: what Nextcloud's own check asks for. Without `includeSubDomains`, for the domain's other names are
/// not ours.
pub(crate) const HSTS: &str = "max-age=15552000";

/// What a service should have said itself, and gets only where it has not.
const DEFAULT_HEADERS: [(&str, &str); 3] = [
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
];

/// Where Nextcloud hands out files. A client keeps the `ETag` of a download to tell later whether the file has changed, and
/// compression changes it.
const FILES: [&str; 2] = ["/remote.php/*", "/public.php/*"];

/// One published name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The host that runs the service.
    pub host: HostId,
    /// The service.
    pub service: ServiceName,
    /// Its public name.
    pub hostname: Hostname,
    /// Where it answers plain HTTP; none shows the holding page.
    pub upstream: Option<SocketAddr>,
    /// Why there is no upstream, where there is none.
    pub away: Option<Away>,
    /// Further names that lead visitors to this one.
    pub also: Vec<Hostname>,
    /// The path that shows it well.
    pub health_path: String,
    /// The status of its answer there when it is well; none: any below 500.
    pub health_status: Option<u16>,
    /// Whether calendar and contact clients are led from `/.well-known` to Nextcloud's address for them.
    pub well_known_dav: bool,
    /// What else its owner asks for, checked.
    pub options: IngressOptions,
    /// Whether its host's disk is nearly full.
    pub full: bool,
}

/// Why and since when a service cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    /// Why.
    pub reason: AwayReason,
    /// Since when, where that is known.
    pub since: Option<SystemTime>,
    /// Where it would answer.
    pub upstream: SocketAddr,
}

/// Why a service cannot be asked, as far as strangers may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwayReason {
    /// Its host is not connected.
    Unreachable,
    /// It is not up yet.
    Starting,
    /// It fails its check, or people are kept out.
    Unwell,
}

impl AwayReason {
    /// In words, as strangers may know it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "the computer that it runs on is not connected",
            Self::Starting => "it is starting",
            Self::Unwell => "it does not work properly or is being worked on",
        }
    }
}

impl Site {
    /// How anybody fetches it to see whether it serves.
    #[must_use]
    pub fn public_name(&self) -> PublicName {
        let options = &self.options;
        let guarded = options.keeps_out() || !options.paths.is_empty() || options.strip_prefix.is_some();
        PublicName {
            hostname: self.hostname.clone(),
            path: self.health_path.clone(),
            status: self.health_status.filter(|_| !guarded),
            guarded,
        }
    }
}

/// The routes of its name, for HTTPS.
pub(crate) fn routes(site: &Site, guarding: &Guard) -> Value {
    let Some(upstream) = site.upstream else { return holding::of_a_site(site) };
    let mut routes = Vec::from_iter(guard::recognize(guarding));
    routes.push(proxy::remember_nonce());
    routes.extend([
        // Whatever asks somebody about this request must not be told what a visitor made up.
        json!({ "handle": [proxy::drop_forged()] }),
    ]);
    routes.extend(proxy::plain_connection());
    routes.extend([json!({ "handle": response_headers(site) }), guard::guard(site, guarding), compression(site)]);
    if site.well_known_dav {
        // The application would redirect to plain HTTP.
        routes.push(json!({
            "match": [{ "path": [
                "/.well-known/caldav", "/.well-known/caldav/", "/.well-known/carddav", "/.well-known/carddav/",
            ] }],
            "terminal": true,
            "handle": [{
                "handler": "static_response",
                "status_code": 301,
                "headers": { "Location": ["/remote.php/dav/"] },
            }],
        }));
    }
    routes.extend(site.full.then(storage::refuse_uploads));
    routes.push(proxy::echo_nonce());
    routes.push(json!({ "handle": [proxy::to_upstream(site, upstream)] }));
    Value::Array(routes)
}

/// Where its further names lead.
pub(crate) fn redirect(site: &Site) -> Value {
    json!([{
        "handler": "static_response",
        "status_code": 308,
        "headers": {
            "Location": [format!("https://{}{{http.request.uri}}", site.hostname)],
            "Strict-Transport-Security": [HSTS],
        },
    }])
}

/// Handlers that complete the answer. What comes first has the last word.
fn response_headers(site: &Site) -> Value {
    let (removed, set): (Vec<_>, Vec<_>) = site.options.headers.iter().partition(|(_, value)| value.is_empty());
    let mut set: Map<String, Value> = set.into_iter().map(|(name, value)| (name.clone(), json!([value]))).collect();
    set.insert("Strict-Transport-Security".to_owned(), json!([HSTS]));
    let removed: Vec<&String> = removed.into_iter().map(|(name, _)| name).collect();
    let mut handlers = vec![json!({
        "handler": "headers",
        "response": { "deferred": true, "set": set, "delete": removed },
    })];
    handlers.extend(DEFAULT_HEADERS.iter().map(|(name, value)| {
        json!({
            "handler": "headers",
            "response": { "deferred": true, "require": { "headers": { *name: null } }, "set": { *name: [value] } },
        })
    }));
    Value::Array(handlers)
}

/// For whoever wants all of an answer: a part of one is counted in bytes that are not compressed.
fn compression(site: &Site) -> Value {
    let mut never = vec![json!({ "header": { "Range": ["*"] } })];
    if site.well_known_dav {
        never.push(json!({ "method": ["GET", "HEAD"], "path": FILES }));
    }
    json!({
        "match": [{ "not": never }],
        "handle": [{
            "handler": "encode",
            "encodings": { "zstd": {}, "gzip": {} },
            "prefer": ["zstd", "gzip"],
            "minimum_length": 512,
        }],
    })
}
