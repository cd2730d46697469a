//! Profiles as people have them: those in `samples/valid` are taken, those in `samples/invalid` refused, and what is said
//! about them stands beside them in `.expected`; `UPDATE_EXPECTED=1` writes it anew.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use profile::{
    AuthRetry, Bind, CertProfile, Challenge, Cipher, ConnectRetry, Crl, DhcpOption, Digest, DnsTransport, Dnssec,
    FilterAction, Framing, Inactive, KeyDirection, Mssfix, NameCheck, Ping, Profile, Protocol, Rekey, RouteGateway,
    Source, TlsVersion, Topology, UserPass, Wrapping,
};
use secrecy::ExposeSecret;

#[test]
fn every_sample_meets_its_expected_outcome() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (folder, valid) in [("valid", true), ("invalid", false)] {
        for path in profiles(folder) {
            let said = match Profile::parse(&fs::read_to_string(&path).unwrap()) {
                Ok(profile) if valid => profile.notes.iter().map(|note| format!("{note}\n")).collect(),
                Err(errors) if !valid => format!("{errors}\n"),
                Ok(_) => "taken, though it should not be".to_owned(),
                Err(errors) => format!("not taken: {errors}"),
            };
            if std::env::var_os("UPDATE_EXPECTED").is_some() {
                fs::write(path.with_extension("expected"), &said).unwrap();
            }
            if fs::read_to_string(path.with_extension("expected")).unwrap_or_default() != said {
                wrong.push(format!("{}\n{said}", path.display()));
            }
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
    assert!(count > 10, "the samples are gone");
}

#[test]
fn the_profile_for_phones_is_read_whole() {
    for name in ["phone", "windows"] {
        let profile = valid(name);
        let [udp, tcp] = profile.connections.as_slice() else { panic!("{:?}", profile.connections) };
        assert_eq!((udp.host.as_str(), udp.port, udp.protocol), ("vpn.example.net", 1194, Protocol::Udp));
        assert_eq!((tcp.host.as_str(), tcp.port, tcp.protocol), ("vpn.example.net", 1194, Protocol::Tcp));
        assert_eq!((&udp.bind, udp.mssfix), (&Bind::Any, Mssfix::Outer(1492)));
        let Wrapping::TlsCryptV2(Source::Inline(key)) = &udp.wrapping else { panic!("{:?}", udp.wrapping) };
        assert!(key.expose_secret().starts_with("-----BEGIN OpenVPN tls-crypt-v2 client key-----"));
        assert!(profile.persist_tun && profile.auth_nocache && profile.tls.remote_cert_tls);
        assert_eq!(profile.tls.name_check, Some(NameCheck::CommonName("server".to_owned())));
        assert_eq!((profile.tls.version_min, profile.tls.version_max), (TlsVersion::V1_2, None));
        assert_eq!(profile.data.ciphers, Cipher::DEFAULT);
        assert_eq!((profile.verb, profile.device, profile.resolve_retry), (Some(3), None, None));
        assert!(matches!(&profile.tls.ca, Some(Source::Inline(ca)) if ca.ends_with("-----END CERTIFICATE-----\n")
            || ca.ends_with("-----END CERTIFICATE-----\r\n")));
    }
}

#[test]
fn secrets_are_masked() {
    for (name, secret) in [("phone", "MIIBszCCAVmg"), ("tls-auth", "00112233"), ("fingerprint", "correct horse")] {
        let mut profile = valid(name);
        // Certificates are no secrets, and the sample's key looks like them.
        (profile.tls.ca, profile.tls.cert) = (None, None);
        assert!(!format!("{profile:?}").contains(secret), "{name}");
    }
}

#[test]
fn old_profiles_with_tls_auth_work() {
    let profile = valid("tls-auth");
    let [only] = profile.connections.as_slice() else { panic!() };
    assert!(matches!(&only.wrapping, Wrapping::TlsAuth { key: Source::Inline(_), direction: KeyDirection::Inverse }));
    assert_eq!((only.host.as_str(), only.port, only.protocol), ("203.0.113.7", 443, Protocol::Tcp));
    assert_eq!((profile.data.auth, profile.data.cipher), (Digest::Sha512, None));
    assert_eq!(profile.data.framing, Framing::LzoNo);
    assert_eq!(profile.tls.version_min, TlsVersion::V1_2);
    assert_eq!(profile.device.as_deref(), Some("tun0"));
}

#[test]
fn connection_blocks_start_from_what_stands_above_them() {
    let profile = valid("connections");
    let [one, two] = profile.connections.as_slice() else { panic!("{:?}", profile.connections) };
    assert_eq!((one.host.as_str(), one.port, one.protocol), ("one.example.net", 1194, Protocol::Udp));
    assert_eq!((one.exit_notify, one.mssfix, one.tun_mtu), (2, Mssfix::Outer(1300), 1400));
    assert_eq!(one.connect_timeout, Duration::from_secs(120));
    assert!(matches!(one.wrapping, Wrapping::TlsAuth { direction: KeyDirection::Normal, .. }));
    assert_eq!((two.host.as_str(), two.port, two.protocol), ("two.example.net", 443, Protocol::Tcp6));
    assert_eq!((two.exit_notify, two.mssfix, two.tun_mtu), (0, Mssfix::Inner(1400), 1400));
    assert_eq!(two.connect_timeout, Duration::from_secs(10));
    assert!(two.float && !one.float);
    assert!(matches!(two.wrapping, Wrapping::TlsCrypt(_)));
    let retry = ConnectRetry { first: Duration::from_secs(2), longest: Duration::from_secs(60), attempts: None };
    assert_eq!([one.retry, two.retry], [retry; 2]);
}

#[test]
fn quotes_and_backslashes_are_taken_off() {
    let profile = valid("quoting");
    assert_eq!(profile.tls.name_check, Some(NameCheck::Subject("C=KG, O=Example \"Ltd\", CN=vpn".to_owned())));
    let challenge = Challenge { text: "Enter the code: \\ #".to_owned(), echo: true, concat: false };
    assert_eq!(profile.static_challenge, Some(challenge));
    assert!(matches!(profile.user_pass, Some(UserPass::File(file)) if file == "pass words.txt"));
    assert_eq!(profile.tls.ca, Some(Source::File("C:\\Users\\Anna\\ca.crt".to_owned())));
    assert_eq!(profile.tls.cert, Some(Source::File("cert one.pem".to_owned())));
    assert!(matches!(profile.tls.key, Some(Source::File(file)) if file == "key one.pem"));
    assert_eq!(profile.tls.crl, Some(Crl::List(Source::File("crl.pem".to_owned()))));
    let filters: Vec<_> = profile.pull_filters.iter().map(|filter| (filter.action, filter.prefix.as_str())).collect();
    let expected = [(FilterAction::Ignore, "route 10."), (FilterAction::Accept, "route"), (FilterAction::Reject, "")];
    assert_eq!(filters, expected);
}

#[test]
fn providers_profiles_without_certificates_work() {
    let profile = valid("provider");
    let places: Vec<_> = profile.connections.iter().map(|place| (place.host.as_str(), place.port)).collect();
    let expected = [("nl1.provider.example", 80), ("nl2.provider.example", 4569), ("nl3.provider.example", 1194)];
    assert_eq!(places, expected);
    assert!(profile.remote_random && matches!(profile.user_pass, Some(UserPass::Ask)));
    assert_eq!(profile.peer_info, [("UV_PLATFORM".to_owned(), "linux".to_owned())]);
    assert_eq!((profile.rekey.after, profile.auth_retry), (None, AuthRetry::NoInteract));
    assert_eq!(profile.ping.interval, Some(Duration::from_secs(10)));
    assert_eq!(profile.ping.restart, Some(Duration::from_secs(60)));
    assert_eq!(profile.data.ciphers, [Cipher::Aes256Gcm, Cipher::Aes256Cbc]);
    assert_eq!(profile.dhcp_options, [DhcpOption::Dns(IpAddr::from([192, 0, 2, 53]))]);
}

#[test]
fn pinned_servers_need_no_authority() {
    let profile = valid("fingerprint");
    assert!(profile.tls.ca.is_none());
    let firsts: Vec<_> = profile.tls.peer_fingerprints.iter().map(|fingerprint| fingerprint[0]).collect();
    assert_eq!(firsts, [0x00, 0xff]);
    let Some(UserPass::Inline { user, password: Some(password) }) = &profile.user_pass else { panic!() };
    assert_eq!((user.as_str(), password.expose_secret()), ("anna", "correct horse # battery"));
    assert_eq!((profile.connections[0].host.as_str(), profile.connections[0].port), ("2001:db8::1", 1194));
}

#[test]
fn every_other_option_has_its_place() {
    let profile = valid("everything");
    let [place] = profile.connections.as_slice() else { panic!() };
    assert_eq!((place.port, place.protocol), (1195, Protocol::Udp4));
    assert_eq!(place.bind, Bind::To { local: Some("192.0.2.2".to_owned()), port: 0 });
    assert_eq!((place.retry.attempts, place.connect_timeout), (Some(5), Duration::from_secs(4)));
    assert_eq!((place.tun_mtu, place.tun_mtu_max, place.max_packet_size), (1500, 1700, 600));
    assert_eq!(place.mssfix, Mssfix::Outer(600));
    assert!(matches!(place.wrapping, Wrapping::None));
    assert_eq!((profile.device.as_deref(), profile.topology), (Some("work"), Topology::Subnet));
    assert!(profile.remote_random_hostname && profile.push_peer_info);
    assert_eq!(profile.resolve_retry, Some(Duration::from_secs(30)));

    let tls = &profile.tls;
    assert_eq!(tls.extra_certs, Some(Source::File("more.pem".to_owned())));
    assert_eq!(tls.crl, Some(Crl::Directory("revoked".to_owned())));
    assert_eq!(tls.peer_fingerprints.len(), 1);
    assert_eq!(tls.name_check, Some(NameCheck::CommonNamePrefix("vpn-".to_owned())));
    assert_eq!((tls.version_max, tls.cert_profile), (Some(TlsVersion::V1_3), CertProfile::Preferred));
    assert_eq!(tls.ciphersuites.as_deref(), Some("TLS_AES_256_GCM_SHA384"));
    assert_eq!(tls.groups.as_deref(), Some("X25519:P-256"));
    assert!(tls.ciphers.as_deref().unwrap().starts_with("TLS-ECDHE-RSA"));

    let data = &profile.data;
    let ciphers = [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes128Cbc];
    assert_eq!(data.ciphers, ciphers);
    assert_eq!((data.fallback, data.cipher), (Some(Cipher::Aes256Cbc), Some(Cipher::Aes256Cbc)));
    assert_eq!((data.auth, data.framing), (Digest::Sha256, Framing::StubV2));
    assert_eq!((data.replay_window.packets, data.replay_window.time), (128, Duration::from_secs(30)));

    let rekey = Rekey {
        after: Some(Duration::from_secs(600)),
        after_min: Some(Duration::from_secs(500)),
        bytes: Some(1_000_000),
        packets: Some(2000),
        hand_window: Duration::from_secs(30),
        transition_window: Duration::from_secs(120),
        tls_timeout: Duration::from_secs(3),
    };
    assert_eq!(profile.rekey, rekey);
    let ping = Ping {
        interval: Some(Duration::from_secs(5)),
        restart: Some(Duration::from_secs(20)),
        exit: None,
        inactive: Some(Inactive { time: Duration::from_secs(3600), bytes: 1000 }),
        session_timeout: Some(Duration::from_secs(86400)),
    };
    assert_eq!(profile.ping, ping);
    assert_eq!(profile.auth_retry, AuthRetry::Interact);
    assert_eq!(profile.peer_info, [("IV_GUI_VER".to_owned(), "gui_1.0".to_owned())]);
}

#[test]
fn routes_and_name_resolution_have_their_place() {
    let profile = valid("everything");
    let routes: Vec<_> =
        profile.routes4.iter().map(|route| (route.network.to_string(), route.gateway, route.metric)).collect();
    let address = "10.8.0.9".parse().unwrap();
    let expected = [
        ("10.1.0.0/16".to_owned(), RouteGateway::Vpn, None),
        ("192.0.2.9/32".to_owned(), RouteGateway::Net, Some(5)),
        ("10.2.0.1/32".to_owned(), RouteGateway::Vpn, Some(7)),
        ("10.3.0.0/24".to_owned(), RouteGateway::Address(address), None),
    ];
    assert_eq!(routes, expected);
    let routes: Vec<_> =
        profile.routes6.iter().map(|route| (route.network.to_string(), route.gateway, route.metric)).collect();
    let link_local = "fe80::1".parse().unwrap();
    let expected = [
        ("2001:db8:1::/48".to_owned(), RouteGateway::Vpn, None),
        ("2001:db8:2::/64".to_owned(), RouteGateway::Address(link_local), Some(9)),
    ];
    assert_eq!(routes, expected);
    assert_eq!(profile.route_gateway4, "10.8.0.1".parse().ok());
    assert_eq!(profile.route_gateway6, "fd00::1".parse().ok());
    assert_eq!((profile.route_metric, profile.route_delay), (Some(50), Duration::from_secs(3)));
    assert!(profile.route_noexec && profile.route_nopull && profile.block_ipv6);
    let redirect = profile.redirect_gateway.unwrap();
    assert!(!redirect.ipv4 && redirect.ipv6 && redirect.def1 && redirect.local && redirect.autolocal);
    assert!(redirect.bypass_dhcp && redirect.bypass_dns && redirect.block_local);

    let expected = [
        DhcpOption::Dns("2001:db8::53".parse().unwrap()),
        DhcpOption::Domain("example.net".to_owned()),
        DhcpOption::DomainSearch("corp.example.net".to_owned()),
    ];
    assert_eq!(profile.dhcp_options, expected);
    assert_eq!(profile.dns.search_domains, ["example.net", "corp.example.net"]);
    assert_eq!(profile.dns.servers.keys().copied().collect::<Vec<_>>(), [-3, 1]);
    let server = &profile.dns.servers[&1];
    let addresses: Vec<_> = server.addresses.iter().map(|found| (found.address.to_string(), found.port)).collect();
    assert_eq!(addresses, [("192.0.2.53".to_owned(), None), ("2001:db8::53".to_owned(), Some(853))]);
    assert_eq!((server.dnssec, server.transport), (Some(Dnssec::Optional), Some(DnsTransport::Tls)));
    assert_eq!(
        (server.resolve_domains.as_slice(), server.sni.as_deref()),
        (["corp.example.net".to_owned()].as_slice(), Some("dns.example.net"))
    );
}

fn valid(name: &str) -> Profile {
    let text = fs::read_to_string(samples().join("valid").join(name).with_extension("ovpn")).unwrap();
    Profile::parse(&text).unwrap_or_else(|errors| panic!("{name}: {errors}"))
}

fn profiles(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(samples().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "ovpn")).collect();
    paths.sort();
    paths
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}
