//! The node's agent: a WebSocket to the AWS side, which says over it what devices this node has (model/common/src/agent.rs).

use std::sync::Arc;
use std::time::Duration;

use emulator_common::sigv4::{self, Signable, Signer};
use futures::{SinkExt, StreamExt};
use model_common::agent::{DeviceError, FromAgent, Hello, PROTOCOL, Register, ToAgent};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

use crate::NodeConfig;
use crate::devices::Devices;
use crate::loops::Loops;

/// Between two attempts to connect.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// How long a registration may take before it is tried on another connection.
const REGISTER_LIMIT: Duration = Duration::from_secs(10);
/// A freeze that nobody ended: a node must not hang because its hypervisor's hand was lost.
const FREEZE_LIMIT: Duration = Duration::from_secs(60);

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The AWS side does not know this instance, or speaks another protocol: trying again does not help.
    #[error("the AWS side refused this node: {0}")]
    Refused(String),
}

/// Serves the AWS side until `stop`; connects again for ever.
pub async fn run(config: Arc<NodeConfig>, devices: Arc<Devices>, stop: CancellationToken) -> Result<(), AgentError> {
    run_registered(config, None, devices, stop).await
}

/// As [`run`], for a node that does not run: no boot of it is told.
pub(crate) async fn run_without_kernel(config: Arc<NodeConfig>, devices: Arc<Devices>, stop: CancellationToken) -> Result<(), AgentError> {
    serve(config, None, None, devices, stop).await
}

/// Has the AWS side make an instance of this node, if it is none. An endpoint that is not there is waited for.
pub async fn register(endpoint: &str, wish: &Register) -> Result<(), AgentError> {
    let (url, signer) = (url(endpoint), Signer::from_env());
    let mut said = String::new();
    loop {
        let answered = async {
            let mut socket = connect(&url, &signer).await?;
            registered(&mut socket, wish).await
        };
        let why = match tokio::time::timeout(REGISTER_LIMIT, answered).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Lost::Refused(why))) => return Err(AgentError::Refused(why)),
            Ok(Err(Lost::Connection(error))) => error.to_string(),
            Err(_) => format!("no answer in {REGISTER_LIMIT:?}"),
        };
        if why != said {
            tracing::info!(url, why, "waiting for the AWS side, to register {}", wish.instance_id);
            said = why;
        }
        tokio::time::sleep(FIRST_DELAY).await;
    }
}

/// As [`run`], of an instance that this node registers again with each connection: a reset forgets it.
pub(crate) async fn run_registered(
    config: Arc<NodeConfig>,
    register: Option<Register>,
    devices: Arc<Devices>,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    // This process ends with its node: another process is another boot.
    let boot = uuid::Uuid::new_v4().to_string();
    serve(config, register, Some(boot), devices, stop).await
}

