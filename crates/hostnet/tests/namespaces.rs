//! The kernel's own answers, each test in a network namespace of its own. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use hostnet::docker_user;
use hostnet::guard::{self, Goal, Guarded, Permit};
use hostnet::{LinkState, Netlink, NetlinkError, Wanted};
use ipnet::Ipv4Net;
use lab::capability::skip;

const TUNNEL_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 86, 0, 2);

#[test]
fn apply_makes_it_so_once_and_follows_changes() {
    in_namespace(|runtime| {
        ip("tuntap add dev cah0 mode tun");
        ip("addr add 10.86.0.2/24 dev cah0");
        runtime.block_on(async {
            let netlink = Netlink::open().unwrap();
            let connected = wanted(&["10.86.0.0/24"]);
            assert!(!netlink.apply(&connected).await.unwrap().is_empty());
            assert_eq!(netlink.apply(&connected).await.unwrap(), [], "a second pass changes nothing");

            let link = ip("-o link show cah0");
            assert!(link.contains("mtu 1420") && link.contains("qlen 64") && link.contains("UP"), "{link}");
            let addresses = ip("-4 -o addr show cah0");
            assert!(addresses.contains("10.86.0.2/32") && !addresses.contains("/24"), "{addresses}");
            assert!(ip("route get 10.86.0.1").contains("dev cah0 src 10.86.0.2"));

            // Link loss: the subnet is unreachable, not a case for a default route.
            ip("link add up0 type veth peer name up1");
            ip("link set up0 up");
            ip("route add default dev up0");
            let lost = wanted(&[]);
            assert_eq!(netlink.apply(&lost).await.unwrap().len(), 1);
            let refused = Command::new("ip").args(["route", "get", "10.86.0.1"]).output().unwrap();
            assert!(!refused.status.success(), "{refused:?}");
            assert!(ip("-4 -o addr show cah0").contains("10.86.0.2/32"), "the address stays bound");

            netlink.apply(&connected).await.unwrap();
            assert!(ip("route get 10.86.0.1").contains("dev cah0"));
            assert!(ip("route").contains("default dev up0"), "routes of others stay");

            netlink.apply(&Wanted::default()).await.unwrap();
            assert!(!ip("route").contains("10.86"), "nothing of ours is left");
        });
    });
}

#[test]
fn a_missing_device_is_named() {
    in_namespace(|runtime| {
        let error = runtime.block_on(async { Netlink::open().unwrap().apply(&wanted(&[])).await.unwrap_err() });
        assert!(matches!(&error, NetlinkError::NoDevice(name) if name == "cah0"), "{error}");
    });
}

#[test]
fn collisions_are_found_by_address_and_by_route() {
    in_namespace(|runtime| {
        ip("link add lan0 type veth peer name lan1");
        ip("link set lan0 up");
        ip("addr add 192.168.1.10/24 dev lan0");
        ip("route add default dev lan0");
        ip("route add 128.0.0.0/1 dev lan0");
        ip("route add 172.16.0.0/12 via 192.168.1.1");
        ip("tuntap add dev cah0 mode tun");
        runtime.block_on(async {
            let netlink = Netlink::open().unwrap();
            netlink.apply(&wanted(&["10.86.0.0/24"])).await.unwrap();
            let found = async |subnet: &str| {
                let subnet: Ipv4Net = subnet.parse().unwrap();
                netlink.collision(subnet, "cah0").await.unwrap().map(|found| found.to_string())
            };
            assert_eq!(found("10.86.0.0/24").await, None, "our own link and routes do not count");
            assert_eq!(found("192.168.0.0/16").await.unwrap(), "192.168.1.0/24 is in use on lan0");
            assert_eq!(found("192.168.1.128/25").await.unwrap(), "192.168.1.0/24 is in use on lan0");
            assert_eq!(found("172.20.0.0/24").await.unwrap(), "172.16.0.0/12 is in use on lan0");
            assert_eq!(found("192.168.2.0/24").await, None, "half of a default route is no collision");
        });
    });
}

