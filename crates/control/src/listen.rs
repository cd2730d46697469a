//! The edge's listener: bound to the tunnel's address and link, open to its home only.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use model::RoleUri;
use proto::{MAX_MESSAGE_BYTES, v1};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::connection::{Peer, PeerConnection};
use crate::opposite::{self, OppositeWay};
use crate::renewal::MAX_REQUEST;
use crate::tls::Purpose;
use crate::{CONNECT_DEADLINE, ControlTls, EdgeService, Offered, Rights};

/// Handshakes that may run at a time.
const HANDSHAKES: usize = 16;
/// Connections of home. It needs two, and some more while old ones have not been found dead.
const CONNECTIONS: usize = 16;

/// Why the control listener could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address could not be bound.
    #[error("the control channel cannot listen on {address} of {device}")]
    Bind {
        /// The address.
        address: SocketAddrV4,
        /// The link.
        device: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server ended.
    #[error("the control channel's server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// Listens on `address`, for connections that arrive over `device` only.
///
/// # Errors
/// When the address is not there or taken, or the link is not there.
pub fn bind_on_device(address: SocketAddrV4, device: &str) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind_device(Some(device.as_bytes()))?;
        socket.bind(address.into())?;
        socket.listen(64)
    };
    bind().map_err(|source| ListenError::Bind { address, device: device.to_owned(), source })
}

/// Serves `home`, and nobody else, on `listener` until stopped: sessions, and of what is `offered` what home `may` have.
///
/// # Errors
/// When the HTTP/2 server fails as a whole; a single connection's fault is logged.
pub async fn serve_edge(
    listener: TcpListener,
    tls: ControlTls,
    home: RoleUri,
    service: EdgeService,
    offered: Offered,
    may: Rights,
    stop: CancellationToken,
) -> Result<(), ListenError> {
    let (accepted, incoming) = mpsc::channel(HANDSHAKES);
    let routes = offered.to_opposite(&home.name, may);
    let door = Door { tls, home, accepted, way: service.way().clone(), stop: stop.clone() };
    let accepting = tokio::spawn(door.accept(listener));
    let renewals = v1::renewal_server::RenewalServer::new(service.renewals()).max_decoding_message_size(MAX_REQUEST);
    let service = v1::control_server::ControlServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let routes = routes.add_service(service).add_service(renewals);
    let serving = opposite::server().add_routes(routes).serve_with_incoming(ReceiverStream::new(incoming));
    // Not gracefully: the tunnel ends at the same time, and connections whose peer is gone would never drain.
    let served = stop.run_until_cancelled(serving).await;
    accepting.abort();
    Ok(served.unwrap_or(Ok(()))?)
}

/// Where home's connections come in.
#[derive(Clone)]
struct Door {
    tls: ControlTls,
    home: RoleUri,
    /// Those that the server is for.
    accepted: mpsc::Sender<Result<PeerConnection<TlsStream<TcpStream>>, io::Error>>,
    /// Where the latest of the others is put.
    way: OppositeWay,
    stop: CancellationToken,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let connection = tokio::select! {
                () = self.stop.cancelled() => return,
                connection = listener.accept() => connection,
            };
            let (stream, remote) = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    // Out of descriptors, most likely: let some go before the next try.
                    warn!(%error, "control connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (door, connections) = (self.clone(), connections.clone());
            tokio::spawn(async move {
                let _permit = permit;
                match door.tls.accept(stream, &door.home).await {
                    Ok(stream) => door.enter(stream, connections).await,
                    Err(error) => {
                        debug!(%remote, "control connection refused");
                        warn!(error = &error as &dyn std::error::Error, "control connection refused");
                    }
                }
            });
        }
    }

    /// Takes a connection whose peer has proven to be the home.
    async fn enter(self, stream: TlsStream<TcpStream>, connections: Arc<Semaphore>) {
        let purpose = Purpose::of(&stream);
        let Ok(held) = connections.try_acquire_owned() else {
            warn!(home = %self.home, "home has too many connections; one more is refused");
            return;
        };
        let revoked = self.tls.until_revoked(stream.get_ref().1.peer_certificates());
        let end = async move { self.stop.run_until_cancelled_owned(revoked).await.unwrap_or_default() };
        let Some(home) = Peer::new(self.home, stream.get_ref().1.peer_certificates()) else { return };
        let connection = PeerConnection::new(stream, home, end).holding(held);
        match purpose {
            Purpose::Session => drop(self.accepted.send(Ok(connection)).await),
            Purpose::Calls => match timeout(CONNECT_DEADLINE, opposite::client(connection)).await {
                Ok(Ok(channel)) => self.way.open(channel),
                Ok(Err(error)) => debug!(%error, "home's connection for calls cannot be used"),
                Err(_) => debug!("home's connection for calls does not answer"),
            },
        }
    }
}
