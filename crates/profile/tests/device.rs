//! The profile that we write says what it was told to, to our own reader too, and cannot be made to say anything else.

mod support;

use profile::{
    Bind, Cipher, Connection, DeviceIdentity, DeviceNetwork, DeviceProfile, DeviceProfileError, DeviceRemote,
    DeviceWrapping, NameCheck, Profile, Protocol, Source, TlsVersion, UserPass, Wrapping,
};
use proptest::prelude::*;
use secrecy::ExposeSecret;
use support::{CERTIFICATE, KEY, device, tls_crypt_v2_key};

#[test]
fn what_is_written_is_read_back() {
    let text = device().to_text().unwrap();
    let profile = Profile::parse(text.expose_secret()).unwrap();
    assert!(profile.notes.is_empty(), "{:?}", profile.notes);
    let [udp, tcp] = profile.connections.as_slice() else { panic!("{:?}", profile.connections) };
    assert_eq!((udp.host.as_str(), udp.port, udp.protocol), ("vpn.example.net", 1194, Protocol::Udp));
    assert_eq!((tcp.host.as_str(), tcp.port, tcp.protocol), ("2001:db8::1", 443, Protocol::Tcp));
    assert_eq!(udp.bind, Bind::Any);
    assert!(matches!(&udp.wrapping, Wrapping::TlsCryptV2(Source::Inline(key))
        if key.expose_secret() == tls_crypt_v2_key()));
    assert_eq!(profile.tls.name_check, Some(NameCheck::CommonName("edge one".to_owned())));
    assert!(profile.tls.remote_cert_tls && profile.persist_tun && profile.auth_nocache);
    assert_eq!(profile.tls.version_min, TlsVersion::V1_3);
    assert_eq!(profile.data.ciphers, [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm]);
    assert_eq!(profile.tls.ca, Some(Source::Inline(CERTIFICATE.to_owned())));
    assert_eq!(profile.tls.cert, Some(Source::Inline(CERTIFICATE.repeat(2))));
    assert!(matches!(&profile.tls.key, Some(Source::Inline(key)) if key.expose_secret() == KEY));
    assert!(profile.user_pass.is_none());
}

#[test]
fn a_password_can_take_the_place_of_a_certificate() {
    let asking = DeviceProfile { identity: None, ask_password: true, ..device() };
    let text = asking.to_text().unwrap();
    let profile = Profile::parse(text.expose_secret()).unwrap();
    assert!(matches!(profile.user_pass, Some(UserPass::Ask)) && profile.tls.cert.is_none());
    assert!(text.expose_secret().contains("\nsetenv CLIENT_CERT 0\n"), "OpenVPN 3 wants to be told");
    let neither = DeviceProfile { identity: None, ..device() };
    assert_eq!(neither.to_text().unwrap_err(), DeviceProfileError::NoCredentials);
}

#[test]
fn all_traffic_and_name_servers_only_where_asked_for() {
    let silent = device().to_text().unwrap();
    let profile = Profile::parse(silent.expose_secret()).unwrap();
    assert!(profile.redirect_gateway.is_none() && !profile.block_ipv6 && profile.dhcp_options.is_empty());

    let network = DeviceNetwork { full: true, dns: vec![[192, 0, 2, 53].into(), [10, 86, 0, 1].into()] };
    let text = DeviceProfile { network, ..device() }.to_text().unwrap();
    let profile = Profile::parse(text.expose_secret()).unwrap();
    assert!(profile.notes.is_empty(), "{:?}", profile.notes);
    let redirect = profile.redirect_gateway.unwrap();
    assert!(redirect.ipv4 && redirect.def1 && redirect.ipv6 && profile.block_ipv6);
    assert_eq!(profile.dhcp_options.len(), 2);
}

#[test]
fn no_option_that_only_some_clients_take_is_written() {
    // What OpenVPN 3 counts as an error in a profile, and what NetworkManager and old clients stumble over.
    let unwelcome = [
        "push",
        "server",
        "dh",
        "duplicate-cn",
        "client-to-client",
        "ifconfig-pool",
        "ping",
        "ping-restart",
        "topology",
        "ifconfig",
        "route-gateway",
        "peer-id",
        "auth-token",
        "log",
        "status",
        "daemon",
        "management",
        "askpass",
        "capath",
        "cd",
        "verify-hash",
        "tls-server",
        "socks-proxy",
        "cipher",
        "auth",
        "comp-lzo",
        "redirect-gateway",
        "route",
        "connection",
        "<connection>",
    ];
    let known = [
        "client",
        "dev",
        "proto",
        "remote",
        "resolv-retry",
        "nobind",
        "persist-tun",
        "remote-cert-tls",
        "verify-x509-name",
        "tls-version-min",
        "data-ciphers",
        "auth-user-pass",
        "auth-nocache",
        "verb",
        "setenv",
    ];
    for profile in [device(), DeviceProfile { identity: None, ask_password: true, ..device() }] {
        let text = profile.to_text().unwrap();
        let mut inside = false;
        for line in text.expose_secret().lines() {
            assert!(line.len() <= 254, "2.x takes no longer lines");
            let name = line.split(' ').next().unwrap();
            inside = if name.starts_with('<') { !name.starts_with("</") } else { inside };
            assert!(!unwelcome.contains(&name), "{line}");
            assert!(inside || name.starts_with('<') || known.contains(&name), "{line}");
        }
    }
}

