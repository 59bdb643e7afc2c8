//! The instance metadata service (IMDS): what `http://169.254.169.254` is on EC2, on an address of its own for each instance,
//! since the SDKs overwrite an address's path and nodes here share one network.
//!
//! Each instance has two listeners: `node` is one hop away, as for a process on the instance; `pods` two, as for a container
//! behind the node's network. With a hop limit of 1 the answer to `PUT /latest/api/token` never arrives at the latter.

mod page;
mod token;
mod tree;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use model_aws::ec2::MetadataOptions;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::ctx::Ctx;
use crate::engine::now;
use crate::faults::{self, Asked};
use crate::guard::Guard;
use token::Tokens;

/// Where one instance's metadata service listens. Bound already, so that who started us knows the ports.
pub struct Listeners {
    pub instance_id: String,
    /// For what runs on the instance itself.
    pub node: TcpListener,
    /// For its containers.
    pub pods: TcpListener,
}

/// Connections of one listener at one time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;

/// How far a client is from the service, in hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distance {
    Node = 1,
    Pod = 2,
}

/// Where the endpoint itself answers for the metadata services, for agents in nodes that do not reach the listeners:
/// `/_ebbtide/imds/INSTANCE/node|pods/…`, the path of the service below.
pub const PATH: &str = "/_ebbtide/imds/";

/// What all services need.
#[derive(Clone)]
pub struct Common {
    ctx: Arc<Ctx>,
    auth: Auth,
    tokens: Tokens,
    stopping: CancellationToken,
}

/// The service of one instance, as one kind of client sees it.
struct Service {
    common: Common,
    instance_id: String,
    distance: Distance,
}

impl Common {
    /// `key` is the file of the secret behind the tokens, made when it is not there: tokens outlive a restart, as on EC2.
    pub fn new(ctx: &Arc<Ctx>, auth: &Auth, key: &Path, stopping: &CancellationToken) -> std::io::Result<Self> {
        Ok(Self { ctx: ctx.clone(), auth: auth.clone(), tokens: Tokens::open(key)?, stopping: stopping.clone() })
    }

    /// Answers what an agent passes on. None: the path is not of this form.
    pub async fn relayed(&self, mut parts: Parts) -> Option<Response> {
        let (instance_id, rest) = parts.uri.path().strip_prefix(PATH)?.split_once('/')?;
        let (distance, path) = rest.split_at_checked(rest.find('/')?)?;
        let distance = match distance {
            "node" => Distance::Node,
            "pods" => Distance::Pod,
            _ => return None,
        };
        let service = Service { common: self.clone(), instance_id: instance_id.to_owned(), distance };
        parts.uri = path.parse().ok()?;
        Some(service.serve(parts).await)
    }
}

/// Serves all listeners until the endpoint stops.
pub fn serve(listeners: Vec<Listeners>, common: &Common) -> std::io::Result<Vec<tokio::task::JoinHandle<()>>> {
    let mut serving = Vec::new();
    for Listeners { instance_id, node, pods } in listeners {
        for (listener, distance) in [(node, Distance::Node), (pods, Distance::Pod)] {
            let addr: SocketAddr = listener.local_addr()?;
            listener.set_nonblocking(true)?;
            let guard = Arc::new(Guard::new(addr, &[]));
            let service = Arc::new(Service { common: common.clone(), instance_id: instance_id.clone(), distance });
            let listener = crate::server::Listener {
                tcp: tokio::net::TcpListener::from_std(listener)?,
                permits: Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS)),
            };
            let router = Router::new().fallback(move |request: Request| {
                let (service, guard) = (service.clone(), guard.clone());
                async move {
                    let (parts, _) = request.into_parts();
                    match guard.check(&parts.uri, &parts.headers) {
                        Ok(()) => service.serve(parts).await,
                        Err(_) => page::error(StatusCode::FORBIDDEN),
                    }
                }
            });
            let router = router.into_make_service_with_connect_info::<crate::server::Peer>();
            let stop = common.stopping.clone();
            serving.push(tokio::spawn(async move {
                // `axum::serve` ends only by the shutdown; its error type is never made.
                let _ = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
            }));
        }
    }
    Ok(serving)
}

impl Service {
    /// Answers, unless a fault of the table forbids it: then late, with an error's page, or not at all.
    async fn serve(&self, parts: Parts) -> Response {
        // Below the version: `meta-data/instance-id`.
        let operation = parts.uri.path().trim_matches('/').split_once('/').map_or("", |(_, rest)| rest);
        let names = serde_json::json!([self.instance_id]).to_string();
        let asked = Asked { service: "imds", operation, parts: &parts, form: "", json: names.as_bytes() };
        match faults::meet(&self.common.ctx, &asked).await {
            Ok(gate) => {
                let response = self.answer(&parts).await;
                gate.carried_out();
                response
            }
            Err(error) => page::error(StatusCode::from_u16(error.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)),
        }
    }

    async fn answer(&self, parts: &Parts) -> Response {
        let (method, path, headers) = (&parts.method, parts.uri.path(), &parts.headers);
        let options =
            self.common.ctx.engine.read(|aws| aws.ec2.instance(&self.instance_id).map(|instance| instance.metadata.applied)).await;
        // An instance that the world has no longer has no service; one whose service is off refuses everything.
        let Some(options) = options.filter(|options| options.endpoint) else { return page::error(StatusCode::FORBIDDEN) };
        if path == "/latest/api/token" {
            return self.token(method, headers, options).await;
        }
        if method != Method::GET && method != Method::HEAD {
            return page::error(StatusCode::METHOD_NOT_ALLOWED);
        }
        let left = match self.check(headers, options) {
            Ok(left) => left,
            Err(status) => return page::error(status),
        };
        let found = {
            let auth = &self.common.auth;
            self.common.ctx.engine.read(|aws| tree::find(aws, auth, &self.instance_id, path, now())).await
        };
        match found {
            Some(text) => page::ok(text, left),
            None => page::error(StatusCode::NOT_FOUND),
        }
    }

    /// Whether a GET may be answered; the seconds that its token still lives, where it has one.
    fn check(&self, headers: &HeaderMap, options: MetadataOptions) -> Result<Option<u32>, StatusCode> {
        match headers.get(token::TOKEN).map(|value| value.to_str().unwrap_or_default()) {
            // A wrong token is refused also where none is asked for.
            Some(given) => self.common.tokens.check(&self.instance_id, given, now()).map(Some).ok_or(StatusCode::UNAUTHORIZED),
            None if options.tokens_required => Err(StatusCode::UNAUTHORIZED),
            None => Ok(None),
        }
    }

    async fn token(&self, method: &Method, headers: &HeaderMap, options: MetadataOptions) -> Response {
        if method != Method::PUT {
            return page::error(StatusCode::METHOD_NOT_ALLOWED);
        }
        // Through a proxy the caller may be anybody.
        if headers.contains_key("x-forwarded-for") {
            return page::error(StatusCode::FORBIDDEN);
        }
        if options.hop_limit < self.distance as u8 {
            // The answer is dropped on its way; a client sees nothing but its own timeout.
            self.common.stopping.cancelled().await;
            return page::error(StatusCode::SERVICE_UNAVAILABLE);
        }
        match token::seconds(headers) {
            Some(seconds) => page::ok(self.common.tokens.issue(&self.instance_id, seconds, now()), Some(seconds)),
            None => page::error(StatusCode::BAD_REQUEST),
        }
    }
}

#[cfg(test)]
mod tests;
