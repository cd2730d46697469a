//! Finds another way to the peer while a session goes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ovpn::client::{Client, ClientConfig};
use ovpn::endpoint::Endpoint;
use ovpn::underlay::{Transport, Underlay};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use crate::config::{Remote, TunnelConfig};
use crate::dial::resolve;
use crate::driver::Error;
use crate::sockets::Opened;

/// Room for an answer.
const BUFFER: usize = 2048;
/// Before all other remotes are tried once more.
const PAUSE: Duration = Duration::from_secs(1);

/// What is looked for. Places are those in the list of remotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Search {
    /// Nothing.
    #[default]
    Nothing,
    /// A remote before the one at `than`, which works, now and then.
    Better {
        /// The place of the one in use.
        than: usize,
        /// Time before each look.
        pause: Duration,
    },
    /// Any remote but the one at `than`, which has gone silent.
    Other {
        /// The place of the one in use.
        than: usize,
        /// The place of the last one that was tried; those after it come first.
        after: usize,
        /// Time before the first is tried.
        pause: Duration,
    },
}

/// A way to a server, ready to be used.
pub(crate) struct Way {
    /// What it was found for.
    pub(crate) search: Search,
    /// The remote's place.
    pub(crate) place: usize,
    pub(crate) remote: Underlay,
    pub(crate) opened: Opened,
}

/// Hands over a way for each search that is announced, until nobody wants any. One that led to nothing is followed by
/// another search.
pub(crate) async fn run(
    config: watch::Receiver<ClientConfig>,
    remotes: Vec<Remote>,
    mut searches: watch::Receiver<Search>,
    ways: mpsc::Sender<Way>,
) {
    let mut found = false;
    loop {
        let search = *searches.borrow_and_update();
        tokio::select! {
            changed = searches.changed() => {
                if changed.is_err() {
                    return;
                }
                found = false;
            }
            way = find(&config, &remotes, search), if !found => {
                found = true;
                if ways.send(way).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Runs until it finds what is looked for.
async fn find(config: &watch::Receiver<ClientConfig>, remotes: &[Remote], search: Search) -> Way {
    let (places, mut pause, later): (Vec<usize>, _, _) = match search {
        Search::Nothing => return std::future::pending().await,
        // Only datagrams are answered before anything is kept.
        Search::Better { than, pause } => {
            let datagrams = |&at: &usize| remotes.get(at).is_some_and(|remote| remote.transport == Transport::Udp);
            ((0..than).filter(datagrams).collect(), pause, pause)
        }
        Search::Other { than, after, pause } => {
            let order = (after + 1..remotes.len()).chain(0..=after);
            (order.filter(|&at| at != than).collect(), pause, PAUSE)
        }
    };
    loop {
        tokio::time::sleep(std::mem::replace(&mut pause, later)).await;
        for (place, remote) in places.iter().filter_map(|&place| Some((place, remotes.get(place)?))) {
            for address in resolve(remote).await.unwrap_or_default() {
                let remote = Underlay { transport: remote.transport, address };
                // As it is by now.
                let config = config.borrow().clone();
                if let Some(opened) = open(&config, remote).await {
                    return Way { search, place, remote, opened };
                }
            }
        }
    }
}

/// A socket to `remote`, if there is a server that answers.
async fn open(config: &ClientConfig, remote: Underlay) -> Option<Opened> {
    if remote.transport == Transport::Udp {
        let answered = tokio::time::timeout(config.first_answer, answers(config, remote)).await;
        answered.ok().filter(|&answered| answered)?;
    }
    crate::dial::open(remote, config.first_answer).await.ok()
}

/// Whether a listener of this tunnel, whose keys those of a dialer's `config` fit, answers at `address` over UDP within `deadline`. It
/// keeps nothing of that and counts no handshake.
///
/// # Errors
/// When these are no settings of a dialer.
pub async fn listener_answers(config: &TunnelConfig, address: SocketAddr, deadline: Duration) -> Result<bool, Error> {
    let config = crate::dial::settings(config)?;
    let answered = tokio::time::timeout(deadline, answers(&config, Underlay::udp(address))).await;
    Ok(answered.unwrap_or(false))
}

/// Whether a server answers a reset. Runs until it does when it does not, unless the socket fails. The server answers
/// before it keeps anything, so that it forgets us at once.
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
