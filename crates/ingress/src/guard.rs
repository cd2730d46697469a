//! Who may come to a site: networks, limits on attempts to log in, logins.

use std::fmt;

use model::ForwardAuth;
use serde_json::{Value, json};

use crate::site::Site;

/// By which the edge's own proof of a name says who it is.
pub(crate) const PROBE_HEADER: &str = "Cloudathome-Probe";
/// By which Caddy says whom it asks about.
pub(crate) const CLIENT_HEADER: &str = "Cloudathome-Client";
/// By which Caddy says for which site it asks: the visitor may write the name in many ways.
pub(crate) const SITE_HEADER: &str = "Cloudathome-Site";
/// By which Caddy says what a visitor logs in with.
pub(crate) const CREDENTIALS_HEADER: &str = "Cloudathome-Credentials";
/// By which Caddy says what it asks.
pub(crate) const ATTEMPT_HEADER: &str = "Cloudathome-Attempt";

/// Set for a request of the edge's own proof.
const PROBE: &str = "cloudathome_probe";
/// Set for a request that was asked about.
const ASKED: &str = "cloudathome_asked";

/// What the guard needs to know of its surroundings.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// The unix socket of who counts attempts to log in, as Caddy sees it; none: nobody counts.
    pub limits_socket: Option<String>,
    /// The secret by which the edge's own proof passes: it comes from nowhere that a person allows, and has no login.
    pub probe_token: Option<String>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("limits_socket", &self.limits_socket).finish_non_exhaustive()
    }
}

/// Recognizes the edge's own proof; before headers like its own are dropped.
pub(crate) fn recognize(guard: &Guard) -> Option<Value> {
    let token = guard.probe_token.as_ref()?;
    Some(json!({
        "match": [{ "header": { PROBE_HEADER: [token] } }],
        // Its visits are no visits.
        "handle": [{ "handler": "vars", PROBE: "yes", "log_skip": true }],
    }))
}

/// What everybody else must pass.
pub(crate) fn guard(site: &Site, guard: &Guard) -> Value {
    let options = &site.options;
    let refuse = |status: u16, matcher: Value, text: &str| {
        json!({
            "match": [matcher],
            "terminal": true,
            "handle": [{ "handler": "static_response", "status_code": status, "body": format!("{text}\n") }],
        })
    };
    let mut routes = Vec::new();
    if !options.deny.is_empty() {
        let denied = json!({ "remote_ip": { "ranges": options.deny } });
        routes.push(refuse(403, denied, "You may not come here from your network."));
    }
    if !options.allow.is_empty() {
        let foreign = json!({ "not": [{ "remote_ip": { "ranges": options.allow } }] });
        routes.push(refuse(403, foreign, "You may not come here from your network."));
    }
    if !options.paths.is_empty() || options.strip_prefix.is_some() {
        // A path is matched without its dots and handed on with them.
        let dots = json!({ "vars_regexp": { "{http.request.uri.path}": { "pattern": r"(^|/)\.\.?(/|$)" } } });
        routes.push(refuse(404, dots, "There is nothing here."));
    }
    // Each is a condition of its own: a path must be one of those that are served, and lie below the prefix.
    for list in [&options.paths[..], options.strip_prefix.as_slice()] {
        if !list.is_empty() {
            let paths: Vec<String> = list.iter().flat_map(|path| [path.clone(), format!("{path}/*")]).collect();
            routes.push(refuse(404, json!({ "not": [{ "path": paths }] }), "There is nothing here."));
        }
    }
    if let Some(socket) = &guard.limits_socket {
        if !options.login_paths.is_empty() {
            let login = json!({ "method": ["POST", "PUT"], "path": options.login_paths });
            routes.push(ask(socket, site, "login", &login, json!({})));
        }
        // Nextcloud looks for the word anywhere.
        let credentials = json!({ "header_regexp": { "Authorization": { "pattern": "(?i)basic\\s" } } });
        // Not as it came: `Connection: Authorization` would take it out of the question.
        let said = json!({ CREDENTIALS_HEADER: ["{http.request.header.Authorization}"] });
        routes.push(ask(socket, site, "credentials", &credentials, said));
    }
    if !options.users.is_empty() {
        let accounts: Vec<Value> =
            options.users.iter().map(|user| json!({ "username": user.name, "password": user.hash })).collect();
        routes.push(json!({ "handle": [
            {
                "handler": "authentication",
                "providers": { "http_basic": {
                    "accounts": accounts,
                    "hash": { "algorithm": "bcrypt" },
                    // A browser sends the password with every request, and checking it takes long on purpose.
                    "hash_cache": {},
                    "realm": site.service,
                } },
            },
            // The password is not the service's business.
            { "handler": "headers", "request": { "delete": ["Authorization"] } },
        ] }));
    }
    if let Some(auth) = &options.forward_auth {
        routes.push(json!({ "handle": forward_auth(auth) }));
    }
    if let Some(prefix) = &options.strip_prefix {
        routes.push(json!({ "handle": [
            { "handler": "headers", "request": { "set": { "X-Forwarded-Prefix": [prefix] } } },
            { "handler": "rewrite", "strip_path_prefix": prefix },
        ] }));
    }
    json!({
        "match": [{ "not": [{ "vars": { PROBE: ["yes"] } }] }],
        "handle": [{ "handler": "subroute", "routes": routes }],
    })
}

