//! The wire between a node's EFS server and the AWS side: who may mount what is asked with `POST /_ebbtide/efs/mount`.

use std::path::PathBuf;
use std::time::Duration;

use emulator_common::sigv4::{self, Signable, Signer};
use emulator_node::NodeConfig;
use fuse_fs::daemon::{Export, Stop};
use fuse_fs::fs::{CreationInfo, Identity};
use fuse_fs::protocol::{MountAsk, Refusal, RefusalKind};
use model_common::agent::{EfsExport, EfsMount, EfsRefusal, EfsRefusalKind};
use tokio_util::sync::CancellationToken;

/// How long the answer about a mount may take: one that is late on purpose (`ebbtide fault add latency --service nfs`) comes all the same.
const LIMIT: Duration = Duration::from_secs(120);

/// Serves a node's EFS mounts until the token is cancelled. Runs on a thread of its own.
pub fn serve(config: &NodeConfig, stop: CancellationToken) {
    let stopper = match Stop::new() {
        Ok(stopper) => stopper,
        Err(error) => return tracing::error!("the EFS server cannot start: {error}"),
    };
    let watch = stopper.clone();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("the EFS server cannot start: {error}"),
    };
    let handle = runtime.handle().clone();
    // The thread that drives the runtime: it waits for the end, and the resolver's requests run on it meanwhile.
    let driver = std::thread::spawn(move || {
        runtime.block_on(async move {
            stop.cancelled().await;
            watch.stop();
        });
    });
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(10)).timeout(LIMIT).no_proxy().build().unwrap_or_default();
    let url = format!("{}/_ebbtide/efs/mount", config.aws_endpoint);
    let (signer, instance_id) = (Signer::from_env(), config.instance_id.clone());
    let resolver = Box::new(move |ask: MountAsk| {
        let (client, signer, url, ask) = (client.clone(), signer.clone(), url.clone(), mount(ask, &instance_id));
        let (sender, receiver) = std::sync::mpsc::channel();
        handle.spawn(async move {
            let _ = sender.send(resolve(&client, &signer, &url, &ask).await);
        });
        receiver.recv().unwrap_or_else(|_| Err(failed("the node is stopping")))
    });
    if let Err(error) = fuse_fs::daemon::serve(&config.efs_socket, resolver, stopper) {
        tracing::error!("the EFS server ended: {error}");
    }
    let _ = driver.join();
}

fn mount(ask: MountAsk, instance_id: &str) -> EfsMount {
    EfsMount {
        file_system_id: ask.file_system_id,
        access_point_id: ask.access_point_id,
        instance_id: instance_id.to_owned(),
        availability_zone: ask.availability_zone,
        mount_target_ip: ask.mount_target_ip,
        tls: ask.tls,
        iam: ask.iam,
        read_only: ask.read_only,
    }
}

fn failed(message: impl Into<String>) -> Refusal {
    Refusal { kind: RefusalKind::Failed, message: message.into() }
}

async fn resolve(client: &reqwest::Client, signer: &Signer, url: &str, ask: &EfsMount) -> Result<Export, Refusal> {
    // An ebbtide that is away is a server that does not answer: mount.efs tries again.
    let away = |error: reqwest::Error| Refusal { kind: RefusalKind::Unreachable, message: format!("Connection to {url} failed: {error}") };
    let body = serde_json::to_vec(ask).map_err(|error| failed(error.to_string()))?;
    let (host, content_type) = (sigv4::host(url), "application/json");
    let path = url.split_once(host).map_or("/", |(_, path)| path);
    let signable = Signable { service: "ebbtide", method: "POST", host, path, query: "", content_type: Some(content_type), body: &body };
    let mut request = client.post(url).header("content-type", content_type);
    for (name, value) in signer.sign(&signable, jiff::Timestamp::now()) {
        request = request.header(name, value);
    }
    let response = request.body(body).send().await.map_err(away)?;
    if response.status().is_success() {
        let export: EfsExport = response.json().await.map_err(away)?;
        return Ok(Export {
            directory: PathBuf::from(export.directory),
            root_directory: PathBuf::from(export.root_directory),
            identity: export.identity.map(|user| Identity { uid: user.uid, gid: user.gid, secondary_gids: user.secondary_gids }),
            creation: export.creation.map(|creation| CreationInfo {
                owner_uid: creation.owner_uid,
                owner_gid: creation.owner_gid,
                permissions: creation.permissions,
            }),
            read_only: false,
            used: export.metered_bytes,
        });
    }
    let status = response.status();
    let body = response.bytes().await.map_err(away)?;
    match serde_json::from_slice::<EfsRefusal>(&body) {
        Ok(refusal) => Err(Refusal {
            kind: match refusal.kind {
                EfsRefusalKind::Unresolved => RefusalKind::Unresolved,
                EfsRefusalKind::Unreachable => RefusalKind::Unreachable,
                EfsRefusalKind::Denied => RefusalKind::Denied,
            },
            message: refusal.message,
        }),
        Err(_) => Err(failed(format!("{url} answered {status}: {}", String::from_utf8_lossy(&body)))),
    }
}
