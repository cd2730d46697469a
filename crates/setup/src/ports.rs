//! Ports that must be free, and who has those that are not.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use hostcheck::found;
use model::{Finding, Grade, Port, Protocol};

/// A finding for each port that is in use, or one good one.
pub(crate) fn ports(wanted: &[Port]) -> Vec<Finding> {
    let busy: Vec<Finding> =
        wanted.iter().copied().filter(|port| is_busy(*port)).map(|port| told(port, owner(port))).collect();
    if busy.is_empty() {
        let all: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        return vec![found("ports", Grade::Good, format!("{} are free", all.join(", ")), None)];
    }
    busy
}

fn is_busy(port: Port) -> bool {
    let any: [SocketAddr; 2] =
        [(Ipv4Addr::UNSPECIFIED, port.number).into(), (Ipv6Addr::UNSPECIFIED, port.number).into()];
    any.iter().any(|address| {
        let bound = match port.over {
            Protocol::Tcp => TcpListener::bind(address).map(drop),
            Protocol::Udp => UdpSocket::bind(address).map(drop),
        };
        bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
    })
}

/// A process.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    name: String,
}

fn told(port: Port, owner: Option<Owner>) -> Finding {
    let (by, next) = match owner {
        Some(Owner { pid, name }) => (
            format!("by {name} (process {pid})"),
            format!(
                "`systemctl status {pid}` tells what it belongs to: stop and disable that, as with `systemctl disable --now NAME`"
            ),
        ),
        None => (
            "by another program".to_owned(),
            format!("`ss -lnp 'sport = :{}'` tells whose it is: stop and disable that", port.number),
        ),
    };
    found("ports", Grade::Bad, format!("{port} is in use {by}"), Some(&next))
}

/// The process with a socket at the port, as far as the kernel shows it to us.
fn owner(port: Port) -> Option<Owner> {
    let tables = match port.over {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| sockets(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes.into_iter().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.filter_map(Result::ok);
        let has = files.any(|file| {
            fs::read_link(file.path()).is_ok_and(|to| inodes.iter().any(|inode| to.as_os_str() == inode.as_str()))
        });
        let name = || fs::read_to_string(process.path().join("comm")).unwrap_or_default().trim().to_owned();
        has.then(|| Owner { pid, name: name() })
    })
}

/// The inodes of the sockets in a table that wait at the port.
fn sockets(table: &str, port: Port) -> Vec<u64> {
    let waits = match port.over {
        Protocol::Tcp => "0A",
        Protocol::Udp => "07",
    };
    let of_line = |line: &str| -> Option<u64> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, number) = fields.get(1)?.rsplit_once(':')?;
        let here = u16::from_str_radix(number, 16) == Ok(port.number) && *fields.get(3)? == waits;
        here.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_told_with_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Port { number: listener.local_addr().unwrap().port(), over: Protocol::Tcp };
        let findings = ports(&[port]);
        let own = format!("(process {})", std::process::id());
        assert!(findings.len() == 1 && findings[0].grade == Grade::Bad, "{findings:?}");
        assert!(findings[0].text.contains(&own) && findings[0].next.is_some(), "{findings:?}");
        drop(listener);
        assert_eq!(ports(&[port])[0].grade, Grade::Good);

        let socket = UdpSocket::bind("[::]:0").unwrap();
        let port = Port { number: socket.local_addr().unwrap().port(), over: Protocol::Udp };
        assert!(ports(&[port])[0].text.contains(&own));
    }

    #[test]
    fn nonsense_in_a_table_is_skipped() {
        let port = Port { number: 443, over: Protocol::Tcp };
        let line = "  0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1";
        assert_eq!(sockets(&format!("head\n{line}\n\nx\n1: y z 0A\n"), port), [4711]);
        assert!(sockets(line, port).is_empty());
    }
}
