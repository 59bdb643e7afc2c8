//! One listener for all services: who may call, which service is meant, how much is read.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use model_aws::faults::ApiError;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::auth::{Auth, Credential, Denied, SESSION_TOKEN};
use crate::ctx::Ctx;
use crate::efs::EfsError;
use crate::engine::now;
use crate::error::Ec2Error;
use crate::faults::{self, Asked, Hangup};
use crate::guard::Guard;
use crate::kms::KmsError;
use crate::metrics::Metrics;
use crate::query::Params;
use crate::{control, ec2, efs, imds, kms, pods, sts, xml};

/// Largest body of a request.
const MAX_BODY: usize = 1 << 20;
/// Longest time to send one.
const BODY_TIME: Duration = Duration::from_secs(30);
const EFS_PREFIX: &str = "/2015-02-01/";

/// What serves requests.
pub struct Server {
    pub ctx: Arc<Ctx>,
    pub metrics: Metrics,
    pub guard: Guard,
    pub auth: Auth,
    pub metadata: imds::Common,
    pub stopping: CancellationToken,
    /// One reset at a time.
    pub resetting: tokio::sync::Mutex<()>,
}

/// Which protocol a request speaks, so that even its first refusal is in the right form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Ec2,
    Efs,
    Kms,
    Sts,
    Control,
}

impl Service {
    /// By path, then by the target of JSON requests, then by the scope of the signature. Query requests without one are told
    /// apart by their action.
    fn of(parts: &Parts) -> Self {
        let path = parts.uri.path();
        if path.starts_with("/_ebbtide/") || path.starts_with("/_localstack/") || path == "/metrics" {
            return Self::Control;
        }
        match Credential::of(&parts.headers).map(|credential| credential.service) {
            _ if path.starts_with(EFS_PREFIX) => Self::Efs,
            _ if kms::meant(&parts.headers) => Self::Kms,
            Some("elasticfilesystem") => Self::Efs,
            Some("kms") => Self::Kms,
            Some("sts") => Self::Sts,
            Some(_) | None => Self::Ec2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Efs => "elasticfilesystem",
            Self::Kms => "kms",
            Self::Sts => "sts",
            Self::Control => "ebbtide",
        }
    }

    /// The error of a fault, in the protocol's own form.
    fn refused(self, error: ApiError) -> Response {
        let ApiError { status, code, message } = error;
        match self {
            Self::Ec2 => Ec2Error { status, ..Ec2Error::new(code, message) }.into_response(),
            Self::Sts => sts_error(&Ec2Error { status, ..Ec2Error::new(code, message) }),
            Self::Efs => efs::refused(status, &code, &message),
            Self::Kms => kms::refused(status, &code, &message),
            Self::Control => control::refuse(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), message),
        }
    }

    /// An error in the protocol's own form.
    fn error(self, status: u16, query_code: &'static str, rest_code: &'static str, message: String) -> Response {
        match self {
            Self::Ec2 => Ec2Error { status, ..Ec2Error::new(query_code, message) }.into_response(),
            Self::Sts => sts_error(&Ec2Error { status, ..Ec2Error::new(query_code, message) }),
            Self::Efs => EfsError::new(status, rest_code, message).into_response(),
            Self::Kms => KmsError::new(status, rest_code, message).into_response(),
            Self::Control => control::refuse(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), message),
        }
    }
}

fn sts_error(error: &Ec2Error) -> Response {
    xml::respond(error.status, &xml::request_id(), |id| xml::query_error(sts::NAMESPACE, error, id))
}

/// Answers a request. While the state cannot be saved, one that waits for it is told so.
pub async fn serve(server: Arc<Server>, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let mut service = Service::of(&parts);
    let mut action = String::new();
    let response = tokio::select! {
        // What can be answered at once is, fault or not.
        biased;
        response = answer(&server, &mut service, parts, body, &mut action) => response,
        fault = server.ctx.engine.faulted() => {
            let message = format!("The service cannot save its state: {fault}");
            service.error(503, "Unavailable", "ServiceUnavailableException", message)
        }
    };
    if service != Service::Control {
        server.metrics.count(service.name(), &action, response.status().as_u16(), started.elapsed());
    }
    response
}

