//! `/metrics` for Prometheus, and `/healthz` for whoever asks whether the process answers.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::{HeaderMap, header};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exposition::{Family, Format};

/// Where the metrics come from: asked anew for each page.
pub type Source = Arc<dyn Fn() -> Vec<Family> + Send + Sync>;

/// Binds an address of the page, which should be a loopback or tunnel address: nothing here asks who wants to know.
///
/// # Errors
/// When it cannot be bound.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen)
        .await
        .with_context(|| format!("metrics cannot listen on {listen}; choose another address in [metrics] listen"))
}

/// Serves what `source` has until stopped.
///
/// # Errors
/// When the server fails as a whole.
pub async fn serve(listeners: Vec<TcpListener>, source: Source, stop: CancellationToken) -> anyhow::Result<()> {
    let page = move |headers: HeaderMap| {
        let source = Arc::clone(&source);
        async move {
            let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
            ([(header::CONTENT_TYPE, format.content_type())], format.page(&source()))
        }
    };
    let app = Router::new().route("/metrics", get(page)).route("/healthz", get(|| async { "ok\n" }));
    let mut servers = JoinSet::new();
    for listener in listeners {
        let app = app.clone();
        servers.spawn(async move { axum::serve(listener, app).await });
    }
    // Not gracefully: Prometheus keeps its connection open and must not keep the agent.
    match stop.run_until_cancelled(servers.join_next()).await {
        Some(Some(ended)) => ended.context("the metrics server panicked")?.context("metrics server failed"),
        Some(None) | None => Ok(()),
    }
}