#[test]
fn inputs_that_clients_would_read_otherwise_are_turned_away() {
    let remote = |host: &str, port| vec![DeviceRemote { host: host.to_owned(), port, tcp: false }];
    assert_eq!(DeviceProfile { remotes: vec![], ..device() }.to_text().unwrap_err(), DeviceProfileError::NoRemote);
    for host in ["", "a b", "a\nup /bin/sh", "-a", "vpn.example.net#", "\"", "münchen.example", "fe80::1%eth0"] {
        let error = DeviceProfile { remotes: remote(host, 1), ..device() }.to_text().unwrap_err();
        assert!(matches!(error, DeviceProfileError::Host(_)), "{host:?}: {error}");
    }
    let error = DeviceProfile { remotes: remote("a", 0), ..device() }.to_text().unwrap_err();
    assert_eq!(error, DeviceProfileError::Port("a".to_owned()));
    for name in ["", " a", "a\"b", "a\\", "a\nverb 9", "ä", &"a".repeat(65)] {
        let error = DeviceProfile { server_name: name.to_owned(), ..device() }.to_text().unwrap_err();
        assert!(matches!(error, DeviceProfileError::ServerName(_)), "{name:?}: {error}");
    }
    for data_ciphers in [vec![], vec![Cipher::Aes256Gcm, Cipher::Aes256Cbc]] {
        assert_eq!(DeviceProfile { data_ciphers, ..device() }.to_text().unwrap_err(), DeviceProfileError::Ciphers);
    }
    let ca = |pem: &str| DeviceProfile { ca_pem: pem.to_owned(), ..device() }.to_text().map(|_| ()).unwrap_err();
    let injected = "-----BEGIN CERTIFICATE-----\nMIIB\n</ca>\nup /bin/sh\n<ca>\n-----END CERTIFICATE-----\n";
    for wrong in ["", "MIIB", KEY, injected, "-----BEGIN CERTIFICATE-----\nMIIB\n", &format!("{CERTIFICATE}{KEY}")] {
        assert!(matches!(ca(wrong), DeviceProfileError::Pem { .. }), "{wrong}");
    }
    assert_eq!(ca(&CERTIFICATE.repeat(5000)), DeviceProfileError::TooLong);
    let two_keys = DeviceIdentity { cert_pem: CERTIFICATE.to_owned(), key_pem: KEY.repeat(2).into() };
    assert!(DeviceProfile { identity: Some(two_keys), ..device() }.to_text().is_err());
    let wrong_kind = DeviceWrapping::TlsCrypt(tls_crypt_v2_key().into());
    assert!(DeviceProfile { wrapping: wrong_kind, ..device() }.to_text().is_err());
}

#[test]
fn remotes_are_read_as_people_write_them() {
    let read = |text| DeviceRemote::parse(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
    let both = |place: &str| Ok(vec![format!("remote {place} udp"), format!("remote {place} tcp")]);
    assert_eq!(read("vps.example.com"), both("vps.example.com 1194"));
    assert_eq!(read("192.0.2.1:443"), both("192.0.2.1 443"));
    assert_eq!(read("[2001:db8::1]"), both("2001:db8::1 1194"));
    assert_eq!(read("[2001:db8::1]:5/tcp"), Ok(vec!["remote 2001:db8::1 5 tcp".to_owned()]));
    assert_eq!(read("vps.example.com/udp"), Ok(vec!["remote vps.example.com 1194 udp".to_owned()]));
    for wrong in ["a/", "a/sctp", "a:", "a:b", "a:65536", "2001:db8::1", "[a]", "[::1", "[::1]5", "a:1:2"] {
        assert_eq!(read(wrong), Err(DeviceProfileError::Remote(wrong.to_owned())));
    }
}

#[test]
fn what_stands_around_pem_blocks_is_left_out() {
    let mut noisy = device();
    noisy.ca_pem = format!("Certificate:\r\n  Data: x\r\n{}# end\r\n", CERTIFICATE.replace('\n', "\r\n"));
    assert_eq!(noisy.to_text().unwrap().expose_secret(), device().to_text().unwrap().expose_secret());
}

#[test]
fn keys_are_masked() {
    let shown = format!("{:?}", device());
    assert!(
        !shown.contains(KEY.lines().nth(1).unwrap()) && !shown.contains(tls_crypt_v2_key().lines().nth(1).unwrap())
    );
}

proptest! {
    /// Whatever texts are put in, the profile is refused or says exactly them.
    #[test]
    fn nothing_gets_past_the_writer(
        hosts in proptest::collection::vec((name_or("[a-z0-9.:-]{1,20}"), any::<u16>(), any::<bool>()), 1..4),
        server_name in name_or("[A-Za-z0-9 ._@-]{1,12}"),
        middle in name_or("[A-Za-z0-9+/=]{0,20}"),
        ask_password in any::<bool>(),
    ) {
        let remotes: Vec<_> = hosts.into_iter().map(|(host, port, tcp)| DeviceRemote { host, port, tcp }).collect();
        let ca_pem = format!("-----BEGIN CERTIFICATE-----\n{middle}\n-----END CERTIFICATE-----\n");
        let written = DeviceProfile { remotes, server_name, ask_password, ca_pem, ..device() };
        if let Ok(text) = written.to_text() {
            let read = Profile::parse(text.expose_secret()).unwrap();
            prop_assert!(read.notes.is_empty());
            let place = |place: &Connection| DeviceRemote {
                host: place.host.clone(),
                port: place.port,
                tcp: place.protocol == Protocol::Tcp,
            };
            prop_assert_eq!(read.connections.iter().map(place).collect::<Vec<_>>(), written.remotes);
            prop_assert_eq!(read.tls.name_check, Some(NameCheck::CommonName(written.server_name)));
            prop_assert_eq!(read.user_pass.is_some(), ask_password);
        }
    }
}

/// Mostly what fits the pattern, sometimes anything.
fn name_or(pattern: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![4 => pattern, 1 => "\\PC{0,8}", 1 => "[ -~\n]{0,20}"]
}
