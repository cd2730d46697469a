//! Caddy's whole configuration as a pure function of what the edge publishes.

use std::net::{IpAddr, SocketAddr};

use model::{HostId, Hostname, ServiceName};
use serde_json::{Map, Value, json};

/// Carried by every holding page of ours, so that it can be told from an application's own 503.
pub const HOLDING_HEADER: &str = "Cloudathome-State";

const RETRY_AFTER_SECONDS: &str = "15";
/// Half a year: what Nextcloud's own check asks for. Without `includeSubDomains`, for the domain's other names are
/// not ours.
const HSTS: &str = "max-age=15552000";

/// What a visitor could send to be taken for somebody else or to mislead an application. Caddy itself replaces
/// `X-Forwarded-For`, `-Proto` and `-Host`. PHP and others make no difference between `X_Real_Ip` and `X-Real-IP`,
/// therefore no name with an underscore passes (`*_*`).
const FORGEABLE_HEADERS: [&str; 17] = [
    "*_*",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "Client-IP",
    "Fastly-Client-IP",
    "Forwarded",
    "Front-End-Https",
    "Proxy",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Original-URL",
    "X-Rewrite-URL",
];

/// Everything the ingress is to do. Paths are as Caddy sees them inside its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressState {
    /// Absolute path of the admin endpoint's unix socket.
    pub admin_socket: String,
    /// Where it listens.
    pub listen: Listen,
    /// Where certificates come from.
    pub acme: Acme,
    /// What it publishes. With none, every plain HTTP request gets the holding page and nothing is served by TLS:
    /// the configuration to start with.
    pub sites: Vec<Site>,
}

/// Where Caddy listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// One address, or all.
    pub address: Option<IpAddr>,
    /// Plain HTTP, usually 80.
    pub http_port: u16,
    /// HTTPS over TCP and QUIC, usually 443.
    pub https_port: u16,
}

impl Default for Listen {
    fn default() -> Self {
        Self { address: None, http_port: 80, https_port: 443 }
    }
}

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The ACME server's directory URL.
    pub directory: String,
    /// Whom the ACME server may write to.
    pub email: Option<String>,
    /// PEM files with the roots that the ACME server's own HTTPS chains to, when it is not a public one.
    pub trusted_roots: Vec<String>,
}

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
    /// Further names that lead visitors to this one.
    pub also: Vec<Hostname>,
    /// The path that shows it well.
    pub health_path: String,
    /// The status of its answer there when it is well; none: any below 500.
    pub health_status: Option<u16>,
    /// Whether calendar and contact clients are led from `/.well-known` to Nextcloud's address for them.
    pub well_known_dav: bool,
}

/// The whole configuration. The admin endpoint is part of every one: without it Caddy would open its default one on
/// a TCP port for every user of the host.
#[must_use]
pub fn render(state: &IngressState) -> Value {
    let at = |port: u16| match state.listen.address {
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => format!(":{port}"),
    };
    let mut servers = Map::new();
    servers.insert(
        "http".to_owned(),
        json!({
            "listen": [at(state.listen.http_port)],
            // Ours below; certificates are managed all the same, and ACME's HTTP challenge is answered.
            "automatic_https": { "disable_redirects": true },
            "routes": http_routes(&state.sites),
        }),
    );
    if !state.sites.is_empty() {
        servers.insert(
            "https".to_owned(),
            json!({
                "listen": [at(state.listen.https_port)],
                "protocols": ["h1", "h2", "h3"],
                "automatic_https": { "disable_redirects": true },
                "tls_connection_policies": [{}],
                "routes": https_routes(&state.sites),
                "errors": { "routes": error_routes(&state.sites) },
            }),
        );
    }
    json!({
        "admin": { "listen": format!("unix/{}|0600", state.admin_socket) },
        "apps": {
            "http": {
                "http_port": state.listen.http_port,
                "https_port": state.listen.https_port,
                "servers": servers,
            },
            "tls": { "automation": { "policies": [{ "issuers": [issuer(&state.acme)] }] } },
        },
    })
}

fn issuer(acme: &Acme) -> Value {
    let mut issuer = json!({ "module": "acme", "ca": acme.directory });
    if let Some(email) = &acme.email {
        issuer["email"] = json!(email);
    }
    if !acme.trusted_roots.is_empty() {
        issuer["trusted_roots_pem_files"] = json!(acme.trusted_roots);
    }
    issuer
}

fn http_routes(sites: &[Site]) -> Value {
    if sites.is_empty() {
        return json!([{ "handle": [holding_page("This server", false)] }]);
    }
    let names: Vec<&Hostname> =
        sites.iter().flat_map(|site| std::iter::once(&site.hostname).chain(&site.also)).collect();
    json!([
        {
            "match": [{ "host": names }],
            "terminal": true,
            "handle": [{
                "handler": "static_response",
                "status_code": 308,
                "headers": { "Location": ["https://{http.request.host}{http.request.uri}"] },
            }],
        },
        unknown_host(),
    ])
}

