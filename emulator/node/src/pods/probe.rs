//! Looks whether a container is well: runs a command in it, connects to a port, or gets a page (`pkg/probe`).
//!
//! Pods share the host's network, so that ports are looked for on 127.0.0.1 and not on the pod's address.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use model_node::pod::ProbeKind;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Container, ExecStdio, Runtime, exec_error};

/// No more of a command's output is shown (`maxRespBodyLength` of the real one).
const MAX_OUTPUT: u64 = 10 << 10;
const HOST: &str = "127.0.0.1";

/// A container's probe of a kind.
pub fn find(container: &core::Container, kind: ProbeKind) -> Option<&core::Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
    }
}

/// Runs a probe. `report`: see [`Runtime::exec`]. The error is the end of the event's text.
pub async fn run(
    runtime: &Runtime,
    container: &Container,
    spec: &core::Container,
    probe: &core::Probe,
    report: &Path,
) -> Result<(), String> {
    let seconds = probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(1).max(1);
    let timeout = Duration::from_secs(seconds);
    if let Some(exec) = &probe.exec {
        let argv = exec.command.clone().unwrap_or_default();
        let late = format!("command timed out: \"{}\" timed out after {seconds}s", argv.join(" "));
        // When it is late its helper is dropped, which ends the command.
        return tokio::time::timeout(timeout, command(runtime, container, argv, report)).await.unwrap_or(Err(late));
    }
    if let Some(tcp) = &probe.tcp_socket {
        let address = format!("{}:{}", host(tcp.host.as_deref()), port(spec, &tcp.port)?);
        return match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("dial tcp {address}: {}", refused(&error))),
            Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        };
    }
    match &probe.http_get {
        Some(get) => page(spec, get, timeout).await,
        None => Err("this kind of probe is not built; use exec, httpGet or tcpSocket".into()),
    }
}

fn host(asked: Option<&str>) -> &str {
    asked.filter(|host| !host.is_empty()).unwrap_or(HOST)
}

/// A port by number, or by the name that the container gives it.
fn port(spec: &core::Container, asked: &IntOrString) -> Result<u16, String> {
    let number = match asked {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = spec.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    match number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0) {
        Some(number) => Ok(number),
        None => Err(match asked {
            IntOrString::Int(number) => format!("invalid port number: {number}"),
            IntOrString::String(name) => format!("couldn't find port: {name}"),
        }),
    }
}

/// As Go says it.
fn refused(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        _ => format!("connect: {error}"),
    }
}

async fn command(runtime: &Runtime, container: &Container, argv: Vec<String>, report: &Path) -> Result<(), String> {
    let executed = runtime.exec(container, argv, ExecStdio::Pipes { stdin: false }, report).await.map_err(|error| error.to_string())?;
    let mut child = executed.child;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (out, err) = tokio::join!(text(stdout), text(stderr));
    let status = child.wait().await.map_err(|error| error.to_string())?;
    match (exec_error(report), status.success()) {
        (Some(why), _) => Err(why),
        (None, true) => Ok(()),
        (None, false) => Err(out + &err),
    }
}

/// What is read until the end, as far as it is shown.
async fn text(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let _ = (&mut from).take(MAX_OUTPUT).read_to_end(&mut bytes).await;
        // The rest is read too, so that the command does not wait for a reader.
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn page(spec: &core::Container, get: &core::HTTPGetAction, timeout: Duration) -> Result<(), String> {
    let path = get.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    if scheme != "http" {
        return Err(format!("probes over {scheme} are not built; use scheme HTTP"));
    }
    let url = format!("http://{}:{}{slash}{path}", host(get.host.as_deref()), port(spec, &get.port)?);
    let redirects = reqwest::redirect::Policy::custom(|next| {
        // Elsewhere is not followed, and counts as success.
        let same = next.previous().first().is_some_and(|first| first.host_str() == next.url().host_str());
        if same && next.previous().len() < 10 { next.follow() } else { next.stop() }
    });
    let client = reqwest::Client::builder().no_proxy().redirect(redirects).timeout(timeout).user_agent("kube-probe/1.33").build();
    let mut request = client.map_err(|error| error.to_string())?.get(&url).header("accept", "*/*");
    for header in get.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    match request.send().await {
        Ok(response) if (200..400).contains(&response.status().as_u16()) => Ok(()),
        Ok(response) => Err(format!("HTTP probe failed with statuscode: {}", response.status().as_u16())),
        Err(error) if error.is_timeout() => {
            Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
        Err(error) => {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(source) = cause.source() {
                cause = source;
            }
            let io = cause.downcast_ref::<std::io::Error>().map(|error| format!("dial tcp: {}", refused(error)));
            Err(format!("Get \"{url}\": {}", io.unwrap_or_else(|| cause.to_string())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_numbers_or_names() {
        let ports = vec![core::ContainerPort { name: Some("web".into()), container_port: 8080, ..Default::default() }];
        let spec = core::Container { ports: Some(ports), ..Default::default() };
        assert_eq!(port(&spec, &IntOrString::Int(80)), Ok(80));
        assert_eq!(port(&spec, &IntOrString::String("web".into())), Ok(8080));
        assert_eq!(port(&spec, &IntOrString::String("81".into())), Ok(81));
        assert_eq!(port(&spec, &IntOrString::String("nosuch".into())), Err("couldn't find port: nosuch".into()));
        assert_eq!(port(&spec, &IntOrString::Int(70000)), Err("invalid port number: 70000".into()));
    }

    #[tokio::test]
    async fn pages_and_ports_are_looked_at() {
        let app = axum::Router::new()
            .route("/well", axum::routing::get(|| async { "ok" }))
            .route("/ill", axum::routing::get(|| async { axum::http::StatusCode::SERVICE_UNAVAILABLE }))
            .route("/slow", axum::routing::get(std::future::pending::<()>));
        let listener = tokio::net::TcpListener::bind((HOST, 0)).await.unwrap();
        let number = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        let get = |path: &str| core::HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(number.into()),
            ..core::HTTPGetAction::default()
        };
        let look = async |path: &str| page(&core::Container::default(), &get(path), Duration::from_millis(300)).await;
        assert_eq!(look("/well").await, Ok(()));
        assert_eq!(look("ill").await, Err("HTTP probe failed with statuscode: 503".into()));
        assert!(look("/slow").await.unwrap_err().ends_with("context deadline exceeded (Client.Timeout exceeded while awaiting headers)"));
        server.abort();
        let _ = server.await;
        let gone = look("/well").await.unwrap_err();
        assert_eq!(gone, format!("Get \"http://127.0.0.1:{number}/well\": dial tcp: connect: connection refused"));
    }
}
