//! The connections that home opens to the edge, and what it does on the one where the edge asks.

use std::convert::Infallible;
use std::net::SocketAddrV4;

use model::RoleUri;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::connection::{Peer, PeerConnection};
use crate::session::RETRY_MAX;
use crate::tls::Purpose;
use crate::{CONNECT_DEADLINE, ControlTls, HomeLink, opposite};

impl HomeLink {
    /// Keeps a connection open on which the edge asks and home answers. It ends with the session, and what runs on it too.
    pub(crate) async fn answer_calls(&self) -> Infallible {
        loop {
            if let Err(reason) = self.answer_on_one().await {
                debug!(reason, "no connection for calls of the edge");
            }
            sleep(RETRY_MAX).await;
        }
    }

    async fn answer_on_one(&self) -> Result<(), String> {
        let (end, gone) = (CancellationToken::new(), CancellationToken::new());
        let _end = end.clone().drop_guard();
        let connection = self.connect(Purpose::Calls, end).await?.telling(gone.clone());
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(connection)).chain(tokio_stream::pending());
        let routes = self.offered.to_opposite(&self.edge.name, self.may);
        let serving = opposite::server().add_routes(routes).serve_with_incoming(incoming);
        tokio::select! {
            served = serving => served.map_err(|error| self.failed("serving", &error)),
            () = gone.cancelled() => Ok(()),
        }
    }

    pub(crate) async fn connect(
        &self,
        purpose: Purpose,
        end: CancellationToken,
    ) -> Result<PeerConnection<TlsStream<TcpStream>>, String> {
        self.place().connect(purpose, end).await
    }

    /// What did not work, with its causes.
    pub(crate) fn failed(&self, what: &str, error: &dyn std::error::Error) -> String {
        failed(what, self.address, error)
    }

    pub(crate) fn place(&self) -> EdgePlace {
        let (edge, device, tls) = (self.edge.clone(), self.device.clone(), self.tls.clone());
        EdgePlace { edge, address: self.address, device, tls }
    }
}

fn failed(what: &str, address: SocketAddrV4, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what} {address}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Where the edge is, and how it is known.
#[derive(Debug, Clone)]
pub(crate) struct EdgePlace {
    edge: RoleUri,
    address: SocketAddrV4,
    device: String,
    tls: ControlTls,
}

impl EdgePlace {
    /// What did not work, with its causes.
    pub(crate) fn failed(&self, what: &str, error: &dyn std::error::Error) -> String {
        failed(what, self.address, error)
    }

    /// A connection to the edge over the tunnel's link, until `end` is cancelled or the edge's certificate revoked.
    pub(crate) async fn connect(
        &self,
        purpose: Purpose,
        end: CancellationToken,
    ) -> Result<PeerConnection<TlsStream<TcpStream>>, String> {
        let socket = TcpSocket::new_v4().map_err(|error| self.failed("opening a socket for", &error))?;
        socket
            .bind_device(Some(self.device.as_bytes()))
            .map_err(|error| self.failed(&format!("binding to {} for", self.device), &error))?;
        let connecting = timeout(CONNECT_DEADLINE, socket.connect(self.address.into()));
        let stream = connecting
            .await
            .map_err(|_| format!("the edge's control address {} does not answer through the tunnel", self.address))?
            .map_err(|error| self.failed("connecting to", &error))?;
        let identified = self.tls.connect(stream, &self.edge, purpose).await;
        let stream = identified.map_err(|error| self.failed("identifying", &error))?;
        let revoked = self.tls.until_revoked(stream.get_ref().1.peer_certificates());
        let end = async move { end.run_until_cancelled_owned(revoked).await.unwrap_or_default() };
        let edge = Peer::new(self.edge.clone(), stream.get_ref().1.peer_certificates());
        let edge = edge.ok_or_else(|| format!("the certificate of {} cannot be read", self.edge))?;
        Ok(PeerConnection::new(stream, edge, end))
    }
}
