//! A bare axum handler to compare with: the ceiling of what the bridge can answer. Listens on the address that is its
//! first argument until it is killed; `benches/requests` starts it.

use axum::Router;
use axum::routing::get;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, Router::new().route("/", get(async || "ok"))).await
}
