//! `/metrics` for Prometheus, and `/healthz` for whoever asks whether the process answers.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The type that Prometheus asks for.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Binds the page's address, which should be a loopback or tunnel address: nothing here asks who wants to know.
///
/// # Errors
/// When it cannot be bound.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen)
        .await
        .with_context(|| format!("metrics cannot listen on {listen}; choose another address in [metrics] listen"))
}

/// Serves `registry` until stopped.
///
/// # Errors
/// When the server fails as a whole.
pub async fn serve(listener: TcpListener, registry: Registry, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = Arc::new(registry);
    let app = Router::new()
        .route("/metrics", get(move || async move { render(&registry) }))
        .route("/healthz", get(|| async { "ok\n" }));
    // Not gracefully: Prometheus keeps its connection open and must not keep the agent.
    let served = stop.run_until_cancelled(async { axum::serve(listener, app).await }).await;
    served.unwrap_or(Ok(())).context("metrics server failed")
}

fn render(registry: &Registry) -> impl IntoResponse + use<> {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}