async fn serve(
    config: Arc<NodeConfig>,
    register: Option<Register>,
    boot: Option<String>,
    devices: Arc<Devices>,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let url = url(&config.aws_endpoint);
    let signer = Signer::from_env();
    let mut delay = FIRST_DELAY;
    loop {
        let connected = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = connect(&url, &signer) => connected,
        };
        match connected {
            Ok(socket) => {
                tracing::info!(url, "the agent is connected");
                delay = FIRST_DELAY;
                let ended = tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    ended = talk(socket, register.as_ref(), &config, boot.as_deref(), &devices) => ended,
                };
                let thawing = devices.clone();
                let _ = tokio::task::spawn_blocking(move || thawing.thaw_all()).await;
                match ended {
                    Ok(()) => {}
                    Err(Lost::Refused(why)) => return Err(AgentError::Refused(why)),
                    Err(Lost::Connection(error)) => tracing::info!(%error, "the agent lost the AWS side"),
                }
            }
            Err(error) => tracing::debug!(url, %error, "the agent cannot connect"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// Opens the WebSocket. The request is signed: an endpoint that verifies takes no others from another machine.
async fn connect(url: &str, signer: &Signer) -> Result<Socket, tungstenite::Error> {
    let mut request = url.into_client_request()?;
    let (method, host) = ("GET", sigv4::host(url));
    let signable = Signable { service: "ebbtide", method, host, path: PATH, query: "", content_type: None, body: b"" };
    for (name, value) in signer.sign(&signable, jiff::Timestamp::now()) {
        let value = value.parse().map_err(|error| tungstenite::Error::from(http::Error::from(error)))?;
        request.headers_mut().insert(name, value);
    }
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

/// Where the endpoint takes agents.
const PATH: &str = "/_ebbtide/agent";

/// `http://…` as a WebSocket's address.
fn url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let address = match endpoint.strip_prefix("https://") {
        Some(rest) => format!("wss://{rest}"),
        None => format!("ws://{}", endpoint.strip_prefix("http://").unwrap_or(endpoint)),
    };
    format!("{address}{PATH}")
}

enum Lost {
    Refused(String),
    Connection(Box<tungstenite::Error>),
}

impl From<tungstenite::Error> for Lost {
    fn from(error: tungstenite::Error) -> Self {
        Self::Connection(Box::new(error))
    }
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// Registers on a connection.
async fn registered(socket: &mut Socket, wish: &Register) -> Result<(), Lost> {
    socket.send(text(&FromAgent::Register(wish.clone()))).await?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(json))) => match serde_json::from_str::<ToAgent>(&json) {
                Ok(ToAgent::Registered) => return Ok(()),
                Ok(ToAgent::Refused { message }) => return Err(Lost::Refused(message)),
                Ok(_) | Err(_) => {
                    return Err(Lost::Refused(format!("it answered the registration with {json}; use the same version of ebbtide")));
                }
            },
            Some(Ok(Message::Close(_))) | None => return Err(tungstenite::Error::ConnectionClosed.into()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
}

/// One connection: says hello, then carries calls out, each on its own, and answers them as they end.
async fn talk(
    mut socket: Socket,
    register: Option<&Register>,
    config: &NodeConfig,
    boot: Option<&str>,
    devices: &Arc<Devices>,
) -> Result<(), Lost> {
    if let Some(wish) = register {
        registered(&mut socket, wish).await?;
    }
    let observing = devices.clone();
    let observed = tokio::task::spawn_blocking(move || observing.observed()).await.unwrap_or_default();
    let hello = Hello {
        protocol: PROTOCOL,
        instance_id: config.instance_id.clone(),
        node_name: config.name.clone(),
        availability_zone: config.zone.clone(),
        instance_type: config.instance_type.clone(),
        boot: boot.map(str::to_owned),
        no_devices: Loops::unusable(),
        devices: observed,
    };
    socket.send(text(&FromAgent::Hello(hello))).await?;
    let (done, mut ended) = mpsc::unbounded_channel::<FromAgent>();
    loop {
        tokio::select! {
            Some(message) = ended.recv() => socket.send(text(&message)).await?,
            message = socket.next() => match message {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(Message::Text(json))) => match serde_json::from_str::<ToAgent>(&json) {
                    Ok(ToAgent::Welcome) => tracing::debug!("welcome"),
                    Ok(ToAgent::Refused { message }) => return Err(Lost::Refused(message)),
                    Ok(call) => begin(call, devices, &done),
                    // A message of a newer protocol: unanswered, its call is unknown to the other side when the connection ends.
                    Err(error) => tracing::warn!(%error, message = %json, "the agent does not understand"),
                },
                Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(_)) => {}
            },
        }
    }
}

fn text(message: &FromAgent) -> Message {
    // These types have string keys only, so that they always have a JSON form.
    Message::text(serde_json::to_string(message).unwrap_or_default())
}

/// Starts a call on a thread that may block.
fn begin(call: ToAgent, devices: &Arc<Devices>, done: &mpsc::UnboundedSender<FromAgent>) {
    let (devices, done) = (devices.clone(), done.clone());
    tokio::task::spawn_blocking(move || {
        let Some((call, result)) = carry_out(&devices, call) else { return };
        // Nobody listens any more: the next Hello tells.
        let _ = done.send(FromAgent::Done { call, result });
    });
}

/// Carries one call out. None for what is no call.
fn carry_out(devices: &Arc<Devices>, call: ToAgent) -> Option<(u64, Result<(), DeviceError>)> {
    let (call, what, result) = match call {
        ToAgent::Welcome | ToAgent::Registered | ToAgent::Refused { .. } => return None,
        ToAgent::Attach { call, device } => {
            (call, format!("attach {} as {}", device.volume_id, device.device_name), devices.attach(&device))
        }
        ToAgent::Detach { call, volume_id, device_name, last, force } => {
            (call, format!("detach {volume_id} from {device_name}"), devices.detach(&volume_id, &device_name, last, force))
        }
        ToAgent::Resize { call, volume_id, size_bytes } => {
            (call, format!("resize {volume_id} to {size_bytes}"), devices.resize(&volume_id, size_bytes))
        }
        ToAgent::Freeze { call, volume_id } => {
            let result = devices.freeze(&volume_id);
            if result.is_ok() {
                thaw_later(devices.clone(), volume_id.clone());
            }
            (call, format!("freeze {volume_id}"), result)
        }
        ToAgent::Thaw { call, volume_id } => (call, format!("thaw {volume_id}"), devices.thaw(&volume_id)),
    };
    match &result {
        Ok(()) => tracing::info!("{what}: done"),
        Err(error) => tracing::warn!(%error, "{what}: failed"),
    }
    Some((call, result))
}

fn thaw_later(devices: Arc<Devices>, volume_id: String) {
    tokio::runtime::Handle::current().spawn(async move {
        tokio::time::sleep(FREEZE_LIMIT).await;
        let _ = tokio::task::spawn_blocking(move || devices.thaw_old(&volume_id, FREEZE_LIMIT)).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(url("http://127.0.0.1:4566"), "ws://127.0.0.1:4566/_ebbtide/agent");
        assert_eq!(url("https://h/"), "wss://h/_ebbtide/agent");
    }
}
