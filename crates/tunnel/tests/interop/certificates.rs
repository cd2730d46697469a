//! What certificates must be, with stock peers: marks, names, fingerprints, revocation, large chains.

use std::fs;
use std::time::{Duration, Instant};

use ::relay::Faults;
use openssl::hash::MessageDigest;
use openssl::x509::X509;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RevokedCertParams,
    RsaKeySize, SanType, SerialNumber, date_time_ymd,
};

use crate::relay;
use crate::support::{Lab, SERVER, Side, cannot_run, stock};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";

/// An authority whose certificates take the places of those that the lab has made.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(lab: &Lab) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority("Root"), KeyPair::generate().unwrap()).unwrap();
        fs::write(lab.path("ca.pem"), issuer.pem()).unwrap();
        Self(issuer)
    }

    fn issue(&self, lab: &Lab, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = leaf(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        write(lab, name, &params.signed_by(&key, &self.0).unwrap().pem(), &key);
    }

    /// Puts a list in its place in one step. `end` is the year in which it ends.
    fn revoke(&self, lab: &Lab, serials: &[u64], end: i32) {
        let revoked = |&serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(end, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let new = lab.path("new-crl.pem");
        fs::write(&new, params.signed_by(&self.0).unwrap().pem().unwrap()).unwrap();
        fs::rename(new, lab.path("crl.pem")).unwrap();
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// For both roles.
fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "KG");
    params.distinguished_name.push(DnType::StateOrProvinceName, "NA");
    params.distinguished_name.push(DnType::OrganizationName, "Example, Inc");
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
    params
}

fn serial(number: u64) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.serial_number = Some(SerialNumber::from(number))
}

fn write(lab: &Lab, name: &str, chain: &str, key: &KeyPair) {
    fs::write(lab.path(&format!("{name}.pem")), chain).unwrap();
    fs::write(lab.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// Nobody who is refused has heard a key exchange message of ours: stock would log what is in it.
#[test]
fn servers_that_are_no_servers_are_refused_before_anything_is_said() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let authority = Authority::new(&lab);
    authority.issue(&lab, "client", |_| ());
    authority.issue(&lab, "bare", |params| params.key_usages.clear());
    authority.issue(&lab, "other-role", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    // `stranger` is of the lab's other authority.
    for (name, reason) in
        [("bare", "no key usage"), ("other-role", "certificate purpose"), ("stranger", "unable to get local issuer")]
    {
        let (server, ours) = (format!("{name}-server"), format!("{name}-ours"));
        lab.spawn_stock(Side::Server, &server, name, &[]);
        lab.wait_for(&server, "Initialization Sequence Completed");
        lab.spawn_ours(Side::Client, &ours, "client", &[]);
        let log = lab.wait_for(&ours, "HandshakeFailed");
        assert!(log.contains(reason), "{log}");
        lab.wait_for(&server, "alert");
        assert!(!lab.finish(&ours).contains("PeerConnected"));
        let log = lab.finish(&server);
        assert!(!log.contains("IV_VER") && !log.contains("Peer Connection Initiated"), "{log}");
    }
    lab.spawn_stock(Side::Server, "stock", "client", &[]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &[]);
    lab.wait_for("ours", "PeerConnected");
    assert!(lab.log("stock").contains("IV_VER"));
}

#[test]
fn names_of_stock_servers_are_checked() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let authority = Authority::new(&lab);
    authority.issue(&lab, "Server-1", |_| ());
    authority.issue(&lab, "client", |_| ());
    let subject = "C=KG, ST=NA, O=Example, Inc, CN=Server-1";
    lab.spawn_stock(Side::Server, "stock", "Server-1", &[]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    let good = ["peer=Server-1", "peer_prefix=Server-", &format!("peer_subject={subject}")];
    for (at, check) in good.into_iter().enumerate() {
        let log = format!("good{at}");
        lab.spawn_ours(Side::Client, &log, "client", &[check]);
        lab.wait_for(&log, "PeerConnected");
        lab.finish(&log);
    }
    for (at, (check, reason)) in [
        ("peer=Server-2", "not that of 'Server-2'"),
        ("peer_prefix=Client-", "does not begin with 'Client-'"),
        ("peer_subject=C=KG, ST=NA, O=Example, Inc, CN=Server-2", "the certificate's subject is"),
    ]
    .into_iter()
    .enumerate()
    {
        let log = format!("bad{at}");
        lab.spawn_ours(Side::Client, &log, "client", &[check]);
        let text = lab.wait_for(&log, "HandshakeFailed");
        assert!(text.contains(reason), "{text}");
        assert!(!lab.finish(&log).contains("PeerConnected"));
    }
    lab.finish("stock");

    // Stock writes the same subject in the same form.
    lab.spawn_ours(Side::Server, "ours", "Server-1", &[POOL]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "check", "client", &["--verify-x509-name", subject, "subject"]);
    lab.wait_for("check", "Initialization Sequence Completed");
}

/// A certificate that nobody but its owner signed; gives its fingerprint as the stock tools write it.
fn self_signed(lab: &Lab, name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf(name).self_signed(&key).unwrap();
    write(lab, name, &certificate.pem(), &key);
    let digest = X509::from_der(certificate.der()).unwrap().digest(MessageDigest::sha256()).unwrap();
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// Starts stock openvpn without an authority.
fn spawn_stock_without_ca(lab: &mut Lab, side: Side, log: &str, name: &str, fingerprint: &str) {
    let role = match side {
        Side::Server => "--server 10.8.0.0 255.255.255.0 --topology subnet --dh none --keepalive 2 8".to_owned(),
        Side::Client => format!("--client --nobind --remote {SERVER} 1194"),
    };
    let mut words: Vec<String> = "--dev tun --proto udp --verb 4".split(' ').map(str::to_owned).collect();
    words.extend(role.split(' ').map(str::to_owned));
    words.extend(["--cert".to_owned(), lab.path(&format!("{name}.pem"))]);
    words.extend(["--key".to_owned(), lab.path(&format!("{name}.key"))]);
    words.extend(["--peer-fingerprint".to_owned(), fingerprint.to_owned()]);
    lab.spawn(side, log, &stock(), &words);
}

#[test]
fn fingerprints_instead_of_an_authority_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (server, client) = (self_signed(&lab, "server"), self_signed(&lab, "client"));
    let other = self_signed(&lab, "other");
    spawn_stock_without_ca(&mut lab, Side::Server, "stock", "server", &client);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "wrong", "client", &[&format!("fingerprint={other}")]);
    let log = lab.wait_for("wrong", "HandshakeFailed");
    assert!(log.contains(&server) && log.contains("none of those that are taken"), "{log}");
    assert!(!lab.finish("wrong").contains("PeerConnected"));
    lab.spawn_ours(Side::Client, "ours", "client", &[&format!("fingerprint={other},{server}")]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
}

#[test]
fn fingerprints_instead_of_an_authority_with_a_stock_client() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (server, client) = (self_signed(&lab, "server"), self_signed(&lab, "client"));
    self_signed(&lab, "other");
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, &format!("fingerprint={client}")]);
    lab.wait_for("ours", "Listening");
    spawn_stock_without_ca(&mut lab, Side::Client, "wrong", "other", &server);
    let log = lab.wait_for("ours", "HandshakeFailed");
    assert!(log.contains("none of those that are taken"), "{log}");
    assert!(!lab.finish("wrong").contains("Initialization Sequence Completed"));
    spawn_stock_without_ca(&mut lab, Side::Client, "stock", "client", &server);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
}

