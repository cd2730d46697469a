//! Whether something speaks QUIC at an address: what carries HTTP/3.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A server answers no less: what it says must not be more than what it was asked (RFC 9000, 14.1).
const SHORTEST: usize = 1200;
/// A version that nobody speaks (RFC 9000, 15): a server answers with those that it does, and keeps nothing.
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];
/// Bytes of either connection id.
const ID: usize = 8;
/// Where the first of the ids begins: after form, version and its length.
const IDS: usize = 6;
/// Datagrams get lost.
const ATTEMPTS: u32 = 3;

/// Whether a server of QUIC answers at `address`.
///
/// # Errors
/// When nothing comes back within `deadline` ([`io::ErrorKind::TimedOut`]), or what the network says instead.
pub(super) async fn answers(address: SocketAddr, deadline: Duration) -> io::Result<()> {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(local).await?;
    // So that it hears of a closed port.
    socket.connect(address).await?;
    let ids: [u8; 2 * ID] = rand::random();
    let question = question(ids);
    let mut answer = [0; SHORTEST];
    for _ in 0..ATTEMPTS {
        socket.send(&question).await?;
        let heard = async {
            loop {
                let length = socket.recv(&mut answer).await?;
                if answer.get(..length).is_some_and(|answer| is_answer(answer, ids)) {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        if let Ok(heard) = timeout(deadline / ATTEMPTS, heard).await {
            return heard;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The first packet of a connection in a version that the server does not speak.
fn question(ids: [u8; 2 * ID]) -> Vec<u8> {
    let (destination, source) = ids.split_at(ID);
    let mut packet = vec![0xc0];
    packet.extend(NO_VERSION);
    for id in [destination, source] {
        packet.push(ID as u8);
        packet.extend(id);
    }
    packet.resize(SHORTEST, 0);
    packet
}

/// Whether this is a list of versions (RFC 9000, 17.2.1) for that question: the ids come back in the opposite order.
fn is_answer(packet: &[u8], ids: [u8; 2 * ID]) -> bool {
    let (destination, source) = ids.split_at(ID);
    let id = |at: usize| packet.get(at..at + 1 + ID).filter(|id| id.first() == Some(&(ID as u8))).map(|id| &id[1..]);
    packet.first().is_some_and(|form| form & 0x80 != 0)
        && packet.get(1..5) == Some(&[0; 4])
        && id(IDS - 1) == Some(source)
        && id(IDS + ID) == Some(destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(3);

    /// The answer of a server that speaks version 1.
    fn versions(question: &[u8]) -> Vec<u8> {
        let mut answer = vec![0x80, 0, 0, 0, 0, ID as u8];
        answer.extend(&question[IDS + ID + 1..IDS + ID + 1 + ID]);
        answer.push(ID as u8);
        answer.extend(&question[IDS..IDS + ID]);
        answer.extend([0, 0, 0, 1]);
        answer
    }

    #[test]
    fn only_an_answer_to_this_question_counts() {
        let ids = *b"destina.source..";
        let question = question(ids);
        assert_eq!(question.len(), SHORTEST);
        let answer = versions(&question);
        assert!(is_answer(&answer, ids));
        assert!(!is_answer(&answer, *b"another.question"));
        assert!(!is_answer(&question, ids), "an echo");
        for length in 0..IDS + 2 * ID {
            assert!(!is_answer(&answer[..length], ids), "{length} bytes");
        }
    }

    #[tokio::test]
    async fn a_server_is_told_from_an_echo_and_from_a_closed_port() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut buf = [0; 2048];
            // The first question gets lost, and the second's echo is no answer.
            server.recv_from(&mut buf).await.unwrap();
            let (length, from) = server.recv_from(&mut buf).await.unwrap();
            server.send_to(&buf[..length], from).await.unwrap();
            let (length, from) = server.recv_from(&mut buf).await.unwrap();
            server.send_to(&versions(&buf[..length]), from).await.unwrap();
        });
        answers(address, DEADLINE).await.unwrap();
        serving.await.unwrap();
        let closed = answers(address, DEADLINE).await.unwrap_err();
        assert_eq!(closed.kind(), io::ErrorKind::ConnectionRefused);
    }
}
