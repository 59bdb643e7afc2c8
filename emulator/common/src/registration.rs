//! Plugin registration: how a driver's registrar tells a kubelet that the driver is there (k8s.io/kubelet, pluginregistration/v1).
//!
//! The registrar serves a socket in the kubelet's `plugins_registry`; the kubelet asks there and says how it went.

use std::path::Path;
use std::time::Duration;

use crate::csi::connect;

/// Types, client and server generated from `proto/pluginregistration.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("pluginregistration");
}

use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use v1::registration_client::RegistrationClient;
use v1::registration_server::{Registration, RegistrationServer};
pub use v1::{PluginInfo, RegistrationStatus};

/// The name of a driver's registration socket.
///
/// A real kubelet calls it with the socket's path as HTTP/2 `:authority`, as gRPC in Go encodes it: `%2Fvar%2Flib%2F…`. The library
/// under this server takes an authority for what it is in a URI, where a host has no `%` (<https://github.com/hyperium/h2/pull/487>),
/// but the user before an `@` may have it; and Go leaves an `@` as it is. So one in the name makes the path an authority. (The
/// kubelet gives no heed to the name. To the driver's own socket it says `localhost`.)
pub fn socket_name(driver: &str) -> String {
    format!("{driver}@reg.sock")
}

/// What a plugin says of itself on its registration socket.
pub async fn info(socket: &Path, timeout: Duration) -> Result<PluginInfo, String> {
    let mut client = RegistrationClient::new(connect(socket));
    answer(timeout, client.get_info(v1::InfoRequest {})).await
}

/// Tells a plugin that it is registered, or why it is not.
pub async fn notify(socket: &Path, status: RegistrationStatus, timeout: Duration) -> Result<(), String> {
    let mut client = RegistrationClient::new(connect(socket));
    answer(timeout, client.notify_registration_status(status)).await.map(drop)
}

async fn answer<T>(timeout: Duration, call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, String> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

/// A registrar: serves a socket in `plugins_registry` until `stop` resolves. Each kubelet that asks is given `info`; what it says of the
/// registration goes to `told`.
pub async fn serve(
    socket: &Path,
    info: PluginInfo,
    told: mpsc::UnboundedSender<RegistrationStatus>,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(socket)?;
    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
    let service = RegistrationServer::new(Registrar { info, told });
    let result = tonic::transport::Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, stop).await;
    // The kubelet takes its end for the driver's.
    let _ = std::fs::remove_file(socket);
    result.map_err(std::io::Error::other)
}

struct Registrar {
    info: PluginInfo,
    told: mpsc::UnboundedSender<RegistrationStatus>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<v1::InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<v1::RegistrationStatusResponse>, Status> {
        // Nobody listens: the registration stands all the same.
        let _ = self.told.send(request.into_inner());
        Ok(Response::new(v1::RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An authority as google.golang.org/grpc makes it from a path (`encodeAuthority`).
    fn authority(path: &Path) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]@".contains(&byte);
        path.to_str().unwrap().bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    }

    #[tokio::test]
    async fn a_registrar_is_asked_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(socket_name("d"));
        let offered = PluginInfo { r#type: "CSIPlugin".into(), name: "d".into(), endpoint: "/csi.sock".into(), ..Default::default() };
        let (told, mut hears) = mpsc::unbounded_channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (at, given) = (socket.clone(), offered.clone());
        let server = tokio::spawn(async move { serve(&at, given, told, async { drop(stopped.await) }).await });
        let timeout = Duration::from_secs(5);
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        // As a real kubelet asks.
        let origin = format!("http://{}", authority(&socket)).parse().unwrap();
        let mut client = RegistrationClient::with_origin(connect(&socket), origin);
        assert_eq!(answer(timeout, client.get_info(v1::InfoRequest {})).await, Ok(offered.clone()));
        assert_eq!(info(&socket, timeout).await, Ok(offered));
        let status = RegistrationStatus { plugin_registered: false, error: "no".into() };
        notify(&socket, status.clone(), timeout).await.unwrap();
        assert_eq!(hears.recv().await, Some(status));
        drop(stop);
        server.await.unwrap().unwrap();
        assert!(!socket.exists());
    }
}