#[test]
fn a_revoked_client_is_disconnected_and_refused() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let authority = Authority::new(&lab);
    authority.issue(&lab, "server", serial(1));
    authority.issue(&lab, "lost", serial(2));
    authority.issue(&lab, "kept", serial(3));
    authority.revoke(&lab, &[], 2090);
    let list = format!("crl={}", lab.path("crl.pem"));
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, &list, "ping=1/4"]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "lost", "lost", &["--connect-retry", "1", "2"]);
    lab.wait_for("lost", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);

    let changed = Instant::now();
    authority.revoke(&lab, &[2], 2090);
    let log = lab.wait_for("ours", "PeerDisconnected");
    assert!(log.contains("has been revoked"), "{log}");
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
    // It comes back, and is told why not.
    lab.wait_for("ours", "HandshakeFailed");
    let log = lab.wait_for("lost", "alert: certificate revoked");
    assert_eq!(log.matches("Initialization Sequence Completed").count(), 1, "{log}");
    lab.finish("lost");
    lab.spawn_stock(Side::Client, "kept", "kept", &[]);
    lab.wait_for("kept", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert_eq!(lab.finish("ours").matches("PeerConnected(").count(), 2);
}

/// A list that has ended stops renewals and newcomers, and ends no session by itself; a new one lets newcomers in.
#[test]
fn a_list_that_has_ended_stops_renewals_and_newcomers() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let authority = Authority::new(&lab);
    authority.issue(&lab, "server", serial(1));
    authority.issue(&lab, "client", serial(2));
    authority.revoke(&lab, &[9], 2090);
    let list = format!("crl={}", lab.path("crl.pem"));
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, &list, "reneg=3", "hand_window=4"]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &["--reneg-sec", "0"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.wait_for_count("stock", "Control Channel: TLSv1.3", 2);
    authority.revoke(&lab, &[9], 2021);
    lab.wait_for("stock", "alert: certificate expired");
    authority.issue(&lab, "second", serial(3));
    lab.spawn_stock(Side::Client, "second", "second", &["--dev", "tun7"]);
    let log = lab.wait_for("ours", "HandshakeFailed");
    assert!(log.contains("CRL has expired"), "{log}");
    lab.finish("second");
    lab.ping(Side::Client, "10.8.0.1", 56);
    authority.revoke(&lab, &[9], 2090);
    lab.spawn_stock(Side::Client, "third", "second", &["--dev", "tun7"]);
    lab.wait_for("third", "Initialization Sequence Completed");
    let log = lab.finish("ours");
    assert!(log.contains("has expired, so EVERY peer is refused") && !log.contains("renewals_failed=0"), "{log}");
}