/// Asks edge-agent whether an attempt may pass. While it is dead or slow everything passes: a login that is not counted is better
/// than none, and the application counts too.
fn ask(socket: &str, site: &Site, what: &str, matcher: &Value, mut said: Value) -> Value {
    // Each question for itself: what fails in the second is not what the first has answered.
    let variable = format!("{ASKED}_{what}");
    let asked = json!({ "handler": "vars", variable.as_str(): "yes" });
    said[CLIENT_HEADER] = json!(["{http.request.remote.host}"]);
    said[SITE_HEADER] = json!([site.hostname]);
    said[ATTEMPT_HEADER] = json!([what]);
    json!({
        "match": [matcher],
        "handle": [{
            "handler": "subroute",
            "routes": [{ "handle": [{
                "handler": "reverse_proxy",
                "upstreams": [{ "dial": format!("unix/{socket}") }],
                "transport": { "protocol": "http", "dial_timeout": "1s", "response_header_timeout": "1s" },
                "rewrite": { "method": "GET", "uri": "/" },
                "headers": { "request": { "set": said, "delete": ["Authorization", "Cookie"] } },
                "handle_response": [
                    { "match": { "status_code": [429] }, "routes": [{ "handle": [
                        asked,
                        { "handler": "copy_response_headers", "include": ["Retry-After"] },
                        {
                            "handler": "static_response",
                            "status_code": 429,
                            "body": "Too many attempts to log in. Wait a little before the next one.\n",
                        },
                    ] }] },
                    { "routes": [{ "handle": [asked] }] },
                ],
            }] }],
            // What fails after the question is not the question's failure.
            "errors": { "routes": [{
                "match": [{ "vars": { variable: ["yes"] } }],
                "handle": [{ "handler": "error", "status_code": "{http.error.status_code}" }],
            }] },
        }],
    })
}

/// A request whose judge is away is not let in: the visitor gets the holding page.
fn forward_auth(auth: &ForwardAuth) -> Value {
    let mut handlers = Vec::new();
    let mut granted = Vec::new();
    for name in &auth.copy {
        handlers.push(json!({ "handler": "headers", "request": { "delete": [name] } }));
        granted.push(json!({
            "match": [{ "not": [{ "vars": { format!("{{http.reverse_proxy.header.{name}}}"): [""] } }] }],
            "handle": [{
                "handler": "headers",
                "request": { "set": { name: [format!("{{http.reverse_proxy.header.{name}}}")] } },
            }],
        }));
    }
    granted.push(json!({ "handle": [{ "handler": "vars" }] }));
    handlers.push(json!({
        "handler": "reverse_proxy",
        "upstreams": [{ "dial": auth.upstream.to_string() }],
        "transport": { "protocol": "http", "dial_timeout": "2s", "response_header_timeout": "5s" },
        "rewrite": { "method": "GET", "uri": auth.uri },
        "headers": { "request": { "set": {
            "X-Forwarded-Method": ["{http.request.method}"],
            "X-Forwarded-Uri": ["{http.request.uri}"],
            "X-Real-IP": ["{http.request.remote.host}"],
        } } },
        "handle_response": [{ "match": { "status_code": [2] }, "routes": granted }],
    }));
    Value::Array(handlers)
}