async fn answer(server: &Arc<Server>, service: &mut Service, mut parts: Parts, body: Body, action: &mut String) -> Response {
    if let Err(foreign) = server.guard.check(&parts.uri, &parts.headers) {
        return control::refuse(StatusCode::FORBIDDEN, foreign.to_string());
    }
    if parts.uri.path() == "/_ebbtide/agent" {
        if let Err(denied) = server.check_control(&parts, b"") {
            return deny(*service, &denied);
        }
        return control::agent(server.ctx.clone(), Request::from_parts(parts, body)).await;
    }
    if parts.uri.path().starts_with(imds::PATH) {
        if let Err(denied) = server.check_control(&parts, b"") {
            return deny(*service, &denied);
        }
        let path = parts.uri.path().to_owned();
        let relayed = server.metadata.relayed(parts).await;
        return relayed.unwrap_or_else(|| control::refuse(StatusCode::NOT_FOUND, format!("there is no {path}")));
    }
    if parts.uri.path() == pods::PATH {
        return pods::credentials(&server.ctx, &server.auth, &parts, now());
    }
    let body = match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let message = format!("The request body is larger than {MAX_BODY} bytes, or was cut off.");
            return service.error(413, "RequestEntityTooLarge", "BadRequest", message);
        }
        Err(_) => return service.error(408, "RequestTimeout", "RequestTimeout", "The request body did not arrive in time.".to_owned()),
    };
    match service {
        Service::Control => {
            if let Err(denied) = server.check_control(&parts, &body) {
                return deny(*service, &denied);
            }
            control::handle(server, &parts.method, parts.uri.path(), &body).await
        }
        Service::Efs => {
            if let Err(denied) = server.auth.check(now(), &parts, &body) {
                return deny(*service, &denied);
            }
            let Some(path) = parts.uri.path().strip_prefix(EFS_PREFIX) else {
                return service.error(404, "", "UnknownOperationException", format!("{} is no path of EFS", parts.uri.path()));
            };
            let segments = efs::segments(path);
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            let operation = efs::operation(&parts.method, &segments);
            operation.clone_into(action);
            let form = parts.uri.query().unwrap_or_default();
            let asked = Asked { service: service.name(), operation, parts: &parts, form, json: &body };
            let gate = match faults::meet(&server.ctx, &asked).await {
                Ok(gate) => gate,
                Err(error) => return service.refused(error),
            };
            let answer = efs::handle(gate.ctx(&server.ctx), &parts.method, path, parts.uri.query(), &body).await;
            gate.carried_out();
            answer.into_response()
        }
        Service::Kms => {
            if let Err(denied) = server.auth.check(now(), &parts, &body) {
                return deny(*service, &denied);
            }
            let operation = kms::action(&parts.headers);
            let asked = Asked { service: service.name(), operation, parts: &parts, form: "", json: &body };
            let gate = match faults::meet(&server.ctx, &asked).await {
                Ok(gate) => gate,
                Err(error) => return service.refused(error),
            };
            let answer = kms::handle(gate.ctx(&server.ctx), &parts.method, &parts.headers, &body).await;
            gate.carried_out();
            answer.action.clone_into(action);
            answer.into_response()
        }
        Service::Ec2 | Service::Sts => query(server, service, &mut parts, &body, action).await,
    }
}

