//! Caddy's whole configuration as a pure function of what the edge publishes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use model::Hostname;
use serde_json::{Map, Value, json};

use crate::guard::Guard;
use crate::site::{self, Site};
use crate::{access_log, holding};

/// Everything the ingress is to do. Paths are as Caddy sees them inside its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressState {
    /// Absolute path of the admin endpoint's unix socket.
    pub admin_socket: String,
    /// Where it listens.
    pub listen: Listen,
    /// Where certificates come from.
    pub acme: Acme,
    /// Certificates that it need not order.
    pub certificates: Certificates,
    /// What it publishes. With none, every plain HTTP request gets the holding page and nothing is served by TLS:
    /// the configuration to start with.
    pub sites: Vec<Site>,
    /// Who watches over its doors.
    pub guard: Guard,
    /// Absolute path of the file that visits are written to; none: they are not.
    pub access_log: Option<String>,
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

/// Certificates that somebody else gets for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// PEM files, each with a chain and its key.
    pub files: Vec<String>,
    /// Published names that it orders no certificate for.
    pub not_ordered: Vec<Hostname>,
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
            "automatic_https": automatic_https(&state.certificates),
            "routes": http_routes(&state.sites),
        }),
    );
    if !state.sites.is_empty() {
        servers.insert(
            "https".to_owned(),
            json!({
                "listen": [at(state.listen.https_port)],
                "protocols": ["h1", "h2", "h3"],
                "automatic_https": automatic_https(&state.certificates),
                "tls_connection_policies": [{}],
                "routes": https_routes(&state.sites, &state.guard),
                "errors": { "routes": error_routes(&state.sites) },
            }),
        );
    }
    let mut config = json!({
        "admin": { "listen": format!("unix/{}|0600", state.admin_socket) },
        "apps": {
            "http": {
                "http_port": state.listen.http_port,
                "https_port": state.listen.https_port,
                "servers": servers,
            },
            "tls": { "automation": { "policies": [{ "issuers": [issuer(&state.acme)] }] } },
        },
    });
    if !state.certificates.files.is_empty() {
        let load = |file: &String| json!({ "certificate": file, "key": file });
        let files: Vec<Value> = state.certificates.files.iter().map(load).collect();
        config["apps"]["tls"]["certificates"] = json!({ "load_files": files });
    }
    if let Some(file) = state.access_log.as_ref().filter(|_| !state.sites.is_empty()) {
        access_log::add(&mut config, "https", file);
    }
    config
}

/// Redirects are ours. Certificates are managed, and ACME's HTTP challenge is answered, but for names that are left out.
fn automatic_https(certificates: &Certificates) -> Value {
    let mut automatic = json!({ "disable_redirects": true });
    if !certificates.not_ordered.is_empty() {
        automatic["skip_certificates"] = json!(certificates.not_ordered);
    }
    automatic
}

/// The names that a configuration of ours, as Caddy has it in force, has Caddy order certificates for.
#[must_use]
pub fn ordered_names(config: &Value) -> BTreeSet<String> {
    let server = &config["apps"]["http"]["servers"]["https"];
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let routes = server["routes"].as_array().into_iter().flatten();
    let mut names: BTreeSet<String> = routes.flat_map(|route| texts(&route["match"][0]["host"])).collect();
    for name in texts(&server["automatic_https"]["skip_certificates"]) {
        names.remove(&name);
    }
    names
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
        return holding::of_the_server();
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

fn https_routes(sites: &[Site], guard: &Guard) -> Value {
    let mut routes: Vec<Value> = sites
        .iter()
        .map(|site| {
            json!({
                "match": [{ "host": [site.hostname] }],
                "terminal": true,
                "handle": [{ "handler": "subroute", "routes": site::routes(site, guard) }],
            })
        })
        .collect();
    routes.extend(sites.iter().filter(|site| !site.also.is_empty()).map(|site| {
        json!({
            "match": [{ "host": site.also }],
            "terminal": true,
            "handle": site::redirect(site),
        })
    }));
    routes.push(unknown_host());
    Value::Array(routes)
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
                "handle": [{ "handler": "subroute", "routes": holding::of_a_site(site) }],
            })
        })
        .collect();
    Value::Array(routes)
}

fn unknown_host() -> Value {
    json!({
        "handle": [{ "handler": "static_response", "status_code": 404, "body": "No site of this name is here.\n" }],
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn site(hostname: &str, upstream: Option<&str>) -> Site {
        Site {
            host: "attic".parse().unwrap(),
            service: "nextcloud".parse().unwrap(),
            hostname: hostname.parse().unwrap(),
            upstream: upstream.map(|text| text.parse().unwrap()),
            away: None,
            also: vec![],
            health_path: "/status.php".to_owned(),
            health_status: Some(200),
            well_known_dav: true,
            options: model::IngressOptions::default(),
            full: false,
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
            certificates: Certificates::default(),
            sites,
            guard: Guard::default(),
            access_log: None,
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
        let inner = server["routes"][0]["handle"][0]["routes"].as_array().unwrap();
        let forged = inner[1]["handle"][0]["request"]["delete"].as_array().unwrap();
        assert!(forged.contains(&json!("Forwarded")) && forged.contains(&json!("X-Forwarded-*")), "{forged:?}");
        let proxy = &inner.last().unwrap()["handle"][0];
        assert_eq!(proxy["upstreams"], json!([{ "dial": "10.86.0.2:8080" }]));
        assert_eq!(proxy["transport"]["dial_timeout"], "2s");
        assert_eq!(proxy["headers"]["request"]["set"], json!({ "X-Real-IP": ["{http.request.remote.host}"] }));

        let held = &server["routes"][1]["handle"][0]["routes"];
        assert_eq!(held.as_array().unwrap().len(), 2);
        assert!(held.as_array().unwrap().iter().all(|route| route["handle"][0]["status_code"] == 503));
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
    fn certificates_of_others_are_loaded_and_not_ordered() {
        let mut state = state(vec![site("a.example.com", None), site("b.x.example.com", None)]);
        let names = |config: &Value| ordered_names(config).into_iter().collect::<Vec<_>>();
        assert_eq!(names(&render(&state)), ["a.example.com", "b.x.example.com"]);
        assert_eq!(render(&state)["apps"]["tls"]["certificates"], Value::Null);
        state.certificates =
            Certificates { files: vec!["/run/c.pem".to_owned()], not_ordered: vec!["a.example.com".parse().unwrap()] };
        let config = render(&state);
        assert_eq!(
            config["apps"]["tls"]["certificates"],
            json!({ "load_files": [{ "certificate": "/run/c.pem", "key": "/run/c.pem" }] })
        );
        for server in ["http", "https"] {
            let automatic = &config["apps"]["http"]["servers"][server]["automatic_https"];
            assert_eq!(*automatic, json!({ "disable_redirects": true, "skip_certificates": ["a.example.com"] }));
        }
        assert_eq!(names(&config), ["b.x.example.com"]);
        assert!(ordered_names(&Value::Null).is_empty());
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
