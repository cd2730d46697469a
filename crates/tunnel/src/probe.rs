//! Finds out that a better remote works while a session over another goes on.

use std::time::{Duration, Instant};

use ovpn::client::{Client, ClientConfig};
use ovpn::endpoint::Endpoint;
use ovpn::underlay::{Transport, Underlay};
use tokio::net::UdpSocket;

use crate::config::Remote;
use crate::dial::resolve;

/// Room for an answer.
const BUFFER: usize = 2048;

/// Tries those of `remotes` that are reached by datagrams again and again, with `pause` before each time, and returns
/// when a server there answered. It answers before it keeps anything, so that it forgets us at once. Never returns when
/// there is nobody to try.
pub(crate) async fn until_one_answers(config: ClientConfig, remotes: Vec<Remote>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        for remote in remotes.iter().filter(|remote| remote.transport == Transport::Udp) {
            for address in resolve(remote).await.unwrap_or_default() {
                let answered = answers(&config, Underlay::udp(address));
                if tokio::time::timeout(config.first_answer, answered).await == Ok(true) {
                    return;
                }
            }
        }
    }
}

/// Whether a server answers a reset. Runs until it does when it does not, unless the socket fails.
async fn answers(config: &ClientConfig, remote: Underlay) -> bool {
    let Ok(socket) = crate::dial::bind_towards(remote.address) else { return false };
    let mut client = Client::new(config.clone(), remote, Instant::now(), crate::unix_time(), crate::rng());
    let mut buf = vec![0; BUFFER];
    while !client.has_ended() {
        while client.poll_transmit(Instant::now(), &mut buf).is_some() {
            if socket.send_to(&buf, remote.address).await.is_err() {
                return false;
            }
        }
        buf.resize(BUFFER, 0);
        if receive(&socket, &mut client, &mut buf).await {
            return true;
        }
    }
    false
}

/// Waits for a packet or the client's next timeout; true when the packet was the server's answer.
async fn receive(socket: &UdpSocket, client: &mut Client, buf: &mut [u8]) -> bool {
    let due = client.poll_timeout().unwrap_or_else(Instant::now);
    tokio::select! {
        received = socket.recv_from(buf) => {
            let Ok((length, from)) = received else { return false };
            let Some(packet) = buf.get_mut(..length) else { return false };
            client.handle_datagram(Instant::now(), Underlay::udp(from), packet).is_ok()
        }
        () = tokio::time::sleep_until(due.into()) => {
            client.handle_timeout(Instant::now());
            false
        }
    }
}
