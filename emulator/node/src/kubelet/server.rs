//! The kubelet's own API on a unix socket: logs, exec, pods, health (kube-api.md §7). The API server relays to it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path as UrlPath, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::exec::run_exec;
use super::shell::log_dir;
use crate::pods::log::{Entry, LogDir, read_from};
use crate::pods::{Container, Runtime};

#[derive(Clone, Default)]
struct Known {
    pod: Pod,
    /// Container name → its latest attempt, and the process while it runs.
    containers: BTreeMap<String, (u32, Option<Arc<Container>>)>,
}

/// The pods and containers of the node, as the server sees them.
#[derive(Clone)]
pub struct Registry {
    pods: Arc<Mutex<HashMap<(String, String), Known>>>,
    runtime: Runtime,
    log_dir: PathBuf,
    execs: Arc<AtomicU64>,
}

fn key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

impl Registry {
    pub fn new(helper: PathBuf, log_dir: PathBuf) -> Self {
        Self { pods: Arc::default(), runtime: Runtime { helper }, log_dir, execs: Arc::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<(String, String), Known>) -> T) -> T {
        act(&mut self.pods.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// A pod of this node, new or changed. A pod of the same name with another uid takes its place.
    pub fn pod(&self, pod: &Pod) {
        self.with(|pods| {
            let known = pods.entry(key(pod)).or_default();
            if known.pod.metadata.uid != pod.metadata.uid {
                known.containers.clear();
            }
            known.pod = pod.clone();
        });
    }

    pub fn forget(&self, pod: &Pod) {
        self.with(|pods| {
            if pods.get(&key(pod)).is_some_and(|known| known.pod.metadata.uid == pod.metadata.uid) {
                pods.remove(&key(pod));
            }
        });
    }

    pub fn started(&self, pod: &Pod, container: &str, attempt: u32, process: Arc<Container>) {
        self.with(|pods| {
            if let Some(known) = pods.get_mut(&key(pod)) {
                known.containers.insert(container.to_owned(), (attempt, Some(process)));
            }
        });
    }

    pub fn ended(&self, pod: &Pod, container: &str) {
        self.with(|pods| {
            if let Some((_, process)) = pods.get_mut(&key(pod)).and_then(|known| known.containers.get_mut(container)) {
                *process = None;
            }
        });
    }

    fn find(&self, namespace: &str, pod: &str) -> Option<Known> {
        self.with(|pods| pods.get(&(namespace.to_owned(), pod.to_owned())).cloned())
    }
}

/// Binds the socket; a stale one is replaced.
pub fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    socket.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `stop`.
pub async fn serve(listener: UnixListener, registry: Registry, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs))
        .route("/exec/{namespace}/{pod}/{container}", get(exec))
        .with_state(registry);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await {
        tracing::warn!(%error, "the server for logs and exec ended");
    }
}

async fn pods(State(registry): State<Registry>) -> impl IntoResponse {
    let items: Vec<_> = registry.with(|pods| pods.values().map(|known| known.pod.clone()).collect());
    axum::Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// The parameters of a query, decoded, in order.
fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    fn decode(text: &str) -> String {
        let bytes = text.as_bytes();
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
            match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (_, Some(byte)) => {
                    out.push(byte);
                    at += 2;
                }
                (b'+', None) => out.push(b' '),
                (byte, None) => out.push(byte),
            }
            at += 1;
        }
        String::from_utf8_lossy(&out).into_owned()
    }
    let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, ""))).map(|(name, value)| (decode(name), decode(value))).collect()
}

fn flag(parameters: &[(String, String)], name: &str) -> bool {
    parameters.iter().any(|(key, value)| key == name && matches!(value.as_str(), "true" | "1"))
}

/// Why a request is refused: its status and text.
type Refusal = (StatusCode, String);

fn number<T: std::str::FromStr>(parameters: &[(String, String)], name: &str) -> Result<Option<T>, Refusal> {
    let Some((_, value)) = parameters.iter().find(|(key, _)| key == name) else { return Ok(None) };
    let bad = |_| (StatusCode::BAD_REQUEST, format!("invalid value \"{value}\" for {name}\n"));
    value.parse().map(Some).map_err(bad)
}

fn no_pod(namespace: &str, pod: &str) -> Refusal {
    (StatusCode::NOT_FOUND, format!("pod \"{pod}.{namespace}\" not found\n"))
}

type Target = (String, String, String);

async fn logs(State(registry): State<Registry>, UrlPath(target): UrlPath<Target>, RawQuery(query): RawQuery) -> Response {
    answer_logs(registry, target, &parameters(query.as_deref())).unwrap_or_else(IntoResponse::into_response)
}