#[test]
fn a_neighbour_cannot_reach_the_tunnel_address() {
    in_namespace(|runtime| {
        if !available("nft") || !available("ping") {
            return skip("nft and ping are needed");
        }
        let neighbour = Neighbour::start();
        ip(&format!("link add lan0 type veth peer name lan1 netns {}", neighbour.pid()));
        ip("addr add 192.168.1.10/24 dev lan0");
        ip("link set lan0 up");
        ip("link set lo up");
        neighbour.run("ip addr add 192.168.1.20/24 dev lan1");
        neighbour.run("ip link set lan1 up");
        neighbour.run("ip route add 10.86.0.2/32 via 192.168.1.10");
        ip("tuntap add dev cah0 mode tun");
        runtime.block_on(async {
            Netlink::open().unwrap().apply(&wanted(&["10.86.0.0/24"])).await.unwrap();
            assert!(neighbour.run("ping -c1 -W2 10.86.0.2"), "without the guard the weak host model lets it in");

            let guarded = [guarded(vec![])];
            assert!(guard::ensure(&guarded).await.unwrap());
            assert!(!guard::ensure(&guarded).await.unwrap(), "a second pass changes nothing");
            assert!(!neighbour.run("ping -c1 -W1 10.86.0.2"));
            assert!(neighbour.run("ping -c1 -W2 192.168.1.10"), "the host's other addresses are not its business");
            assert!(run("ping", "-c1 -W2 10.86.0.2").0, "the host itself may");

            guard::remove().await.unwrap();
            guard::remove().await.unwrap();
            assert!(neighbour.run("ping -c1 -W2 10.86.0.2"));
        });
    });
}

#[test]
fn through_the_tunnel_only_open_ports_are_reached() {
    in_namespace(|runtime| {
        if !available("nft") || !available("ping") || !available("socat") {
            return skip("nft, ping and socat are needed");
        }
        // A neighbour on a link that is guarded as if it were the tunnel's.
        let neighbour = Neighbour::start();
        ip(&format!("link add cah0 type veth peer name tun1 netns {}", neighbour.pid()));
        ip("addr add 10.86.0.2/24 dev cah0");
        ip("link set cah0 up");
        ip("link set lo up");
        neighbour.run("ip addr add 10.86.0.1/24 dev tun1");
        neighbour.run("ip link set tun1 up");
        let listen = |port: u16| std::net::TcpListener::bind((TUNNEL_ADDRESS, port)).unwrap();
        let _servers = (listen(7443), listen(22));
        // A device in the same tunnel.
        neighbour.run("ip addr add 10.86.0.3/24 dev tun1");
        // A container, with a port that is published as an engine does it.
        let container = Neighbour::start();
        ip(&format!("link add docker0 type veth peer name eth0 netns {}", container.pid()));
        ip("addr add 172.30.0.1/24 dev docker0");
        ip("link set docker0 up");
        container.run("ip addr add 172.30.0.2/24 dev eth0");
        container.run("ip link set eth0 up");
        container.run("ip route add default via 172.30.0.1");
        let mut service = container.spawn("socat TCP-LISTEN:80,fork,reuseaddr OPEN:/dev/null");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let nft = |rule: &str| assert!(run("nft", rule).0, "{rule}");
        nft("add table ip engine");
        nft("add chain ip engine pre { type nat hook prerouting priority dstnat ; }");
        nft("add rule ip engine pre ip daddr 10.86.0.2 tcp dport 8080 dnat to 172.30.0.2:80");
        let connects = |from: &str, port: u16| {
            let to = format!("TCP:10.86.0.2:{port},connect-timeout=1,bind={from}");
            neighbour.run(&format!("socat -u OPEN:/dev/null {to}"))
        };
        let reaches = |port| connects("10.86.0.1", port);
        let device_reaches = |port| connects("10.86.0.3", port);
        runtime.block_on(async {
            let up = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !reaches(8080) {
                assert!(std::time::Instant::now() < up, "the container's port is not reached without the guard");
            }
            for port in [7443, 22, 8080] {
                assert!(reaches(port) && device_reaches(port), "{port}: without the guard everything is reached");
            }
            let guarded = [guarded(vec![7443])];
            assert!(guard::ensure(&guarded).await.unwrap());
            assert!(!guard::ensure(&guarded).await.unwrap(), "a second pass changes nothing");
            assert!(reaches(7443), "an open port is reached");
            assert!(!reaches(22), "another one is not");
            assert!(reaches(8080), "what a container publishes is reached");
            assert!(!device_reaches(7443) && !device_reaches(8080), "a device reaches neither");
            assert!(neighbour.run("ping -c1 -W2 -I 10.86.0.3 10.86.0.2"), "a ping is answered, also a device's");
            assert!(run("ping", "-c1 -W2 10.86.0.1").0, "the host itself may open what it likes");
        });
        service.kill().unwrap();
        service.wait().unwrap();
    });
}

