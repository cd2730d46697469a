//! Newer OpenVPNs at the other end: 2.7 in every mode and both roles, and the OpenVPN 3 client.

use std::fs;
use std::path::Path;

use lab::Peers;
use profile::{Cipher, DeviceIdentity, DeviceNetwork, DeviceProfile, DeviceRemote, DeviceWrapping, TlsVersion};
use secrecy::ExposeSecret;

use crate::POOL;
use crate::protection::{Words, borrowed, tls_auth, tls_crypt_v2, words};
use crate::support::{Lab, SERVER, SERVER6, Side, cannot_run};

const TCP: &str = "tcp=0.0.0.0:1194";

/// A lab and the newer OpenVPNs, if both can be had here. With `CI=true` it is a failure if not.
fn prepare() -> Option<(Lab, Peers)> {
    if cannot_run() {
        return None;
    }
    match Peers::provide(&mut |step| println!("{step}")) {
        Ok(peers) => Some((Lab::new(), peers)),
        Err(error) => {
            lab::capability::skip(&format!("{error:#}"));
            None
        }
    }
}

fn prepare_2_7() -> Option<Lab> {
    let (mut lab, peers) = prepare()?;
    lab.stock = text(&peers.openvpn(lab.dir.path()).unwrap());
    Some(lab)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Both ends with the words of their role, connected. The kernel's data channel does not speak the epoch format.
fn connect(lab: &mut Lab, we_listen: bool, words: &Words) {
    let plain = ["--disable-dco"];
    if we_listen {
        lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL], &*borrowed(&words.our_listener)].concat());
        lab.wait_for("ours", "Listening");
        lab.spawn_stock(Side::Client, "stock", "client", &[&plain, &*borrowed(&words.stock_client)].concat());
        lab.wait_for("stock", "Initialization Sequence Completed");
    } else {
        lab.spawn_stock(Side::Server, "stock", "server", &[&plain, &*borrowed(&words.stock_server)].concat());
        lab.wait_for("stock", "Initialization Sequence Completed");
        lab.spawn_ours(Side::Client, "ours", "client", &borrowed(&words.our_dialer));
        lab.wait_for("ours", "PeerConnected");
    }
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Client, "10.8.0.1", 1350);
}

/// Ends both and reads what they logged.
fn check(lab: &mut Lab) {
    let stock = lab.log("stock");
    assert!(stock.contains("OpenVPN 2.7") && stock.contains("aead-epoch"), "{stock}");
    for error in ["TLS Error", "decrypt packet error", "Decrypt error", "used inconsistently"] {
        assert!(!stock.contains(error), "{error} in\n{stock}");
    }
    let ours = lab.finish("ours");
    assert!(ours.contains("handshakes_completed=1 handshakes_failed=0"), "{ours}");
}

/// 2.7 as our client, then as our server.
fn with_2_7(make: impl Fn(&Lab) -> Words) {
    for we_listen in [true, false] {
        let Some(mut lab) = prepare_2_7() else { return };
        let words = make(&lab);
        connect(&mut lab, we_listen, &words);
        check(&mut lab);
    }
}

fn tls_crypt(lab: &Lab, ours: [&str; 2], stock: [&str; 2]) -> Words {
    let key = lab.path("ta.key");
    Words {
        our_listener: words(&format!("tls_crypt={key} {}", ours[0])),
        our_dialer: words(&format!("tls_crypt={key} {}", ours[1])),
        stock_server: words(&format!("--tls-crypt {key} {}", stock[0])),
        stock_client: words(&format!("--tls-crypt {key} {}", stock[1])),
    }
}

#[test]
fn version_2_7_unwrapped() {
    let none = || words("");
    with_2_7(|_| Words { our_listener: none(), our_dialer: none(), stock_server: none(), stock_client: none() });
}

#[test]
fn version_2_7_with_tls_auth() {
    for (directed, digest) in [(false, "SHA1"), (true, "SHA1"), (true, "SHA256"), (true, "SHA512")] {
        with_2_7(|lab| tls_auth(lab, directed, digest));
    }
}

#[test]
fn version_2_7_with_tls_crypt_v2() {
    // The time, two bytes, and the most that fits, 733 bytes.
    for metadata in [None, Some("eHg="), Some(&*format!("{}eA==", "eHh4".repeat(244)))] {
        with_2_7(|lab| tls_crypt_v2(lab, metadata));
    }
}

#[test]
fn version_2_7_over_tcp() {
    let remote = format!("remote={SERVER}:1194/tcp");
    with_2_7(|lab| tls_crypt(lab, [TCP, &remote], ["--proto tcp-server", "--proto tcp-client"]));
}

