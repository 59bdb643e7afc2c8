//! The API over HTTP (kube-api.md): one handler that reads the path, and the parts it hands to.

mod body;
mod discovery;
mod openapi;
mod proxy;
mod query;
mod read;
mod resource;
mod respond;
mod review;
mod selector;
mod table;
mod watch;
mod write;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use emulator_common::places::Places;
use model_kube::write::ApiError;

use crate::Api;
use respond::error;

/// What every handler may use.
pub struct Shared {
    pub api: Api,
    pub places: Places,
    pub token: String,
    pub openapi: openapi::Documents,
    pub addr: SocketAddr,
}

/// The HTTP service.
pub fn router(api: Api, places: Places, token: String, addr: SocketAddr) -> Router {
    let shared = Arc::new(Shared { api, places, token, openapi: openapi::Documents::default(), addr });
    Router::new().fallback(handle).with_state(shared)
}

/// Compares in constant time: the token is the only lock on the door.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn authorized(request: &Request<Body>, token: &str) -> bool {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = header.and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")));
    given.is_some_and(|given| same(given.trim().as_bytes(), token.as_bytes()))
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    if let "/healthz" | "/readyz" | "/livez" = path.as_str() {
        return "ok".into_response();
    }
    // A browser cannot read the token; that it asks at all is refused.
    if request.headers().contains_key(header::ORIGIN) {
        return error(&ApiError::forbidden_text("requests from web pages are refused"));
    }
    if !authorized(&request, &shared.token) {
        return error(&ApiError::unauthorized());
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let segments: Vec<String> = match path.split('/').filter(|part| !part.is_empty()).map(query::decode).collect() {
        Some(segments) => segments,
        None => return error(&ApiError::bad_request("the path is not valid UTF-8")),
    };
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] if reads => discovery::paths(),
        ["version"] if reads => discovery::version(),
        ["healthz" | "readyz" | "livez", ..] if reads => "ok".into_response(),
        ["api"] if reads => discovery::core(&shared, &request),
        ["apis"] if reads => discovery::groups(&shared, &request),
        ["apis", group] if reads => discovery::group(&shared, group),
        ["openapi", "v2"] if reads => openapi::serve_v2(&request),
        ["openapi", "v3", rest @ ..] if reads => openapi::serve(&shared, rest, &request),
        ["api", "v1"] if reads => discovery::resources(&shared, "", "v1"),
        ["apis", group, version] if reads => discovery::resources(&shared, group, version),
        ["api", "v1", rest @ ..] => resource::handle(shared.clone(), "", "v1", rest, request).await,
        ["apis", group, version, rest @ ..] => resource::handle(shared.clone(), group, version, rest, request).await,
        _ => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
    }
}