#[test]
fn a_device_reaches_what_it_is_permitted_past_dockers_rules() {
    in_namespace(|runtime| {
        if !available("nft") || !available("socat") || !available("iptables") {
            return skip("nft, socat and iptables are needed");
        }
        let neighbour = Neighbour::start();
        ip(&format!("link add cah0 type veth peer name tun1 netns {}", neighbour.pid()));
        ip("addr add 10.86.0.2/24 dev cah0");
        ip("link set cah0 up");
        ip("link set lo up");
        neighbour.run("ip link set tun1 up");
        for address in ["10.86.0.1", "10.86.0.3", "10.86.0.4"] {
            neighbour.run(&format!("ip addr add {address}/24 dev tun1"));
        }
        neighbour.run("ip route add default via 10.86.0.2");
        // The internet knows no way back to the tunnel; a private network of this host would.
        let (internet, private) = (Neighbour::start(), Neighbour::start());
        for (other, link, net) in [(&internet, "up0", "198.51.100"), (&private, "lan0", "172.30.0")] {
            ip(&format!("link add {link} type veth peer name eth0 netns {}", other.pid()));
            ip(&format!("addr add {net}.1/24 dev {link}"));
            ip(&format!("link set {link} up"));
            other.run(&format!("ip addr add {net}.2/24 dev eth0"));
            other.run("ip link set eth0 up");
            other.run("ip link set lo up");
        }
        private.run("ip route add default via 172.30.0.1");
        let listen = "socat TCP-LISTEN:80,fork,reuseaddr OPEN:/dev/null";
        let mut services = [internet.spawn(listen), private.spawn(listen)];
        let _server = std::net::TcpListener::bind((TUNNEL_ADDRESS, 443)).unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let iptables = |words: &str| run("iptables", words).0;
        // As Docker sets it.
        for words in ["-P FORWARD DROP", "-N DOCKER-USER", "-I FORWARD -j DOCKER-USER"] {
            assert!(iptables(words), "{words}");
        }
        let reaches = |from: &str, to: &str| {
            neighbour.run(&format!("socat -u OPEN:/dev/null TCP:{to},connect-timeout=1,bind={from}"))
        };
        let (web, lan, own) = ("198.51.100.2:80", "172.30.0.2:80", "10.86.0.2:443");
        let up = std::time::Instant::now() + std::time::Duration::from_secs(10);
        for (other, to) in [(&internet, web), (&private, lan)] {
            let own = || other.run(&format!("socat -u OPEN:/dev/null TCP:{to},connect-timeout=1"));
            while !own() {
                assert!(std::time::Instant::now() < up, "nobody listens on {to}");
            }
        }
        runtime.block_on(async {
            let permit = |to| Permit { from: "10.86.0.3/32".parse().unwrap(), to };
            let others = Goal::Others("10.86.0.0/24".parse().unwrap());
            let permits =
                [Goal::Tcp(443), Goal::Udp(443), Goal::Published, Goal::Opposite, others, Goal::Internet].map(permit);
            let guarded = [Guarded { permits: permits.to_vec(), ..guarded(vec![]) }];
            assert!(guard::ensure(&guarded).await.unwrap());
            assert!(!guard::ensure(&guarded).await.unwrap(), "a second pass changes nothing");
            assert!(reaches("10.86.0.3", own) && !reaches("10.86.0.4", own));
            assert!(!reaches("10.86.0.3", web), "Docker's rules are in the way");

            docker_user::ensure("cah0", [10, 86, 0, 1].into()).await.unwrap();
            docker_user::ensure("cah0", [10, 86, 0, 1].into()).await.unwrap();
            let (_, rules) = run("iptables", "-S");
            assert_eq!(rules.matches("-A CLOUDATHOME").count(), 3, "{rules}");
            assert_eq!(rules.matches("-j CLOUDATHOME").count(), 1, "{rules}");
            assert!(reaches("10.86.0.3", web), "{}", ip("route"));
            for (from, to) in [("10.86.0.4", web), ("10.86.0.1", web), ("10.86.0.3", lan), ("10.86.0.4", lan)] {
                assert!(!reaches(from, to), "{from} reaches {to}");
            }

            guard::ensure(&[self::guarded(vec![])]).await.unwrap();
            assert!(!reaches("10.86.0.3", own) && !reaches("10.86.0.3", web), "the permits are gone");
            docker_user::remove().await.unwrap();
            docker_user::remove().await.unwrap();
            let (_, rules) = run("iptables", "-S");
            assert!(!rules.contains("CLOUDATHOME") && rules.contains("DOCKER-USER"), "{rules}");
            // Where there is no Docker, nothing is to be done.
            assert!(iptables("-F FORWARD") && iptables("-X DOCKER-USER"));
            docker_user::ensure("cah0", [10, 86, 0, 1].into()).await.unwrap();
            let (_, rules) = run("iptables", "-S");
            assert!(!rules.contains("CLOUDATHOME"), "{rules}");
        });
        for service in &mut services {
            service.kill().unwrap();
            service.wait().unwrap();
        }
    });
}