#[test]
fn our_dialer_refuses_a_revoked_server() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let authority = Authority::new(&lab);
    authority.issue(&lab, "server", serial(1));
    authority.issue(&lab, "client", serial(2));
    authority.revoke(&lab, &[9], 2090);
    let list = format!("crl={}", lab.path("crl.pem"));
    lab.spawn_stock(Side::Server, "stock", "server", &[]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &[&list]);
    lab.wait_for("ours", "PeerConnected");
    authority.revoke(&lab, &[9, 1], 2090);
    lab.wait_for("ours", "PeerDisconnected");
    let log = lab.wait_for("ours", "HandshakeFailed");
    assert!(log.contains("has been revoked") && log.contains("certificate revoked"), "{log}");
    lab.wait_for("stock", "alert: certificate revoked");
}

#[test]
fn the_lowest_version_is_kept() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, "tls_min=1.3"]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "old", "client", &["--tls-version-max", "1.2"]);
    lab.wait_for("ours", "HandshakeFailed");
    lab.wait_for("old", "alert protocol version");
    assert!(!lab.finish("old").contains("Initialization Sequence Completed"));
    lab.spawn_stock(Side::Client, "new", "client", &[]);
    lab.wait_for("new", "Initialization Sequence Completed");
    assert!(lab.finish("ours").contains("TLSv1.3"));
}

/// Two intermediates, RSA of 4096 bits and many names: more than the six packets of a send window.
fn make_large_chain(lab: &Lab) {
    let rsa = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
    let wordy = |mut params: CertificateParams| {
        let name = |at| {
            SanType::DnsName(format!("a-rather-long-name-number-{at}.of-an-example.example.com").try_into().unwrap())
        };
        params.subject_alt_names = (0..24).map(name).collect();
        params
    };
    let keys = rsa();
    let copy = || KeyPair::from_pem(&keys.serialize_pem()).unwrap();
    let root = CertifiedIssuer::self_signed(authority("Root"), copy()).unwrap();
    let first = CertifiedIssuer::signed_by(wordy(authority("First")), copy(), &root).unwrap();
    let second = CertifiedIssuer::signed_by(wordy(authority("Second")), copy(), &first).unwrap();
    fs::write(lab.path("ca.pem"), root.pem()).unwrap();
    let key = rsa();
    let server = wordy(leaf("server")).signed_by(&key, &second).unwrap();
    let chain = format!("{}{}{}", server.pem(), second.pem(), first.pem());
    write(lab, "server", &chain, &key);
    let client_key = KeyPair::generate().unwrap();
    write(lab, "client", &leaf("client").signed_by(&client_key, &root).unwrap().pem(), &client_key);
    let bytes = server.der().len() + second.der().len() + first.der().len();
    assert!(bytes > 6 * 1124, "{bytes}");
}

/// The patience that a handshake with losses needs: stock repeats a packet after 2, 4, 8 and 16 s, and starts over after a
/// minute.
const WITH_LOSSES: Duration = Duration::from_secs(150);

#[test]
fn our_dialer_takes_a_large_chain_of_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    make_large_chain(&lab);
    lab.spawn_stock(Side::Server, "stock", "server", &[]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &["peer=server"]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.finish("ours");
    let _relay = relay::start(&lab, 19, Faults::LOSS);
    lab.spawn_ours(Side::Client, "ours", "client", &["peer=server", &format!("remote={}", relay::RELAY)]);
    lab.wait_long_for("ours", "PeerConnected", 1, WITH_LOSSES);
    lab.ping(Side::Client, "10.8.0.1", 56);
}

#[test]
fn a_stock_client_takes_our_large_chain() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    make_large_chain(&lab);
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "first", "client", &["--explicit-exit-notify", "1"]);
    lab.wait_for("first", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.finish("first");
    let _relay = relay::start(&lab, 19, Faults::LOSS);
    let (host, port) = relay::RELAY.split_once(':').unwrap();
    lab.spawn_stock(Side::Client, "stock", "client", &["--remote", host, port]);
    lab.wait_long_for("stock", "Initialization Sequence Completed", 1, WITH_LOSSES);
    lab.ping(Side::Client, "10.8.0.1", 56);
}
