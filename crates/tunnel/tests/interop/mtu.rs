//! Our ends on links that carry less than usual.

use crate::POOL;
use crate::support::{Lab, Side, cannot_run};

/// What the narrow link carries, and what is left of it inside, bytes.
const NARROW: (u16, u16) = (1400, 1344);

/// A lab whose hosts are joined by a link with this MTU, in which the listener knows no other way.
fn narrow() -> Lab {
    let lab = Lab::new();
    for side in [Side::Server, Side::Client] {
        ip(&lab, side, &format!("link set wire mtu {}", NARROW.0));
    }
    ip(&lab, Side::Server, "route add default dev wire");
    lab
}

#[track_caller]
fn ip(lab: &Lab, side: Side, words: &str) -> String {
    let output = lab.command(side, "ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn connect(lab: &mut Lab, server: &[&str], client: &[&str]) {
    lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL], server].concat());
    lab.wait_for("ours", "Listening");
    lab.spawn_ours(Side::Client, "client", "client", client);
    lab.wait_for("client", "PeerConnected");
}

/// Datagrams that a host has cut.
pub(crate) fn fragmented(lab: &Lab, side: Side) -> u64 {
    let output = lab.command(side, "cat").arg("/proc/net/snmp").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: ")).map(|line| line.split(' '));
    let (mut names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.position(|name| name == "FragCreates").unwrap();
    values.nth(at).unwrap().parse().unwrap()
}

#[track_caller]
fn transfer_in_one_piece(lab: &Lab) {
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.transfer(Side::Client, "10.8.0.1");
    lab.transfer(Side::Server, "10.8.0.10");
    assert_eq!((fragmented(lab, Side::Server), fragmented(lab, Side::Client)), (0, 0));
}

#[test]
fn both_ends_fit_into_a_narrow_link() {
    if cannot_run() {
        return;
    }
    let mut lab = narrow();
    connect(&mut lab, &["mtu=1420", "fit=on"], &["fit=on"]);
    for side in [Side::Server, Side::Client] {
        let link = ip(&lab, side, "link show tun0");
        assert!(link.contains(&format!("mtu {}", NARROW.1)), "{link}");
    }
    transfer_in_one_piece(&lab);
    // The largest packet of another kind too.
    lab.ping(Side::Client, "10.8.0.1", u32::from(NARROW.1) - 28);
    assert_eq!((fragmented(&lab, Side::Server), fragmented(&lab, Side::Client)), (0, 0));
}

#[test]
fn a_dialer_fits_alone() {
    if cannot_run() {
        return;
    }
    let mut lab = narrow();
    connect(&mut lab, &["mtu=1420"], &["fit=on"]);
    assert!(ip(&lab, Side::Server, "link show tun0").contains("mtu 1420"));
    assert!(ip(&lab, Side::Client, "link show tun0").contains(&format!("mtu {}", NARROW.1)));
    transfer_in_one_piece(&lab);
}

#[test]
fn without_fitting_a_narrow_link_costs_fragments() {
    if cannot_run() {
        return;
    }
    let mut lab = narrow();
    connect(&mut lab, &["mtu=1420"], &[]);
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.transfer(Side::Client, "10.8.0.1");
    assert!(fragmented(&lab, Side::Client) > 0);
}