fn guarded(open_tcp: Vec<u16>) -> Guarded {
    Guarded {
        device: "cah0".to_owned(),
        address: TUNNEL_ADDRESS,
        opposite: [10, 86, 0, 1].into(),
        open_tcp,
        permits: vec![],
    }
}

fn wanted(routes: &[&str]) -> Wanted {
    Wanted {
        links: vec![LinkState {
            device: "cah0".to_owned(),
            address: TUNNEL_ADDRESS,
            mtu: 1420,
            tx_queue_len: 64,
            routes: routes.iter().map(|net| net.parse().unwrap()).collect(),
        }],
        unreachable: vec!["10.86.0.0/24".parse().unwrap()],
    }
}

/// Runs a test on a thread of its own, which alone enters a new network namespace; it goes with the thread.
fn in_namespace(test: impl FnOnce(&tokio::runtime::Runtime) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return skip("making network namespaces needs root");
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return skip("there is no /dev/net/tun");
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    });
    if let Err(failure) = thread.join() {
        std::panic::resume_unwind(failure);
    }
}

/// Another host: a process that holds a namespace until its standard input closes, however this test ends.
struct Neighbour(Child);

impl Neighbour {
    fn start() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn spawn(&self, command: &str) -> Child {
        let within = format!("--net=/proc/{}/ns/net {command}", self.pid());
        Command::new("nsenter").args(within.split(' ')).spawn().unwrap()
    }

    fn run(&self, command: &str) -> bool {
        run("nsenter", &format!("--net=/proc/{}/ns/net {command}", self.pid())).0
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn ip(arguments: &str) -> String {
    match run("ip", arguments) {
        (true, output) => output,
        (false, output) => panic!("ip {arguments}: {output}"),
    }
}

fn run(program: &str, arguments: &str) -> (bool, String) {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

fn available(program: &str) -> bool {
    Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}
