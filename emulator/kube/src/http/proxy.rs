//! Logs and exec: relayed to the kubelet of the pod's node over its unix socket (kube-api.md §7).

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use emulator_common::places::Places;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use model_kube::object::Kind;
use model_kube::write::ApiError;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite;

use super::resource::Call;

/// What the WebSocket can speak, newest first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// Where a container's stream is served.
struct Target {
    node: String,
    container: String,
}

fn target(call: &Call, name: &str) -> Result<Target, ApiError> {
    let pod = call.shared.api.read(|store| store.get::<Pod>(&call.namespace, name).cloned());
    let pod = pod.ok_or_else(|| ApiError::not_found(&Kind::Pod, name))?;
    let spec = pod.spec.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    let names = || spec.containers.iter().chain(&inits).map(|container| container.name.as_str());
    let annotated = pod.metadata.annotations.as_ref().and_then(|all| all.get("kubectl.kubernetes.io/default-container"));
    let container = match call.query.get("container") {
        Some(wanted) if names().any(|name| name == wanted) => wanted.to_owned(),
        Some(wanted) => return Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        None => match (annotated, spec.containers.as_slice()) {
            (Some(wanted), _) if names().any(|name| name == wanted) => wanted.clone(),
            (_, [one]) => one.name.clone(),
            (_, several) => {
                let list: Vec<&str> = several.iter().map(|container| container.name.as_str()).collect();
                return Err(ApiError::bad_request(format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    list.join(" ")
                )));
            }
        },
    };
    match spec.node_name.filter(|node| !node.is_empty()) {
        Some(node) => Ok(Target { node, container }),
        None => Err(ApiError::bad_request(format!("pod {name} does not have a host assigned"))),
    }
}

async fn dial(places: &Places, node: &str) -> Result<UnixStream, ApiError> {
    let socket = places.kubelet_socket(node);
    UnixStream::connect(&socket).await.map_err(|error| {
        // Worded as the real server's dialer does it, with the socket in place of the address.
        ApiError::backend(format!("error dialing backend: dial unix {}: connect: {}", socket.display(), plain(&error)))
    })
}

/// `connection refused`, as Go says it.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

pub async fn log(call: Call, name: &str) -> Result<Response, ApiError> {
    let target = target(&call, name)?;
    let stream = dial(&call.shared.places, &target.node).await?;
    let broken = |error: hyper::Error| ApiError::backend(format!("error dialing backend: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the log stream of a kubelet ended");
        }
    });
    let query = call.request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let uri = format!("/containerLogs/{}/{name}/{}{query}", call.namespace, target.container);
    let request = Request::get(uri).header(header::HOST, "kubelet").body(Body::empty()).map_err(ApiError::internal)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = Body::new(response.into_body());
    if status == StatusCode::OK {
        return Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response());
    }
    let text = axum::body::to_bytes(body, 64 << 10).await.unwrap_or_default();
    let mut error = ApiError::bad_request(String::from_utf8_lossy(&text).trim_end().to_owned());
    if status.is_server_error() {
        error = ApiError::internal(error.message);
    } else if status == StatusCode::NOT_FOUND {
        error.code = 404;
        error.reason = model_kube::write::Reason::NotFound;
    }
    Err(error)
}

/// exec; attach and port-forward are refused.
pub async fn stream(call: Call, name: &str, subresource: &str) -> Result<Response, ApiError> {
    let not_built = match subresource {
        // Pods share the host's network here: what a pod listens on is reachable without forwarding.
        "portforward" => Some(format!(
            "port forwarding is not needed: pods run in the host's network, connect to 127.0.0.1 and the port that {name} listens on"
        )),
        "attach" => Some(format!(
            "attach is not built: a container's output goes to its log and its input is empty, use kubectl logs -f {name} or kubectl exec"
        )),
        _ => None,
    };
    if let Some(why) = not_built {
        let mut error = ApiError::bad_request(why);
        error.code = 501;
        return Err(error);
    }
    let target = target(&call, name)?;
    let Call { shared, namespace, request, .. } = call;
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|_| {
        ApiError::bad_request("Upgrade request required: use a client that speaks WebSocket (v5.channel.k8s.io or v4.channel.k8s.io)")
    })?;
    let uri = format!("ws://kubelet/{subresource}/{namespace}/{name}/{}{query}", target.container);
    let offered = parts.headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offered.flat_map(|value| value.split(',')).map(str::trim).filter(|one| PROTOCOLS.contains(one)).collect();
    let stream = dial(&shared.places, &target.node).await?;
    let mut request = tungstenite::client::IntoClientRequest::into_client_request(uri).map_err(ApiError::internal)?;
    if !offered.is_empty() {
        let value = header::HeaderValue::from_str(&offered.join(", ")).map_err(ApiError::internal)?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    let (backend, answer) = tokio_tungstenite::client_async(request, stream).await.map_err(|error| match error {
        tungstenite::Error::Http(response) => {
            let body = response.body().as_deref().unwrap_or_default();
            let text = String::from_utf8_lossy(body).trim_end().to_owned();
            let mut refused = ApiError::internal(&text);
            if response.status().is_client_error() {
                refused = ApiError::bad_request(text);
            }
            refused
        }
        other => ApiError::backend(format!("error dialing backend: {other}")),
    })?;
    let chosen = answer.headers().get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let chosen = chosen.and_then(|chosen| PROTOCOLS.into_iter().find(|known| *known == chosen));
    let upgrade = match chosen {
        Some(chosen) => upgrade.protocols([chosen]),
        None => upgrade,
    };
    Ok(upgrade.on_upgrade(move |client| relay(client, backend)))
}

/// Frame by frame, both ways, until one side closes.
async fn relay(client: WebSocket, backend: tokio_tungstenite::WebSocketStream<UnixStream>) {
    let (mut to_client, mut from_client) = client.split();
    let (mut to_backend, mut from_backend) = backend.split();
    let up = async {
        while let Some(Ok(message)) = from_client.next().await {
            let message = match message {
                Message::Binary(bytes) => tungstenite::Message::Binary(bytes),
                Message::Text(text) => tungstenite::Message::text(text.as_str()),
                // Each side answers pings itself.
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Close(_) => break,
            };
            if to_backend.send(message).await.is_err() {
                break;
            }
        }
        // The client went: the kubelet learns it.
        let _ = to_backend.close().await;
        // Its last frames still go the other way.
        std::future::pending::<()>().await;
    };
    let down = async {
        while let Some(Ok(message)) = from_backend.next().await {
            let message = match message {
                tungstenite::Message::Binary(bytes) => Message::Binary(bytes),
                tungstenite::Message::Text(text) => Message::Text(text.as_str().into()),
                tungstenite::Message::Close(frame) => {
                    let frame = frame.map(|frame| CloseFrame { code: frame.code.into(), reason: frame.reason.as_str().into() });
                    let _ = to_client.send(Message::Close(frame)).await;
                    return;
                }
                tungstenite::Message::Ping(_) | tungstenite::Message::Pong(_) | tungstenite::Message::Frame(_) => continue,
            };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
