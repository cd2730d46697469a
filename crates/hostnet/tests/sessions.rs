//! What a session leaves of a host's own settings, each test in a network namespace of its own. Needs root.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::fs;
use std::net::IpAddr;
use std::process::{Command, Output};

use hostnet::session::{Address, Dns, DnsServer, Done, Places, Redirect, Session, Settings};

const SERVER: &str = "198.51.100.1";
const RESOLV_CONF: &str = "nameserver 192.0.2.53\n";

#[test]
fn a_route_of_the_host_to_the_server_stays() {
    in_namespace(async |places| {
        ip("route add 198.51.100.1 via 192.0.2.9");
        let before = ip("route");
        let (mut session, _) = Session::open(places, "tun7").await.unwrap();
        session.apply(&redirected("tun7")).await.unwrap();
        let link = ip("-o link show tun7");
        assert!(link.contains("mtu 1500") && link.contains("qlen 64") && link.contains("UP"), "{link}");
        session.keep_out(server()).await.unwrap();
        session.undo().await;
        ip("link delete tun7");
        assert_eq!(ip("route"), before);
    });
}

#[test]
fn the_link_alone_can_change() {
    in_namespace(async |places| {
        let (mut session, _) = Session::open(places, "tun7").await.unwrap();
        assert_eq!(session.set_link(1400, 200).await.unwrap(), Done::default(), "nothing is applied");
        session.apply(&redirected("tun7")).await.unwrap();
        // The kernel notices a moment later that nobody has the device open.
        let routes = || ip("route").replace(" linkdown", "");
        let before = routes();
        let done = session.set_link(1400, 200).await.unwrap();
        assert_eq!(done.changes, ["device up, mtu 1400, queue length 200"]);
        let link = ip("-o link show tun7");
        assert!(link.contains("mtu 1400") && link.contains("qlen 200"), "{link}");
        assert_eq!(routes(), before);
        assert_eq!(session.set_link(1400, 200).await.unwrap(), Done::default(), "it is so already");
        // The same settings with the other link are what is applied now.
        let wanted = Settings { mtu: 1400, tx_queue_len: 200, ..redirected("tun7") };
        assert_eq!(session.apply(&wanted).await.unwrap(), Done::default());
        session.undo().await;
    });
}

#[test]
fn the_way_to_the_server_follows_the_default_route() {
    in_namespace(async |places| {
        ip("link add other type veth peer name other-end");
        ip("address add 203.0.113.2/24 dev other");
        ip("link set other up");
        ip("link set other-end up");
        let (mut session, _) = Session::open(places, "tun7").await.unwrap();
        session.apply(&redirected("tun7")).await.unwrap();
        assert!(ip("route").contains("198.51.100.1 via 192.0.2.1 dev wire"));
        for (old, new, way) in
            [("192.0.2.1", "203.0.113.1", "203.0.113.1 dev other"), ("203.0.113.1", "192.0.2.1", "192.0.2.1 dev wire")]
        {
            ip(&format!("route delete default via {old}"));
            ip(&format!("route add default via {new}"));
            session.keep_out(server()).await.unwrap();
            let routes = ip("route");
            assert!(routes.contains(&format!("198.51.100.1 via {way}")), "{routes}");
            assert_eq!(routes.matches("198.51.100.1").count(), 1, "{routes}");
        }
        session.undo().await;
        assert!(!ip("route").contains("198.51.100.1"));
    });
}

#[test]
fn a_router_outside_of_the_networks_on_its_link_comes_back() {
    in_namespace(async |places| {
        ip("route replace default via 172.31.1.1 dev wire onlink");
        let before = ip("route");
        let (mut session, _) = Session::open(places, "tun7").await.unwrap();
        let whole = Redirect { ipv4: true, ..Redirect::default() };
        let done = session.apply(&Settings { redirect: Some(whole), ..redirected("tun7") }).await.unwrap();
        assert_eq!(done.notes, [""; 0]);
        let routes = ip("route");
        assert!(routes.contains("198.51.100.1 via 172.31.1.1 dev wire onlink"), "{routes}");
        assert!(!routes.contains("default via 172.31.1.1"), "{routes}");
        assert_eq!(session.undo().await.notes, [""; 0]);
        ip("link delete tun7");
        assert_eq!(ip("route"), before);
    });
}

