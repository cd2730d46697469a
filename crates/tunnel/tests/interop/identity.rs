//! Another identity while sessions go on: certificates of another authority, other tls-crypt-v2 keys.

use std::fs;
use std::os::unix::net::UnixDatagram;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};

use crate::support::{Lab, Side, cannot_run, make_v2_client_key, make_v2_server_key};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";
/// Room for two renewals of a key that is renewed every three seconds.
const TIME: u32 = 8;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `name`, in the file of `name`.
    fn issue(&self, lab: &Lab, name: &str) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(format!("urn:test:{name}").try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        fs::write(lab.path(&format!("{name}.pem")), params.signed_by(&key, &self.0).unwrap().pem()).unwrap();
        fs::write(lab.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn list(&self) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// Has our end read its files again.
fn identify(lab: &Lab, count: usize) {
    UnixDatagram::unbound().unwrap().send_to(b"identify 0", lab.path("orders")).unwrap();
    let log = lab.wait_for_count("ours", "Identified(", count);
    assert!(!log.contains("Identified(Err"), "{log}");
}

fn copy(lab: &Lab, from: &str, to: &str) {
    fs::copy(lab.path(from), lab.path(to)).unwrap();
}

#[track_caller]
fn nothing_is_lost(lab: &Lab) {
    let (sent, answered) = lab.echo(Side::Client, "10.8.0.1", TIME);
    assert_eq!(sent, answered, "lost echoes\n{}", lab.all_logs());
}

/// A stock client trusts both authorities, as a profile that was made during the overlap says.
#[test]
fn a_stock_client_renews_across_a_new_authority_and_a_new_server_key() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (old, new) = (Authority::new("Old root"), Authority::new("New root"));
    fs::write(lab.path("ca.pem"), old.0.pem() + &new.0.pem()).unwrap();
    fs::write(lab.path("crl.pem"), old.list() + &new.list()).unwrap();
    for name in ["server", "client", "late"] {
        old.issue(&lab, name);
    }
    let path = |name: &str| lab.path(name);
    let (server_key, older_key) = (path("v2s.key"), path("v2s-older.key"));
    let (client_key, new_client_key) = (path("v2c.key"), path("v2c-new.key"));
    make_v2_server_key(&server_key);
    make_v2_client_key(&server_key, &client_key, None);
    copy(&lab, "v2s.key", "v2s-older.key");
    let told = [
        POOL,
        "reneg=3",
        &format!("crl={}", lab.path("crl.pem")),
        &format!("orders={}", lab.path("orders")),
        &format!("tls_crypt_v2_server={server_key}"),
        &format!("tls_crypt_v2_older={older_key}"),
    ];
    lab.spawn_ours(Side::Server, "ours", "server", &told);
    lab.wait_for("ours", "Listening");
    let stock = ["--tls-crypt-v2", &client_key, "--reneg-sec", "0"];
    lab.spawn_stock(Side::Client, "stock", "client", &stock);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert!(!lab.log("stock").contains("New root"));

    // The listener is somebody of the new authority, and has a new key beside the old one.
    new.issue(&lab, "server");
    make_v2_server_key(&server_key);
    make_v2_client_key(&server_key, &new_client_key, None);
    identify(&lab, 1);
    nothing_is_lost(&lab);
    let log = lab.wait_for("stock", "VERIFY OK: depth=1, CN=New root");
    assert_eq!(log.matches("Initialization Sequence Completed").count(), 1, "{log}");
    assert!(!log.contains("TLS Error"), "{log}");
    // Newcomers with keys and certificates of both times.
    lab.spawn_stock(Side::Client, "with-old", "late", &["--tls-crypt-v2", &client_key, "--dev", "tun7"]);
    lab.wait_for("with-old", "Initialization Sequence Completed");
    lab.finish("with-old");
    new.issue(&lab, "late");
    lab.spawn_stock(Side::Client, "with-new", "late", &["--tls-crypt-v2", &new_client_key, "--dev", "tun7"]);
    lab.wait_for("with-new", "Initialization Sequence Completed");
    lab.finish("with-new");

    // The overlap is over: the old key opens nothing any more, and the session that began with it goes on.
    copy(&lab, "v2s.key", "v2s-older.key");
    identify(&lab, 2);
    lab.spawn_stock(Side::Client, "too-late", "late", &["--tls-crypt-v2", &client_key, "--dev", "tun7"]);
    lab.wait_for("too-late", "link remote");
    nothing_is_lost(&lab);
    assert!(!lab.finish("too-late").contains("Peer Connection Initiated"));
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=3") && log.contains("renewals_failed=0"), "{log}");
    assert!(log.contains("dropped wrap="), "{log}");
    assert_eq!(lab.log("stock").matches("Initialization Sequence Completed").count(), 1);
}

/// Both ends are ours: what each shows changes, one after the other, and the dialer's key too.
#[test]
fn our_ends_renew_across_new_identities() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (old, new) = (Authority::new("Root"), Authority::new("Root"));
    fs::write(lab.path("ca.pem"), old.0.pem() + &new.0.pem()).unwrap();
    fs::write(lab.path("crl.pem"), old.list() + &new.list()).unwrap();
    old.issue(&lab, "server");
    old.issue(&lab, "client");
    let (server_key, client_key) = (lab.path("v2s.key"), lab.path("v2c.key"));
    make_v2_server_key(&server_key);
    make_v2_client_key(&server_key, &client_key, None);
    let crl = format!("crl={}", lab.path("crl.pem"));
    let key = format!("tls_crypt_v2_server={server_key}");
    lab.spawn_ours(Side::Server, "listener", "server", &["static=urn:test:client/10.8.0.2", "reneg=0", &crl, &key]);
    lab.wait_for("listener", "Listening");
    let orders = format!("orders={}", lab.path("orders"));
    let key = format!("tls_crypt_v2={client_key}");
    lab.spawn_ours(Side::Client, "ours", "client", &["peer=urn:test:server", "reneg=2", &crl, &orders, &key]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);

    new.issue(&lab, "client");
    make_v2_client_key(&server_key, &client_key, None);
    identify(&lab, 1);
    nothing_is_lost(&lab);
    // A file that makes no identity changes nothing.
    fs::write(lab.path("client.pem"), old.0.pem()).unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"identify 0", lab.path("orders")).unwrap();
    lab.wait_for("ours", "Identified(Err");
    nothing_is_lost(&lab);
    // A new session begins with the new key.
    UnixDatagram::unbound().unwrap().send_to(b"reconnect 0", lab.path("orders")).unwrap();
    lab.wait_for_count("ours", "PeerConnected(", 2);
    lab.ping(Side::Client, "10.8.0.1", 56);
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=2 handshakes_failed=0"), "{log}");
    assert!(log.contains("renewals_failed=0") && !log.contains("renewals_completed=0"), "{log}");
}

/// A stock server ends a session in whose renewal the client shows another certificate: ours begins a new one before that.
#[test]
fn our_dialer_shows_a_new_certificate_to_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let authority = Authority::new("Root");
    fs::write(lab.path("ca.pem"), authority.0.pem()).unwrap();
    authority.issue(&lab, "server");
    authority.issue(&lab, "client");
    lab.spawn_stock(Side::Server, "stock", "server", &["--reneg-sec", "0"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    let orders = format!("orders={}", lab.path("orders"));
    lab.spawn_ours(Side::Client, "ours", "client", &["peer=urn:test:server", "reneg=3", &orders]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    authority.issue(&lab, "client");
    identify(&lab, 1);
    lab.wait_for_count("ours", "PeerConnected(", 2);
    lab.ping(Side::Client, "10.8.0.1", 56);
    // It can be renewed.
    nothing_is_lost(&lab);
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=2 handshakes_failed=0"), "{log}");
    assert!(log.contains("renewals_failed=0") && !log.contains("renewals_completed=0"), "{log}");
    assert!(!lab.log("stock").contains("unexpectedly changed"));
}
