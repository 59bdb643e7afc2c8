//! The kubelet made real: registers the node, watches its pods, drives [`model_node::kubelet`] and carries out what it wants.
//!
//! - [`register`]: Node, Lease · [`drivers`]: CSINode, and the drivers behind it · [`plugins`]: drivers that register themselves · [`volumes`]: the volume manager's actions · [`local`]: volumes without a driver
//! - [`containers`]: from a pod to processes ([`crate::pods`]) · [`status`]: what a pod shows · [`events`] · [`server`]: logs · [`exec`]
//!
//! The node outlives the API: everything that needs it is tried again for ever.

mod containers;
mod drivers;
mod events;
mod exec;
mod journal;
mod local;
mod plugins;
mod register;
mod requests;
mod server;
mod shell;
mod status;
mod sub_paths;
mod volumes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::BoxError;
use tower::util::MapResultLayer;

use crate::host::chain;
use shell::{Message, Shell};

/// What a kubelet is told at its start.
#[derive(Debug, Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// Read when it appears; read again until the API answers.
    pub kubeconfig: PathBuf,
    /// `/var/lib/kubelet`.
    pub kubelet_dir: PathBuf,
    /// The unix socket for logs and exec.
    pub api_socket: PathBuf,
    /// `aws:///us-east-1a/i-…`
    pub provider_id: String,
    pub zone: String,
    pub region: String,
    pub instance_type: String,
    pub internal_ip: String,
    pub labels: BTreeMap<String, String>,
    /// Where containers find the instance's metadata service.
    pub metadata: Option<crate::config::MetadataEndpoints>,
    /// Drivers that need not register themselves: name → socket of the node service. Others do, in `plugins_registry`.
    pub drivers: BTreeMap<String, PathBuf>,
    /// Where containers log to.
    pub log_dir: PathBuf,
    /// The program that calls [`crate::pods::container_init_main`].
    pub container_helper: PathBuf,
    /// Ask for attachments as soon as the watch shows them (see [`model_node::volume_manager::Config`]).
    pub eager: bool,
    /// The directory of its journal; none: it keeps none.
    pub journal: Option<PathBuf>,
}

/// Why a kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    #[error("cannot make {path}: {source}")]
    Directory { path: String, source: std::io::Error },
    #[error("cannot serve logs and exec on {path}: {source}")]
    Socket { path: String, source: std::io::Error },
}

/// Runs until `stop`. Containers are left running: the node's end is theirs.
pub async fn run(config: KubeletConfig, stop: CancellationToken) -> Result<(), KubeletError> {
    for dir in [&config.kubelet_dir.join("pods"), &config.log_dir] {
        std::fs::create_dir_all(dir).map_err(|source| KubeletError::Directory { path: dir.display().to_string(), source })?;
    }
    let registry = server::Registry::new(config.container_helper.clone(), config.log_dir.clone());
    let listener = server::listen(&config.api_socket)
        .map_err(|source| KubeletError::Socket { path: config.api_socket.display().to_string(), source })?;
    let serve = tokio::spawn(server::serve(listener, registry.clone(), stop.clone()));
    let client = tokio::select! {
        client = client(&config) => client,
        () = stop.cancelled() => return Ok(()),
    };
    let (sender, messages) = mpsc::unbounded_channel();
    let drivers = drivers::Drivers::new(client.clone(), &config);
    let shell = Shell::new(config.clone(), client.clone(), drivers.clone(), registry, sender.clone());
    tokio::select! {
        () = shell.run(messages) => {}
        () = register::run(client.clone(), &config, &drivers) => {}
        () = watch_pods(client.clone(), config.node_name.clone(), sender.clone()) => {}
        () = watch_node(client, config.node_name.clone(), sender) => {}
        () = stop.cancelled() => {}
    }
    let _ = serve.await;
    Ok(())
}

/// A client, as soon as the kubeconfig is there and readable.
async fn client(config: &KubeletConfig) -> kube::Client {
    let mut said = String::new();
    loop {
        match try_client(config).await {
            Ok(client) => return client,
            Err(why) if why != said => {
                tracing::info!(kubeconfig = %config.kubeconfig.display(), why, "waiting for the Kubernetes API");
                said = why;
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn try_client(config: &KubeletConfig) -> Result<kube::Client, String> {
    let read = kube::config::Kubeconfig::read_from(&config.kubeconfig).map_err(|error| error.to_string())?;
    let options = kube::config::KubeConfigOptions::default();
    let mut found = kube::Config::from_custom_kubeconfig(read, &options).await.map_err(|error| error.to_string())?;
    found.proxy_url = None;
    let watched = MapResultLayer::new(told_once());
    Ok(kube::client::ClientBuilder::try_from(found).map_err(|error| error.to_string())?.with_layer(&watched).build())
}

/// Looks at the result of every request: says once that the API is away, and once that it is back.
fn told_once<T>() -> impl Fn(Result<T, BoxError>) -> Result<T, BoxError> + Clone + Send + 'static {
    let away = Arc::new(AtomicBool::new(false));
    move |result| {
        if away.swap(result.is_err(), Ordering::Relaxed) != result.is_err() {
            match &result {
                Err(error) => tracing::warn!(why = chain(&**error), "the Kubernetes API is away; asking again until it answers"),
                Ok(_) => tracing::info!("the Kubernetes API is back"),
            }
        }
        result
    }
}

async fn watch_pods(client: kube::Client, node: String, sender: mpsc::UnboundedSender<Message>) {
    let pods = Api::<Pod>::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut stream = watcher(pods, config).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(pod)) => _ = sender.send(Message::Pod(Box::new(pod))),
            Ok(watcher::Event::Delete(pod)) => _ = sender.send(Message::Gone(pod.metadata.uid.unwrap_or_default())),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => listed.push(pod),
            Ok(watcher::Event::InitDone) => _ = sender.send(Message::Listed(std::mem::take(&mut listed))),
            Err(error) => tracing::debug!(%error, "the watch of pods broke off"),
        }
    }
}

async fn watch_node(client: kube::Client, node: String, sender: mpsc::UnboundedSender<Message>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut stream = watcher(Api::<Node>::all(client), config).default_backoff().boxed();
    let mut last = None;
    while let Some(event) = stream.next().await {
        if let Ok(watcher::Event::Apply(found) | watcher::Event::InitApply(found)) = event {
            let attached = volumes::volumes_attached(&found);
            if last.as_ref() != Some(&attached) {
                last = Some(attached.clone());
                _ = sender.send(Message::Attached(attached));
            }
        }
    }
}

/// What the API said, as Go's client prints an error.
pub(crate) fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The time as the API writes it: seconds.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