#[test]
fn what_another_connection_blocks_stays_blocked() {
    in_namespace(async |places| {
        ip("tuntap add dev tun8 mode tun");
        let blocking = |device| {
            let redirect = Some(Redirect { ipv6: true, ..Redirect::default() });
            Settings { redirect, block_ipv6: true, ..redirected(device) }
        };
        let (mut first, _) = Session::open(places.clone(), "tun7").await.unwrap();
        first.apply(&blocking("tun7")).await.unwrap();
        let (mut second, _) = Session::open(places, "tun8").await.unwrap();
        let done = second.apply(&blocking("tun8")).await.unwrap();
        assert!(done.notes.contains(&"2000::/4 is there already and stays as it is".to_owned()), "{done:?}");
        second.undo().await;
        assert!(ip("-6 route").contains("unreachable 2000::/4"));
        first.undo().await;
        assert!(!ip("-6 route").contains("unreachable 2000::/4"));
    });
}

#[test]
fn what_cannot_be_undone_is_tried_again() {
    in_namespace(async |places| {
        // It stands in the way of the new file that takes the old one's place.
        let obstacle = places.resolv_conf.with_file_name(format!("resolv.conf.tunnel-new-{}", std::process::id()));
        let dns = |address: &str| {
            let servers = vec![DnsServer { addresses: vec![(address.parse().unwrap(), None)], ..DnsServer::default() }];
            Settings { dns: Dns { servers, search: Vec::new() }, ..redirected("tun7") }
        };
        let content = || fs::read_to_string(&places.resolv_conf).unwrap();
        let (mut session, _) = Session::open(places.clone(), "tun7").await.unwrap();
        session.apply(&dns("10.8.0.53")).await.unwrap();
        fs::create_dir(&obstacle).unwrap();
        let notes = session.undo().await.notes;
        assert!(notes.len() == 1 && notes[0].contains("name resolution cannot be brought back"), "{notes:?}");
        drop(session);

        // Still in the way, for another device.
        let (other, done) = Session::open(places.clone(), "tun8").await.unwrap();
        assert_eq!(done.notes, notes);
        drop(other);
        // Nor does a connection in between lose the former content.
        let (mut session, _) = Session::open(places.clone(), "tun7").await.unwrap();
        fs::remove_dir(&obstacle).unwrap();
        session.apply(&dns("10.8.0.54")).await.unwrap();
        assert!(content().contains("10.8.0.54"));
        session.undo().await;
        assert_eq!(content(), RESOLV_CONF);
        drop(session);
        assert_eq!(fs::read_dir(&places.journals).unwrap().count(), 0);
    });
}

fn server() -> IpAddr {
    SERVER.parse().unwrap()
}

fn redirected(device: &str) -> Settings {
    Settings {
        device: device.to_owned(),
        mtu: 1500,
        tx_queue_len: 64,
        addresses: vec![Address { net: "10.8.0.2/24".parse().unwrap(), peer: None }],
        gateway4: Some("10.8.0.1".parse().unwrap()),
        server: server(),
        routes: Vec::new(),
        metric: None,
        redirect: Some(Redirect { ipv4: true, def1: true, ..Redirect::default() }),
        block_ipv6: false,
        dns: Dns::default(),
    }
}

/// Runs a test on a thread of its own, which alone enters a new network namespace, with a default route over a link
/// `wire` and a device `tun7`; it goes with the thread.
fn in_namespace(test: impl AsyncFnOnce(Places) + Send + 'static) {
    if let Some(reason) = lab::capability::missing(&[]) {
        return lab::capability::skip(&reason);
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add wire type veth peer name wire-end");
        ip("address add 192.0.2.2/24 dev wire");
        ip("link set wire up");
        ip("link set wire-end up");
        ip("route add default via 192.0.2.1");
        ip("tuntap add dev tun7 mode tun");
        let dir = tempfile::tempdir().unwrap();
        let places = Places { journals: dir.path().join("journals"), resolv_conf: dir.path().join("resolv.conf") };
        fs::write(&places.resolv_conf, RESOLV_CONF).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test(places));
    });
    if let Err(failure) = thread.join() {
        std::panic::resume_unwind(failure);
    }
}

#[track_caller]
fn ip(arguments: &str) -> String {
    let Output { status, stdout, stderr } = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}