fn answer_logs(registry: Registry, (namespace, pod, container): Target, asked: &[(String, String)]) -> Result<Response, Refusal> {
    let known = registry.find(&namespace, &pod).ok_or_else(|| no_pod(&namespace, &pod))?;
    let spec = known.pod.spec.clone().unwrap_or_default();
    if !spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|found| found.name == container) {
        let text = format!("container \"{container}\" not found in pod \"{pod}\"\n");
        return Err((StatusCode::NOT_FOUND, text));
    }
    let dir = log_dir(&registry.log_dir, &known.pod, &container);
    let previous = flag(asked, "previous");
    // The latest attempt that has a log: also of a container that this kubelet did not start itself.
    let written = std::fs::read_dir(&dir.0).into_iter().flatten().flatten();
    let latest = written.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse::<u32>().ok()).max();
    let attempt = match (latest, previous) {
        (Some(latest), false) => latest,
        (Some(latest @ 1..), true) => latest - 1,
        (_, true) => {
            let text = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found\n");
            return Err((StatusCode::BAD_REQUEST, text));
        }
        (None, false) => {
            let text = format!("container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating\n");
            return Err((StatusCode::BAD_REQUEST, text));
        }
    };
    let since = number::<i64>(asked, "sinceSeconds")?
        .map(|seconds| jiff::Timestamp::now().saturating_sub(jiff::SignedDuration::from_secs(seconds.max(0))))
        .and_then(Result::ok)
        .map(|time| format!("{time:.9}"))
        .or_else(|| asked.iter().find(|(key, _)| key == "sinceTime").map(|(_, value)| value.clone()));
    let tail = number::<i64>(asked, "tailLines")?.and_then(|lines| usize::try_from(lines).ok());
    let limit = number::<u64>(asked, "limitBytes")?;
    let (timestamps, follow) = (flag(asked, "timestamps"), flag(asked, "follow") && !previous);
    let mut entries = Vec::new();
    let mut end = 0;
    for file in dir.files(attempt) {
        if let Ok((found, at)) = read_from(&file, 0) {
            entries.extend(found);
            end = at;
        }
    }
    if let Some(since) = &since {
        entries.retain(|entry| entry.time.as_str() >= since.as_str());
    }
    if let Some(tail) = tail {
        entries.drain(..entries.len().saturating_sub(tail));
    }
    let mut first = render(&entries, timestamps);
    if let Some(limit) = limit {
        first.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    if !follow || limit.is_some() {
        return Ok(([("content-type", "text/plain")], first).into_response());
    }
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        if sender.send(first).await.is_ok() {
            follow_log(&registry, &known.pod, &container, &dir, attempt, end, timestamps, &sender).await;
        }
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>);
    Ok(([("content-type", "text/plain")], Body::from_stream(stream)).into_response())
}

fn render(entries: &[Entry], timestamps: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        if timestamps {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(&entry.text);
    }
    out
}

#[allow(clippy::too_many_arguments)] // one caller, right above
async fn follow_log(
    registry: &Registry,
    pod: &Pod,
    container: &str,
    dir: &LogDir,
    attempt: u32,
    mut end: u64,
    timestamps: bool,
    sender: &mpsc::Sender<Vec<u8>>,
) {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| std::fs::metadata(path).map(|meta| meta.ino()).ok();
    let file = dir.file(attempt);
    let mut current = inode(&file);
    loop {
        // Looked at before the last read, so that nothing written before the end is missed.
        let (name, namespace) = (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone().unwrap_or_default());
        let known = registry.find(&namespace, &name).filter(|known| known.pod.metadata.uid == pod.metadata.uid);
        let state = known.as_ref().and_then(|known| known.containers.get(container));
        let alive = state.is_some_and(|(running, process)| *running == attempt && process.is_some());
        if inode(&file) != current {
            // Rotated: the rest of the old file, then the new one from its start.
            let files = dir.files(attempt);
            if let Some(old) = files.iter().find(|old| inode(old) == current)
                && let Ok((entries, _)) = read_from(old, end)
                && sender.send(render(&entries, timestamps)).await.is_err()
            {
                return;
            }
            (current, end) = (inode(&file), 0);
        }
        if let Ok((entries, at)) = read_from(&file, end)
            && at != end
        {
            end = at;
            if sender.send(render(&entries, timestamps)).await.is_err() {
                return;
            }
        }
        if !alive {
            return;
        }
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

async fn exec(
    State(registry): State<Registry>,
    UrlPath((namespace, pod, container)): UrlPath<Target>,
    RawQuery(query): RawQuery,
    upgrade: WebSocketUpgrade,
) -> Response {
    let asked = parameters(query.as_deref());
    let Some(known) = registry.find(&namespace, &pod) else { return no_pod(&namespace, &pod).into_response() };
    let Some((_, Some(process))) = known.containers.get(&container).cloned() else {
        let text = format!("unable to upgrade connection: container not found (\"{container}\")\n");
        return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
    };
    let argv: Vec<_> = asked.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    if argv.is_empty() {
        return (StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container\n").into_response();
    }
    let id = registry.execs.fetch_add(1, Ordering::Relaxed);
    let report = registry.log_dir.join(format!(".exec-{}-{id}", std::process::id()));
    let either = |a, b| flag(&asked, a) || flag(&asked, b);
    let (stdin, tty) = (either("stdin", "input"), flag(&asked, "tty"));
    upgrade.protocols(["v5.channel.k8s.io", "v4.channel.k8s.io"]).on_upgrade(move |socket| async move {
        let runtime = registry.runtime.clone();
        run_exec(runtime, process, argv, stdin, tty, report, socket).await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_in_order() {
        let found = parameters(Some("command=sh&command=-c&command=echo+a%20%26%3D%C3%A9&tty=true&x"));
        let commands: Vec<_> = found.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.as_str()).collect();
        assert_eq!(commands, ["sh", "-c", "echo a &=é"]);
        assert!(flag(&found, "tty") && !flag(&found, "x"));
    }
}
