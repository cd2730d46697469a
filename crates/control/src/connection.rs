//! A connection whose peer has proven who it is, and that can be ended from outside: HTTP/2 would let what runs on it go on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use model::RoleUri;
use pki::Serial;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::Connected;

/// Who a connection's peer has proven to be.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// By its certificate.
    pub(crate) role: RoleUri,
    /// The number of that.
    pub(crate) serial: Serial,
}

impl Peer {
    /// A peer whose certificates were checked and found to be of this role. None: they cannot be read after all.
    pub(crate) fn new(role: RoleUri, certificates: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let serial = Serial::of_der(certificates?.first()?).ok()?;
        Some(Self { role, serial })
    }
}

/// The connection. Reading from it fails once it is ended, by which HTTP/2 learns of that.
pub(crate) struct PeerConnection<S> {
    stream: S,
    peer: Peer,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
    _held: Option<OwnedSemaphorePermit>,
    _gone: Option<DropGuard>,
}

impl<S> PeerConnection<S> {
    /// A connection with `peer` that ends with `end`.
    pub(crate) fn new(stream: S, peer: Peer, end: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { stream, peer, end: Box::pin(end), ended: false, _held: None, _gone: None }
    }

    /// The same, holding its place among those that there may be.
    pub(crate) fn holding(self, permit: OwnedSemaphorePermit) -> Self {
        Self { _held: Some(permit), ..self }
    }

    /// The same, cancelling `gone` when nobody uses it any more.
    pub(crate) fn telling(self, gone: CancellationToken) -> Self {
        Self { _gone: Some(gone.drop_guard()), ..self }
    }
}

impl<S> Connected for PeerConnection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PeerConnection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.ended = self.ended || self.end.as_mut().poll(cx).is_ready();
        if self.ended {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionAborted)));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeerConnection<S> {
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
