//! The API over HTTP (kube-api.md): one handler that reads the path, and the parts it hands to.

mod body;
mod discovery;
mod openapi;
mod options;
mod proxy;
mod query;
mod read;
mod resource;
mod respond;
mod review;
mod selector;
mod table;
mod token;
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
use crate::accounts::Signer;
use respond::error;

/// What every handler may use.
pub struct Shared {
    pub api: Api,
    pub places: Places,
    pub token: String,
    pub openapi: openapi::Documents,
    pub addr: SocketAddr,
    /// Of service accounts' tokens.
    pub signer: Signer,
}

/// The HTTP service.
pub fn router(api: Api, places: Places, token: String, signer: Signer, addr: SocketAddr) -> Router {
    let shared = Arc::new(Shared { api, places, token, openapi: openapi::Documents::default(), addr, signer });
    Router::new().fallback(handle).with_state(shared)
}

/// Compares in constant time: the token is the only lock on the door.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// The bearer token of a request.
fn bearer(request: &Request<Body>) -> Option<&str> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer "))).map(str::trim)
}

/// Whether a request only asks what the API has.
fn discovery(request: &Request<Body>) -> bool {
    let parts: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    let described =
        matches!(parts.as_slice(), ["version"] | ["openapi", ..] | ["api"] | ["api", _] | ["apis"] | ["apis", _] | ["apis", _, _]);
    described && *request.method() == Method::GET
}

/// Why a request is not let in; none when it is.
fn refused(request: &Request<Body>, shared: &Shared) -> Option<ApiError> {
    let Some(given) = bearer(request) else { return Some(ApiError::unauthorized()) };
    if same(given.as_bytes(), shared.token.as_bytes()) {
        return None;
    }
    match token::authenticated(shared, given) {
        // What every authenticated user may read.
        Some(claims) if claims.aud.contains(&shared.signer.issuer) && discovery(request) => None,
        // A pod is root on its node at most; with this API it could be anything.
        Some(claims) if claims.aud.contains(&shared.signer.issuer) => Some(ApiError::forbidden_text(format!(
            "User \"{}\" may do nothing here: ebbtide has no RBAC, and only the user of its kubeconfig may use this API",
            claims.sub
        ))),
        Some(_) | None => Some(ApiError::unauthorized()),
    }
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
    // Whoever checks a token needs these: they are public.
    match path.as_str() {
        "/.well-known/openid-configuration" => return respond::json(200, &shared.signer.discovery()),
        "/openid/v1/jwks" => return respond::json(200, &shared.signer.keys()),
        _ => {}
    }
    if let Some(refused) = refused(&request, &shared) {
        return error(&refused);
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
