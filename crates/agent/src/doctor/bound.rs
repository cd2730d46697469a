//! Whether something on this host listens on a port: who looks from outside cannot tell a closed port from a guarded one.

use std::fs;

use model::{Port, Protocol};

/// The states that a listening socket of each protocol has in the kernel's tables.
const TCP_LISTENS: &str = "0A";
const UDP_BOUND: &str = "07";

/// Whether something listens; none where the kernel does not say.
pub(super) fn listens(port: Port) -> Option<bool> {
    let (tables, state) = match port.over {
        Protocol::Tcp => (["/proc/self/net/tcp", "/proc/self/net/tcp6"], TCP_LISTENS),
        Protocol::Udp => (["/proc/self/net/udp", "/proc/self/net/udp6"], UDP_BOUND),
    };
    // Without IPv6 there is no second one.
    let tables: Vec<String> = tables.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    (!tables.is_empty()).then(|| tables.iter().any(|table| has(table, port.number, state)))
}

/// Whether a table of sockets has one in this state at an address that others reach.
fn has(table: &str, port: u16, state: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, is) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let Some((address, number)) = local.rsplit_once(':') else { return false };
        u16::from_str_radix(number, 16) == Ok(port) && is == state && !is_loopback(address)
    })
}

/// Addresses stand in words of the host's order, as hexadecimal digits.
fn is_loopback(address: &str) -> bool {
    (address.len() == 8 && address.ends_with("7F")) || address == "00000000000000000000000001000000"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_who_listens_for_others() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                     0: 00000000:01BB 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:0050 00000000:0000 0A 00000000:00000000\n\
                     2: 0A3364C6:0051 0100007F:1F90 01 00000000:00000000\n\
                     3: 00000000000000000000000001000000:0052 00000000000000000000000000000000:0000 0A 0:0\n";
        let listens = |port| has(table, port, TCP_LISTENS);
        assert!(listens(443));
        assert!(!listens(80), "on loopback only");
        assert!(!listens(81), "a connection, not a listener");
        assert!(!listens(82), "on loopback only");
        assert!(!listens(22));
    }

    #[test]
    fn the_kernel_is_asked() {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = Port { number: socket.local_addr().unwrap().port(), over: Protocol::Udp };
        assert_eq!(listens(port), Some(true));
        drop(socket);
        assert_eq!(listens(port), Some(false));
    }
}