fn https_routes(sites: &[Site]) -> Value {
    let mut routes: Vec<Value> = sites
        .iter()
        .map(|site| {
            json!({
                "match": [{ "host": [site.hostname] }],
                "terminal": true,
                "handle": [{ "handler": "subroute", "routes": site_routes(site) }],
            })
        })
        .collect();
    routes.extend(sites.iter().filter(|site| !site.also.is_empty()).map(|site| {
        json!({
            "match": [{ "host": site.also }],
            "terminal": true,
            "handle": [{
                "handler": "static_response",
                "status_code": 308,
                "headers": {
                    "Location": [format!("https://{}{{http.request.uri}}", site.hostname)],
                    "Strict-Transport-Security": [HSTS],
                },
            }],
        })
    }));
    routes.push(unknown_host());
    Value::Array(routes)
}

fn unknown_host() -> Value {
    json!({
        "handle": [{ "handler": "static_response", "status_code": 404, "body": "No site of this name is here.\n" }],
    })
}

fn site_routes(site: &Site) -> Value {
    let Some(upstream) = site.upstream else {
        return json!([{ "handle": [holding_page(site.service.as_str(), true)] }]);
    };
    let mut routes = vec![json!({
        "handle": [{
            "handler": "headers",
            "response": { "deferred": true, "set": { "Strict-Transport-Security": [HSTS] } },
        }],
    })];
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
                "headers": { "Location": ["/remote.php/dav"] },
            }],
        }));
    }
    routes.push(json!({ "handle": [reverse_proxy(site, upstream)] }));
    Value::Array(routes)
}

/// Bodies are never buffered (uploads are gigabytes), and `trusted_proxies` is never set: the edge is the first proxy
/// a visitor meets, so whatever a request says about earlier ones is forged.
fn reverse_proxy(site: &Site, upstream: SocketAddr) -> Value {
    let mut proxy = json!({
        "handler": "reverse_proxy",
        "upstreams": [{ "dial": upstream.to_string() }],
        "transport": { "protocol": "http", "dial_timeout": "2s" },
        "headers": {
            "request": {
                "set": { "X-Real-IP": ["{http.request.remote.host}"] },
                "delete": FORGEABLE_HEADERS,
            },
        },
    });
    // Caddy's own watch: it turns to the holding page even if the agents are dead, and when the application accepts
    // connections without answering. Patient enough not to trip over a busy disk. It needs one status to expect.
    if let Some(status) = site.health_status {
        proxy["health_checks"] = json!({ "active": {
            "uri": site.health_path,
            "headers": { "Host": [site.hostname], "X-Forwarded-Proto": ["https"] },
            "interval": "2s",
            "timeout": "3s",
            "fails": 2,
            "expect_status": status,
        } });
    }
    proxy
}

/// When an upstream cannot be reached, its visitors see the holding page; any other error stays what it is.
fn error_routes(sites: &[Site]) -> Value {
    let routes: Vec<Value> = sites
        .iter()
        .map(|site| {
            json!({
                "match": [{
                    "host": [site.hostname],
                    "expression": "{http.error.status_code} in [502, 503, 504]",
                }],
                "terminal": true,
                "handle": [holding_page(site.service.as_str(), true)],
            })
        })
        .collect();
    Value::Array(routes)
}

