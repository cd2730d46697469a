//! The edge's listener: bound to the tunnel's address and link, open to its home only.

use std::io;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::task::{Context, Poll};

use model::RoleUri;
use proto::{MAX_MESSAGE_BYTES, v1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::{ControlTls, EdgeService};

/// Handshakes that may run at a time.
const HANDSHAKES: usize = 16;

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

/// Serves `home`, and nobody else, on `listener` until stopped.
///
/// # Errors
/// When the HTTP/2 server fails as a whole; a single connection's fault is logged.
pub async fn serve_edge(
    listener: TcpListener,
    tls: ControlTls,
    home: RoleUri,
    service: EdgeService,
    stop: CancellationToken,
) -> Result<(), ListenError> {
    let (accepted, incoming) = mpsc::channel(HANDSHAKES);
    let accepting = tokio::spawn(accept(listener, tls, home, accepted, stop.clone()));
    let service = v1::control_server::ControlServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let serving = Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(incoming));
    // Not gracefully: the tunnel ends at the same time, and connections whose peer is gone would never drain.
    let served = stop.run_until_cancelled(serving).await;
    accepting.abort();
    Ok(served.unwrap_or(Ok(()))?)
}

async fn accept(
    listener: TcpListener,
    tls: ControlTls,
    home: RoleUri,
    accepted: mpsc::Sender<Result<HomeConnection, io::Error>>,
    stop: CancellationToken,
) {
    let handshakes = std::sync::Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            connection = listener.accept() => connection,
        };
        let (stream, remote) = match connection {
            Ok(connection) => connection,
            Err(error) => {
                // Out of descriptors, most likely: let some go before the next try.
                warn!(%error, "control connection not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, peer, accepted) = (tls.clone(), home.clone(), accepted.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match tls.accept(stream, &peer).await {
                Ok(stream) => {
                    drop(accepted.send(Ok(HomeConnection { stream, peer })).await);
                }
                Err(error) => {
                    debug!(%remote, "control connection refused");
                    warn!(error = &error as &dyn std::error::Error, "control connection refused");
                }
            }
        });
    }
}

/// A connection whose peer has proven to be the home.
struct HomeConnection {
    stream: TlsStream<TcpStream>,
    peer: RoleUri,
}

impl Connected for HomeConnection {
    type ConnectInfo = RoleUri;

    fn connect_info(&self) -> RoleUri {
        self.peer.clone()
    }
}

impl AsyncRead for HomeConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for HomeConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
