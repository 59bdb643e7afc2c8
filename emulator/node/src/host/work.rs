//! The node proper: agent, CSI node plugins, EFS server, kubelet.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{NodeError, NodeHooks, chain, spawn};
use crate::config::inside;
use crate::devices::Devices;
use crate::drivers::{ebs_node, efs_node};
use crate::{NodeConfig, agent, efs_utils};

/// How long the parts that remain may take to end, once the pods are stopped.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Between an end of efs-utils' watchdog and its next start.
const WATCHDOG_PAUSE: Duration = Duration::from_millis(200);

pub(super) fn work(config: NodeConfig, hooks: NodeHooks) -> Result<(), NodeError> {
    let started = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match started.map_err(NodeError::system("starting the runtime")) {
        Ok(runtime) => runtime,
        Err(error) => {
            spawn::say(Err(&error));
            return Err(error);
        }
    };
    let result = runtime.block_on(serve(Arc::new(config), hooks));
    runtime.shutdown_timeout(END_LIMIT);
    result
}

async fn serve(config: Arc<NodeConfig>, hooks: NodeHooks) -> Result<(), NodeError> {
    // The kubelet ends first, since it needs the others to unmount.
    let (stop_pods, stop_rest) = (CancellationToken::new(), CancellationToken::new());
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut term, mut int) = match signals {
        Ok(signals) => signals,
        Err(source) => {
            let error = NodeError::system("listening for signals")(source);
            spawn::say(Err(&error));
            return Err(error);
        }
    };
    let efs = hooks.efs.map(|hook| {
        let (config, stop) = (config.clone(), stop_rest.clone());
        tokio::task::spawn_blocking(move || hook(&config, stop))
    });
    let efs_utils = config.efs_utils.clone().map(|efs_utils| {
        tokio::spawn(watchdog(config.clone(), stop_rest.clone()));
        tokio::spawn(efs_utils::serve(config.clone(), efs_utils, stop_rest.clone()))
    });
    let ebs_plugin = plugin(&config, model_node::driver::ebs::DRIVER, stop_rest.clone());
    let efs_plugin = plugin(&config, model_node::driver::efs::DRIVER, stop_rest.clone());
    let devices = Arc::new(Devices::new("/dev".into(), config.places().volumes(), config.first_loop));
    let mut agent = tokio::spawn(agent::run(config.clone(), devices, stop_rest.clone()));
    let mut kubelet = tokio::spawn(kubelet(config.clone(), stop_pods.clone()));
    spawn::say(Ok(()));
    tracing::info!(node = config.name, instance = config.instance_id, zone = config.zone, "the node is set up");
    let mut result = Ok(());
    let mut kubelet_ended = false;
    tokio::select! {
        _ = term.recv() => tracing::info!("told to stop"),
        _ = int.recv() => tracing::info!("told to stop"),
        ended = &mut agent => {
            result = match ended {
                Ok(Err(agent::AgentError::Refused(why))) => Err(NodeError::Refused(why)),
                Ok(Ok(())) => Ok(()),
                Err(error) => Err(NodeError::Refused(format!("the agent failed: {error}"))),
            };
        }
        ended = &mut kubelet => {
            kubelet_ended = true;
            result = ended.unwrap_or_else(|error| Err(NodeError::Kubelet(error.to_string())));
        }
    }
    stop_pods.cancel();
    if !kubelet_ended {
        match kubelet.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "the kubelet did not end cleanly"),
            Err(error) => tracing::warn!(%error, "the kubelet failed"),
        }
    }
    stop_rest.cancel();
    let rest = async {
        let _ = tokio::join!(ebs_plugin, efs_plugin);
        if let Some(efs) = efs {
            let _ = efs.await;
        }
        if let Some(efs_utils) = efs_utils {
            let _ = efs_utils.await;
        }
    };
    let _ = tokio::time::timeout(END_LIMIT, rest).await;
    result
}

/// Keeps efs-utils' watchdog running beside the built-in driver, as the real driver does with its own.
async fn watchdog(config: Arc<NodeConfig>, stop: CancellationToken) {
    if config.drivers_off.contains(model_node::driver::efs::DRIVER) {
        return;
    }
    let run = async {
        loop {
            // It needs the network, which comes at the same time; a log of its own has what it says.
            match tokio::process::Command::new(efs_utils::WATCHDOG).stdin(Stdio::null()).kill_on_drop(true).status().await {
                Ok(status) => tracing::warn!(%status, "efs-utils' watchdog ended; it starts again"),
                Err(error) => tracing::warn!(%error, "efs-utils' watchdog cannot be started"),
            }
            tokio::time::sleep(WATCHDOG_PAUSE).await;
        }
    };
    tokio::select! {
        () = run => {}
        () = stop.cancelled() => {}
    }
}

/// Serves a built-in driver's node plugin, unless it is switched off.
fn plugin(config: &Arc<NodeConfig>, driver: &'static str, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
    let config = config.clone();
    tokio::spawn(async move {
        if config.drivers_off.contains(driver) {
            return;
        }
        let socket = inside::plugin_socket(driver);
        let served = if driver == model_node::driver::ebs::DRIVER {
            ebs_node::serve(&socket, &config, stop).await
        } else {
            efs_node::serve(&socket, &config, stop).await
        };
        if let Err(error) = served {
            tracing::error!(driver, %error, socket = %socket.display(), "the CSI node plugin ended");
        }
    })
}

/// Runs the kubelet, or waits to be stopped where there is none.
async fn kubelet(config: Arc<NodeConfig>, stop: CancellationToken) -> Result<(), NodeError> {
    let Some(kubeconfig) = config.kubeconfig.clone() else {
        stop.cancelled().await;
        return Ok(());
    };
    let built_in = [model_node::driver::ebs::DRIVER, model_node::driver::efs::DRIVER];
    let on = built_in.into_iter().filter(|driver| !config.drivers_off.contains(*driver));
    let drivers = on.map(|driver| (driver.to_owned(), inside::plugin_socket(driver))).collect();
    let kubelet = crate::kubelet::KubeletConfig {
        node_name: config.name.clone(),
        kubeconfig,
        kubelet_dir: inside::KUBELET.into(),
        api_socket: inside::KUBELET_SOCKET.into(),
        provider_id: config.provider_id(),
        zone: config.zone.clone(),
        region: config.region.clone(),
        instance_type: config.instance_type.clone(),
        internal_ip: config.internal_ip.clone(),
        labels: config.labels.clone(),
        metadata: config.metadata.clone(),
        drivers,
        log_dir: config.places().node(&config.name).join("pods"),
        // The program that runs now, whatever became of its path.
        container_helper: "/proc/self/exe".into(),
        eager: true,
        journal: config.journal.then(|| config.places().journal()),
    };
    crate::kubelet::run(kubelet, stop).await.map_err(|error| NodeError::Kubelet(error.to_string()))
}