/// The query protocol: EC2 and STS.
async fn query(server: &Arc<Server>, service: &mut Service, parts: &mut Parts, body: &Bytes, action: &mut String) -> Response {
    let form = match parts.method {
        Method::POST => std::str::from_utf8(body).unwrap_or_default(),
        Method::GET => parts.uri.query().unwrap_or_default(),
        _ => return service.error(405, "InvalidRequest", "BadRequest", format!("{} is not a method of this protocol.", parts.method)),
    };
    // Some clients leave the action in the address.
    let form = match parts.uri.query() {
        Some(query) if parts.method == Method::POST && !query.is_empty() => std::borrow::Cow::Owned(format!("{form}&{query}")),
        _ => std::borrow::Cow::Borrowed(form),
    };
    let parsed = Params::parse(&form);
    let credential = Credential::of(&parts.headers);
    if credential.is_none()
        && let Ok((Some(name), _)) = &parsed
        && sts::ACTIONS.contains(&name.as_str())
    {
        *service = Service::Sts;
    }
    // A web identity is its own proof: that request is not signed.
    let proven = *service == Service::Sts && matches!(&parsed, Ok((Some(name), _)) if name == "AssumeRoleWithWebIdentity");
    if !proven && let Err(denied) = server.auth.check(now(), parts, body) {
        return deny(*service, &denied);
    }
    let (name, params) = match parsed {
        Ok((Some(name), params)) => (name, params),
        Ok((None, _)) => {
            let message = "The request must contain the parameter Action".to_owned();
            return service.error(400, "MissingAction", "BadRequest", message);
        }
        Err(error) => return service.error(error.status, "MalformedQueryString", "BadRequest", error.message),
    };
    let asked = Asked { service: service.name(), operation: &name, parts, form: &form, json: b"" };
    let gate = match faults::meet(&server.ctx, &asked).await {
        Ok(gate) => gate,
        Err(error) => return service.refused(error),
    };
    let result = if *service == Service::Sts {
        let id = xml::request_id();
        let token = parts.headers.get(SESSION_TOKEN).and_then(|value| value.to_str().ok());
        let session = credential.zip(token).and_then(|(credential, token)| server.auth.session(credential.access_key, token));
        sts::handle(&server.ctx, &server.auth, &name, params, session.as_ref(), now(), &id).map(|text| xml::respond(200, &id, |_| text))
    } else {
        ec2::handle(gate.ctx(&server.ctx), &name, params).await.map(xml::XmlBody::into_response)
    };
    gate.carried_out();
    match result {
        Ok(response) => {
            *action = name;
            response
        }
        Err(error) => {
            // Names that do not exist are not counted one by one: that would let a client grow the metrics.
            *action = if error.code == "InvalidAction" { "Unknown".to_owned() } else { name };
            if *service == Service::Sts { sts_error(&error) } else { error.into_response() }
        }
    }
}

fn deny(service: Service, denied: &Denied) -> Response {
    let (status, query, rest) = match denied {
        Denied::Missing => (401, "MissingAuthenticationToken", "MissingAuthenticationTokenException"),
        Denied::UnknownKey => (401, "AuthFailure", "UnrecognizedClientException"),
        Denied::UnknownToken => (403, "InvalidClientTokenId", "UnrecognizedClientException"),
        Denied::Expired if service == Service::Ec2 => (400, "RequestExpired", ""),
        Denied::Expired => (403, "ExpiredToken", "ExpiredTokenException"),
        Denied::Mismatch => (403, "SignatureDoesNotMatch", "InvalidSignatureException"),
        Denied::Skewed(_) => (400, "RequestExpired", "InvalidSignatureException"),
    };
    service.error(status, query, rest, denied.to_string())
}

impl Server {
    /// Who may use `/_ebbtide/*`. Health is everybody's. With verified signatures the rest is for callers on this machine (as
    /// all of it is by default) and for signed requests.
    fn check_control(&self, parts: &Parts, body: &[u8]) -> Result<(), Denied> {
        let local = parts.extensions.get::<ConnectInfo<Peer>>().is_some_and(|peer| peer.0.0.ip().is_loopback());
        if local || parts.uri.path().ends_with("/health") { Ok(()) } else { self.auth.check(now(), parts, body) }
    }
}

/// A listener that bounds connections and sends small answers at once.
pub struct Listener {
    pub tcp: tokio::net::TcpListener,
    pub permits: Arc<tokio::sync::Semaphore>,
}

/// Who is at the other end of a connection, and the way to end it without an answer.
#[derive(Clone)]
pub struct Peer(pub SocketAddr, pub Hangup);

/// A connection with its permit.
pub struct Socket {
    tcp: tokio::net::TcpStream,
    hangup: Hangup,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl<'a> axum::extract::connect_info::Connected<axum::serve::IncomingStream<'a, Listener>> for Peer {
    fn connect_info(stream: axum::serve::IncomingStream<'a, Listener>) -> Self {
        Self(*stream.remote_addr(), stream.io().hangup.clone())
    }
}

impl axum::serve::Listener for Listener {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        // The semaphore is never closed; were it, no more connections are taken.
        let Ok(permit) = self.permits.clone().acquire_owned().await else { std::future::pending().await };
        let (tcp, peer) = axum::serve::Listener::accept(&mut self.tcp).await;
        // Without it answers are slower, not wrong.
        let _ = tcp.set_nodelay(true);
        (Socket { tcp, hangup: Hangup::default(), _permit: permit }, peer)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.hangup.check()?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.hangup.check()?;
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        self.hangup.check()?;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