/// No braces in the page: Caddy would take them for placeholders.
fn holding_page(what: &str, secure: bool) -> Value {
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"{RETRY_AFTER_SECONDS}\"><title>Back soon</title></head>\
         <body style=\"font-family: sans-serif; max-width: 32em; margin: 20vh auto; padding: 0 1em\">\
         <h1>Back soon</h1><p>{what} cannot be reached at the moment. \
         This page tries again by itself every {RETRY_AFTER_SECONDS} seconds.</p></body></html>\n"
    );
    let mut headers = json!({
        "Cache-Control": ["no-store"],
        "Content-Type": ["text/html; charset=utf-8"],
        "Retry-After": [RETRY_AFTER_SECONDS],
        HOLDING_HEADER: ["holding"],
    });
    if secure {
        headers["Strict-Transport-Security"] = json!([HSTS]);
    }
    json!({ "handler": "static_response", "status_code": 503, "headers": headers, "body": body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(hostname: &str, upstream: Option<&str>) -> Site {
        Site {
            host: "attic".parse().unwrap(),
            service: "nextcloud".parse().unwrap(),
            hostname: hostname.parse().unwrap(),
            upstream: upstream.map(|text| text.parse().unwrap()),
            also: vec![],
            health_path: "/status.php".to_owned(),
            health_status: Some(200),
            well_known_dav: true,
        }
    }

    fn state(sites: Vec<Site>) -> IngressState {
        IngressState {
            admin_socket: "/run/caddy-admin/admin.sock".to_owned(),
            listen: Listen::default(),
            acme: Acme {
                directory: "https://acme.test/dir".to_owned(),
                email: Some("me@example.com".to_owned()),
                trusted_roots: vec!["/etc/acme/root.pem".to_owned()],
            },
            sites,
        }
    }

    #[test]
    fn every_configuration_has_the_admin_socket_and_stays_persistent() {
        for sites in [vec![], vec![site("a.example.com", None)], vec![site("a.example.com", Some("10.86.0.2:80"))]] {
            let config = render(&state(sites));
            assert_eq!(config["admin"], json!({ "listen": "unix//run/caddy-admin/admin.sock|0600" }));
        }
    }

    #[test]
    fn nothing_ever_trusts_or_buffers_a_request() {
        let text = render(&state(vec![site("a.example.com", Some("10.86.0.2:80"))])).to_string();
        for never in ["trusted_proxies", "request_buffers", "response_buffers"] {
            assert!(!text.contains(never), "{never}");
        }
    }

    #[test]
    fn the_first_configuration_holds_plain_http_and_opens_no_tls() {
        let config = render(&state(vec![]));
        let servers = config["apps"]["http"]["servers"].as_object().unwrap();
        assert_eq!(servers.keys().collect::<Vec<_>>(), ["http"]);
        let page = &servers["http"]["routes"][0]["handle"][0];
        assert_eq!(page["status_code"], 503);
        assert_eq!(page["headers"]["Retry-After"], json!(["15"]));
        assert!(!page["body"].as_str().unwrap().contains(['{', '}']), "placeholders in the page");
        assert_eq!(
            config["apps"]["tls"]["automation"]["policies"],
            json!([{ "issuers": [{
                "module": "acme",
                "ca": "https://acme.test/dir",
                "email": "me@example.com",
                "trusted_roots_pem_files": ["/etc/acme/root.pem"],
            }] }])
        );
    }

    #[test]
    fn a_healthy_site_is_proxied_and_a_held_one_is_not() {
        let config =
            render(&state(vec![site("cloud.example.com", Some("10.86.0.2:8080")), site("b.example.com", None)]));
        let server = &config["apps"]["http"]["servers"]["https"];
        assert_eq!(server["listen"], json!([":443"]));
        assert_eq!(server["routes"].as_array().unwrap().len(), 3);
        assert_eq!(server["routes"][0]["match"], json!([{ "host": ["cloud.example.com"] }]));
        let inner = &server["routes"][0]["handle"][0]["routes"];
        assert_eq!(inner[1]["handle"][0]["headers"]["Location"], json!(["/remote.php/dav"]));
        let proxy = &inner[2]["handle"][0];
        assert_eq!(proxy["upstreams"], json!([{ "dial": "10.86.0.2:8080" }]));
        assert_eq!(proxy["transport"]["dial_timeout"], "2s");
        let headers = &proxy["headers"]["request"];
        assert_eq!(headers["set"], json!({ "X-Real-IP": ["{http.request.remote.host}"] }));
        assert!(headers["delete"].as_array().unwrap().contains(&json!("Forwarded")));

        let held = &server["routes"][1]["handle"][0]["routes"];
        assert_eq!(held.as_array().unwrap().len(), 1);
        assert_eq!(held[0]["handle"][0]["status_code"], 503);
        assert_eq!(server["errors"]["routes"].as_array().unwrap().len(), 2);
        assert_eq!(
            config["apps"]["http"]["servers"]["http"]["routes"][0]["match"],
            json!([{ "host": ["cloud.example.com", "b.example.com"] }])
        );
    }

    #[test]
    fn further_names_lead_to_the_first_and_have_certificates_too() {
        let site =
            Site { also: vec!["www.example.com".parse().unwrap()], ..site("example.com", Some("127.0.0.1:2368")) };
        let servers = &render(&state(vec![site]))["apps"]["http"]["servers"];
        let route = &servers["https"]["routes"][1];
        assert_eq!(route["match"], json!([{ "host": ["www.example.com"] }]));
        assert_eq!(route["handle"][0]["headers"]["Location"], json!(["https://example.com{http.request.uri}"]));
        assert_eq!(servers["http"]["routes"][0]["match"], json!([{ "host": ["example.com", "www.example.com"] }]));
    }

    #[test]
    fn caddy_watches_what_has_a_status_to_expect() {
        let proxy = |status: Option<u16>| {
            let site = Site { health_status: status, ..site("a.example.com", Some("10.86.0.2:80")) };
            reverse_proxy(&site, "10.86.0.2:80".parse().unwrap())
        };
        assert_eq!(proxy(Some(204))["health_checks"]["active"]["expect_status"], 204);
        assert_eq!(proxy(None)["health_checks"], Value::Null);
    }

    #[test]
    fn one_address_and_other_ports_can_be_chosen() {
        let mut state = state(vec![site("a.example.com", None)]);
        state.listen = Listen { address: Some("198.51.100.10".parse().unwrap()), http_port: 8080, https_port: 8443 };
        let http = &render(&state)["apps"]["http"];
        assert_eq!(http["servers"]["http"]["listen"], json!(["198.51.100.10:8080"]));
        assert_eq!(http["servers"]["https"]["listen"], json!(["198.51.100.10:8443"]));
        assert_eq!((&http["http_port"], &http["https_port"]), (&json!(8080), &json!(8443)));
    }
}
