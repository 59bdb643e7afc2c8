//! The instance's metadata service in its node: requests go on to the endpoint, which knows the answers, with the distance of who asks.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use emulator_common::sigv4::{self, Signable, Signer};
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::NodeConfig;
use crate::address::{self, Address};

/// Longer than any client waits; an answer that the hop limit drops never comes.
const LIMIT: Duration = Duration::from_secs(120);

/// The label of its address on the loopback link.
const LABEL: &str = "lo:ebbtide";

/// A listener, and the address that was added for it.
pub(super) struct Bound {
    listener: TcpListener,
    address: Option<Address>,
}

/// Binds the address; one that this node has not got is added to its loopback link.
pub(super) async fn bind(address: SocketAddr) -> io::Result<Bound> {
    match (TcpListener::bind(address).await, address.ip()) {
        (Ok(listener), _) => Ok(Bound { listener, address: None }),
        (Err(error), IpAddr::V4(ip)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let added = Address::add(LABEL, ip)?;
            Ok(Bound { listener: TcpListener::bind(address).await?, address: Some(added) })
        }
        (Err(error), _) => Err(error),
    }
}

/// Serves until `stop`.
pub(super) async fn serve(bound: Bound, config: Arc<NodeConfig>, stop: CancellationToken) {
    // Every request is one of its own, as with the real service, which closes each connection.
    let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().pool_max_idle_per_host(0).build().unwrap_or_default();
    let base = format!("{}/_ebbtide/imds/{}", config.aws_endpoint, config.instance_id);
    let signer = Arc::new(Signer::from_env());
    let router = Router::new().fallback(move |ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
        let (client, signer, base) = (client.clone(), signer.clone(), base.clone());
        async move { forward(&client, &signer, &base, peer.ip(), request).await }
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let Bound { listener, address } = bound;
    // A client that waits for an answer that never comes does not keep us.
    tokio::select! {
        _ = axum::serve(listener, service).into_future() => {}
        () = stop.cancelled() => {}
    }
    drop(address);
}

/// Who is on the node itself is one hop away, all others two.
fn distance(peer: IpAddr) -> &'static str {
    if peer.is_loopback() || address::own().contains(&peer) { "node" } else { "pods" }
}

async fn forward(client: &reqwest::Client, signer: &Signer, base: &str, peer: IpAddr, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let url = format!("{base}/{}{}", distance(peer), parts.uri.path());
    let mut headers = parts.headers;
    // The name by which the client calls this address is not the endpoint's.
    headers.remove(header::HOST);
    headers.remove(header::CONNECTION);
    let host = sigv4::host(&url);
    // No request of this service has a query or a body.
    let path = url.split_once(host).map_or("/", |(_, path)| path);
    let signable = Signable { service: "ebbtide", method: parts.method.as_str(), host, path, query: "", content_type: None, body: b"" };
    for (name, value) in signer.sign(&signable, jiff::Timestamp::now()) {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
    match client.request(parts.method, &url).headers(headers).send().await {
        Ok(answer) => {
            let (status, headers) = (answer.status(), answer.headers().clone());
            let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
            *response.status_mut() = status;
            for (name, value) in headers.iter().filter(|(name, _)| ![header::TRANSFER_ENCODING, header::CONNECTION].contains(name)) {
                response.headers_mut().append(name, value.clone());
            }
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
            response
        }
        Err(error) => {
            tracing::warn!(url, error = crate::host::chain(&error), "the metadata service cannot reach the endpoint");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }
}
