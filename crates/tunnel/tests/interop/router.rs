//! A router between the hosts of a lab, which lets packets of a certain length through and says nothing about longer ones.

use std::process::Command;

use crate::support::{Lab, Side};

/// The client's host, which is in another network than the server's then.
const CLIENT: &str = "198.51.100.2/24";

/// Dropping it removes it.
pub(crate) struct Router {
    namespace: String,
}

impl Router {
    /// Puts one between the hosts of a new lab, on links with this MTU.
    pub(crate) fn between(lab: &Lab, link: u16) -> Self {
        let router = Self { namespace: format!("{}r", lab.namespace(Side::Server)) };
        must(&["ip", "netns", "add", &router.namespace]);
        must(&["ip", "-n", lab.namespace(Side::Server), "link", "delete", "wire"]);
        let hosts = [
            (Side::Server, "s", "192.0.2.1/24", "2001:db8::1/64", "192.0.2.254", "2001:db8::fe"),
            (Side::Client, "c", CLIENT, "2001:db8:1::2/64", "198.51.100.254", "2001:db8:1::fe"),
        ];
        for (side, port, address, address6, gateway, gateway6) in hosts {
            let link = link.to_string();
            let host = lab.namespace(side);
            let peer = ["peer", "name", port, "mtu", &link, "netns", &router.namespace];
            must(&[&["ip", "-n", host, "link", "add", "wire", "mtu", &link, "type", "veth"][..], &peer].concat());
            router.ip(&format!("address add {gateway}/24 dev {port}"));
            router.ip(&format!("address add {gateway6}/64 dev {port} nodad"));
            router.ip(&format!("link set {port} up"));
            for words in [
                format!("address add {address} dev wire"),
                format!("address add {address6} dev wire nodad"),
                "link set wire up".to_owned(),
                format!("route add default via {gateway}"),
                format!("route add default via {gateway6}"),
            ] {
                ip(host, &words);
            }
        }
        router.exec(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        router.exec(&[
            "nft",
            "add table inet silent; add chain inet silent out { type filter hook output priority 0; };
             add rule inet silent out icmp type destination-unreachable icmp code frag-needed drop;
             add rule inet silent out icmpv6 type packet-too-big drop",
        ]);
        router
    }

    /// Lets through what has up to so many bytes, over IPv4 and over IPv6.
    pub(crate) fn carries(&self, mtu: u16, mtu6: u16) {
        for (port, net, net6) in [("s", "192.0.2.0/24", "2001:db8::/64"), ("c", "198.51.100.0/24", "2001:db8:1::/64")] {
            self.ip(&format!("route replace {net} dev {port} mtu lock {mtu}"));
            self.ip(&format!("-6 route delete {net6} dev {port}"));
            self.ip(&format!("-6 route add {net6} dev {port} mtu lock {mtu6}"));
        }
    }

    fn ip(&self, words: &str) {
        ip(&self.namespace, words);
    }

    fn exec(&self, words: &[&str]) {
        must(&[&["ip", "netns", "exec", &self.namespace], words].concat());
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
    }
}

#[track_caller]
fn ip(namespace: &str, words: &str) {
    must(&[&["ip", "-n", namespace][..], &words.split(' ').collect::<Vec<_>>()].concat());
}

#[track_caller]
fn must(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
