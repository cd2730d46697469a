//! Every protection of the control channel with stock peers, both roles, with renewals.

use crate::support::{Lab, Side, cannot_run, make_v2_client_key, make_v2_server_key};

/// What the four kinds of ends are told.
pub(crate) struct Words {
    pub(crate) our_listener: Vec<String>,
    pub(crate) our_dialer: Vec<String>,
    pub(crate) stock_server: Vec<String>,
    pub(crate) stock_client: Vec<String>,
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

pub(crate) fn tls_auth(lab: &Lab, directed: bool, digest: &str) -> Words {
    let key = lab.path("ta.key");
    let (zero, one) = if directed { ("0", "1") } else { ("", "") };
    let ours = |direction: &str| {
        let direction = if directed { format!("direction={direction}") } else { String::new() };
        words(&format!("tls_auth={key} auth={digest} {direction}"))
    };
    let stock = |direction: &str| words(&format!("--tls-auth {key} {direction} --auth {digest}"));
    Words { our_listener: ours(zero), our_dialer: ours(one), stock_server: stock(zero), stock_client: stock(one) }
}

pub(crate) fn tls_crypt_v2(lab: &Lab, metadata: Option<&str>) -> Words {
    let (server, client) = (lab.path("v2s.key"), lab.path("v2c.key"));
    make_v2_server_key(&server);
    make_v2_client_key(&server, &client, metadata);
    Words {
        our_listener: words(&format!("tls_crypt_v2_server={server}")),
        our_dialer: words(&format!("tls_crypt_v2={client}")),
        stock_server: words(&format!("--tls-crypt-v2 {server} force-cookie")),
        stock_client: words(&format!("--tls-crypt-v2 {client}")),
    }
}

pub(crate) fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Both roles of ours, each with a stock peer, through two renewals under load.
fn both_roles(make: impl Fn(&Lab) -> Words) {
    if cannot_run() {
        return;
    }
    for we_listen in [true, false] {
        let mut lab = Lab::new();
        let words = make(&lab);
        if we_listen {
            let pool = ["pool=10.8.0.10-10.8.0.20", "reneg=3"];
            lab.spawn_ours(Side::Server, "ours", "server", &[&pool, &*borrowed(&words.our_listener)].concat());
            lab.wait_for("ours", "Listening");
            lab.spawn_stock(Side::Client, "stock", "client", &borrowed(&words.stock_client));
            lab.wait_for("stock", "Initialization Sequence Completed");
        } else {
            let reneg = ["--reneg-sec", "3", "3"];
            lab.spawn_stock(Side::Server, "stock", "server", &[&reneg, &*borrowed(&words.stock_server)].concat());
            lab.wait_for("stock", "Initialization Sequence Completed");
            lab.spawn_ours(Side::Client, "ours", "client", &borrowed(&words.our_dialer));
            lab.wait_for("ours", "PeerConnected");
        }
        lab.ping(Side::Client, "10.8.0.1", 56);
        let (sent, answered) = lab.echo(Side::Client, "10.8.0.1", 8);
        let log = lab.log("stock");
        assert_eq!(sent, answered, "{log}");
        for error in ["TLS Error", "decrypt packet error", "AEAD Decrypt error", "used inconsistently"] {
            assert!(!log.contains(error), "{error} in\n{log}");
        }
        let ours = lab.finish("ours");
        assert!(ours.contains("handshakes_completed=1 handshakes_failed=0"), "{ours}");
        let renewed = !ours.contains("renewals_completed=0") && !ours.contains("renewals_completed=1 ");
        assert!(renewed && ours.contains("renewals_failed=0"), "{ours}");
    }
}

#[test]
fn tls_auth_without_direction() {
    both_roles(|lab| tls_auth(lab, false, "SHA1"));
}

#[test]
fn tls_auth_with_direction() {
    both_roles(|lab| tls_auth(lab, true, "SHA1"));
}

#[test]
fn tls_auth_sha256() {
    both_roles(|lab| tls_auth(lab, true, "SHA256"));
}

#[test]
fn tls_auth_sha512() {
    both_roles(|lab| tls_auth(lab, true, "SHA512"));
}

#[test]
fn tls_crypt_v2_with_timestamp() {
    both_roles(|lab| tls_crypt_v2(lab, None));
}

#[test]
fn tls_crypt_v2_with_the_largest_metadata() {
    // 733 bytes.
    let base64 = format!("{}eA==", "eHh4".repeat(244));
    both_roles(|lab| tls_crypt_v2(lab, Some(&base64)));
}

/// Clients with keys of their own and with the shared key, on one port.
#[test]
fn tls_crypt_v2_beside_tls_crypt() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let v2 = tls_crypt_v2(&lab, None);
    let key = lab.path("ta.key");
    let beside = [format!("tls_crypt={key}"), "pool=10.8.0.10-10.8.0.20".to_owned(), "max_age=3600".to_owned()];
    lab.spawn_ours(Side::Server, "ours", "server", &borrowed(&[&beside[..], &v2.our_listener].concat()));
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "own", "client", &borrowed(&v2.stock_client));
    lab.wait_for("own", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.finish("own");
    lab.spawn_stock(Side::Client, "shared", "client", &["--tls-crypt", &key]);
    lab.wait_for("shared", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert!(lab.finish("ours").contains("handshakes_completed=2 handshakes_failed=0"));
}

/// A stock server that would also serve clients which cannot send their key again.
#[test]
fn tls_crypt_v2_with_a_server_that_allows_older_clients() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let v2 = tls_crypt_v2(&lab, None);
    let server = lab.path("v2s.key");
    lab.spawn_stock(Side::Server, "stock", "server", &["--tls-crypt-v2", &server, "allow-noncookie"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &borrowed(&v2.our_dialer));
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
}