#[test]
fn version_2_7_over_ipv6() {
    let client = format!("--proto udp6 --remote {SERVER6} 1194");
    let remote = format!("remote=[{SERVER6}]:1194");
    with_2_7(|lab| tls_crypt(lab, ["bind=[::]:1194", &remote], ["--proto udp6", &client]));
}

#[test]
fn version_2_7_by_tls_1_2() {
    let stock = "--tls-version-max 1.2";
    with_2_7(|lab| tls_crypt(lab, ["", ""], [stock, stock]));
}

/// The epoch format under load and across renewals, in both roles: nothing is lost, and 100 MB arrive as they were sent.
#[test]
fn version_2_7_with_tls_crypt_and_renewals() {
    for we_listen in [true, false] {
        let Some(mut lab) = prepare_2_7() else { return };
        let words = tls_crypt(&lab, ["reneg=3", "reneg=0"], ["--reneg-sec 3 3", "--reneg-sec 0"]);
        connect(&mut lab, we_listen, &words);
        let (sent, answered) = lab.echo(Side::Client, "10.8.0.1", 8);
        assert_eq!(sent, answered, "{}", lab.log("stock"));
        lab.transfer(Side::Client, "10.8.0.1");
        lab.transfer(Side::Server, if we_listen { "10.8.0.10" } else { "10.8.0.2" });
        check(&mut lab);
        let ours = lab.log("ours");
        assert!(renewals(&ours) >= 2 && ours.contains("renewals_failed=0"), "{ours}");
    }
}

fn renewals(log: &str) -> u32 {
    let (_, rest) = log.split_once("renewals_completed=").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// The OpenVPN 3 client connects to our listener by a profile that we write, over UDP with the shared key or over TCP with a
/// key of its own; pings, loses nothing across two renewals, and carries 100 MB each way. It goes over to a new key after
/// half of the time between renewals or its hand window, whichever is less, and then forgets the one before; neither
/// can be less than ten seconds. `short` is a line of the profile that makes them so.
fn openvpn_3(tcp: bool, reneg: &str, short: &str) {
    let Some((mut lab, peers)) = prepare() else { return };
    let v2 = tls_crypt_v2(&lab, None);
    let read = |name: &str| fs::read_to_string(lab.path(name)).unwrap();
    let (wrapping, listener) = if tcp {
        (DeviceWrapping::TlsCryptV2(read("v2c.key").into()), v2.our_listener)
    } else {
        (DeviceWrapping::TlsCrypt(read("ta.key").into()), words(&format!("tls_crypt={}", lab.path("ta.key"))))
    };
    let profile = DeviceProfile {
        remotes: vec![DeviceRemote { host: SERVER.to_owned(), port: 1194, tcp }],
        server_name: "server".to_owned(),
        data_ciphers: Cipher::DEFAULT.to_vec(),
        tls_version_min: TlsVersion::V1_2,
        ca_pem: read("ca.pem"),
        identity: Some(DeviceIdentity { cert_pem: read("client.pem"), key_pem: read("client.key").into() }),
        ask_password: false,
        wrapping,
        network: DeviceNetwork::default(),
    };
    let file = lab.path("phone.ovpn");
    fs::write(&file, format!("{}{short}\n", profile.to_text().unwrap().expose_secret())).unwrap();

    lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL, TCP, reneg], &*borrowed(&listener)].concat());
    lab.wait_for("ours", "Listening");
    let program = text(&peers.openvpn3(lab.dir.path()).unwrap());
    lab.spawn(Side::Client, "stock", &program, std::slice::from_ref(&file));
    lab.wait_for("stock", "Connected to");
    let connected = lab.wait_for("ours", "PeerConnected");
    let transport = if tcp { "transport: Tcp" } else { "transport: Udp" };
    assert!(connected.contains("common_name: \"client\"") && connected.contains(transport), "{connected}");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Server, "10.8.0.10", 1350);
    let (sent, answered) = lab.echo(Side::Client, "10.8.0.1", 28);
    assert_eq!(sent, answered, "{}", lab.log("stock"));
    lab.transfer(Side::Client, "10.8.0.1");
    lab.transfer(Side::Server, "10.8.0.10");
    let ours = lab.finish("ours");
    assert!(ours.contains("handshakes_completed=1 handshakes_failed=0"), "{ours}");
    assert!(renewals(&ours) >= 2 && ours.contains("renewals_failed=0"), "{ours}");
}

#[test]
fn openvpn_3_connects_by_our_profile_and_we_renew() {
    openvpn_3(false, "reneg=12", "hand-window 10");
}

#[test]
fn openvpn_3_connects_by_our_profile_and_renews() {
    openvpn_3(true, "reneg=0", "reneg-sec 10");
}
