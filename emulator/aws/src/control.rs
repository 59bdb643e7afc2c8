//! `/_ebbtide/*`: what AWS does not have.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{Method, StatusCode, header};
use model_aws::faults::Call;
use model_aws::{Aws, ec2, efs};
use model_common::agent::{EfsExport, EfsMount, EfsNeighbour, EfsNetwork, EfsRefusal, EfsRefusalKind, ToAgent};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::ctx::Ctx;
use crate::hub::HubError;
use crate::server::Server;
use crate::{agents, faults, metrics};

/// How long a reset waits for a device to go.
const DETACH: Duration = Duration::from_secs(10);

/// A refusal outside of the AWS protocols.
pub fn refuse(status: StatusCode, message: impl Into<String>) -> Response {
    (status, axum::Json(json!({"message": message.into()}))).into_response()
}

/// Answers a request whose body was read already (all but the agent's socket).
pub async fn handle(server: &Arc<Server>, method: &Method, path: &str, body: &Bytes) -> Response {
    let ctx = &server.ctx;
    let get = method == Method::GET || method == Method::HEAD;
    match path {
        "/_ebbtide/health" | "/_localstack/health" if get => health(ctx),
        "/_ebbtide/info" | "/_localstack/info" if get => info(server).await,
        "/_ebbtide/events" if get => events(server),
        "/metrics" if get => {
            let (states, hits) = ctx.engine.read(|aws| (metrics::states(aws), aws.faults.hits().collect())).await;
            let text = server.metrics.text(states, hits, ctx.hub.instances().len());
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        _ if faults::serves(path) => faults::handle(ctx, method, path, body).await,
        "/_ebbtide/reset" if method == Method::POST => reset(server).await,
        "/_ebbtide/efs/mount" if method == Method::POST => match serde_json::from_slice(body) {
            Ok(request) => match efs_mount(ctx, &request).await {
                Ok(export) => axum::Json(export).into_response(),
                Err(refusal) => (StatusCode::FORBIDDEN, axum::Json(refusal)).into_response(),
            },
            Err(error) => refuse(StatusCode::BAD_REQUEST, format!("the body is no mount request: {error}")),
        },
        "/_ebbtide/efs/network" if method == Method::POST => match serde_json::from_slice::<EfsNeighbour>(body) {
            Ok(asking) => match efs_network(ctx, &asking.instance_id).await {
                Some(network) => axum::Json(network).into_response(),
                None => refuse(StatusCode::NOT_FOUND, format!("the world has no instance {}", asking.instance_id)),
            },
            Err(error) => refuse(StatusCode::BAD_REQUEST, format!("the body names no instance: {error}")),
        },
        "/_ebbtide/health"
        | "/_ebbtide/info"
        | "/_ebbtide/events"
        | "/_ebbtide/reset"
        | "/_ebbtide/efs/mount"
        | "/_ebbtide/efs/network"
        | "/metrics" => refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}")),
        _ => refuse(StatusCode::NOT_FOUND, format!("there is no {path}")),
    }
}

/// Upgrades to the agent's socket.
pub async fn agent(ctx: Arc<Ctx>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade.max_message_size(4 << 20).on_upgrade(move |socket| agents::serve(ctx, socket)),
        Err(rejection) => rejection.into_response(),
    }
}

fn health(ctx: &Ctx) -> Response {
    let services = json!({"ec2": "running", "efs": "running", "elasticfilesystem": "running", "sts": "running"});
    match ctx.engine.fault() {
        None => axum::Json(json!({"status": "running", "services": services, "version": env!("CARGO_PKG_VERSION")})).into_response(),
        Some(fault) => {
            let body = json!({"status": "error", "message": &*fault, "services": {}, "version": env!("CARGO_PKG_VERSION")});
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}

async fn info(server: &Server) -> Response {
    let ctx = &server.ctx;
    let agents = ctx.hub.instances();
    let nodes = ctx.engine.read(|aws| {
        let nodes = aws.ec2.instances().filter_map(|instance| {
            let name = instance.node.as_ref()?;
            let connected = agents.iter().any(|agent| **agent == *instance.id);
            Some(json!({"name": name, "instanceId": instance.id, "zone": instance.zone, "instanceType": instance.instance_type,
                "privateIp": instance.private_ip, "connected": connected}))
        });
        nodes.collect::<Vec<_>>()
    });
    let nodes = nodes.await;
    axum::Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "dataDirectory": ctx.places.data(),
        "profile": ctx.profile,
        "account": ctx.world.account,
        "region": ctx.world.region,
        "devices": ctx.world.devices,
        "nodes": nodes,
    }))
    .into_response()
}

/// JSON lines from now on, until the client goes or the server stops. A client too slow to follow is told how many it missed.
fn events(server: &Arc<Server>) -> Response {
    let receiver = server.ctx.engine.events();
    let stopped = server.stopping.clone();
    let lines = futures::stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(line) => Some((Bytes::from(format!("{line}\n")), receiver)),
            Err(RecvError::Lagged(missed)) => Some((Bytes::from(format!("{{\"kind\":\"missed\",\"count\":{missed}}}\n")), receiver)),
            Err(RecvError::Closed) => None,
        }
    });
    let lines = lines.take_until(stopped.cancelled_owned()).map(Ok::<_, std::convert::Infallible>);
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// Decides over a mount (efs.md §1.4, §3.3, §8).
async fn efs_mount(ctx: &Ctx, request: &EfsMount) -> Result<EfsExport, EfsRefusal> {
    meet_trouble(ctx, request).await?;
    let grant = ctx.engine.read(|aws| {
        let Some(instance) = aws.ec2.instance(&request.instance_id) else {
            let message = format!("the world has no instance {}", request.instance_id);
            return Err(EfsRefusal { kind: EfsRefusalKind::Unreachable, message });
        };
        let client = efs::Client { zone: &instance.zone, ip: instance.private_ip, groups: &instance.interface.security_groups };
        aws.efs.mount(&aws.ec2, request, client)
    });
    let grant = grant.await?;
    Ok(EfsExport {
        directory: ctx.places.efs().join(&grant.file_system_id).display().to_string(),
        root_directory: grant.root_directory,
        identity: grant.identity,
        creation: grant.creation,
        mount_target_ip: grant.mount_target_ip,
        metered_bytes: grant.metered_bytes,
    })
}

/// Trouble on purpose: a mount target that does not answer, or that denies access.
async fn meet_trouble(ctx: &Ctx, request: &EfsMount) -> Result<(), EfsRefusal> {
    let named = [&request.access_point_id, &request.mount_target_ip, &request.availability_zone].into_iter().flatten();
    let names = named.chain([&request.file_system_id, &request.instance_id]).cloned().collect();
    let service = model_aws::faults::NFS.to_owned();
    let call = Call { service, operation: "Mount".to_owned(), region: Some(ctx.world.region.clone()), names, dry_run: false };
    let verdict = faults::judge(ctx, call).await;
    if let Some(delay) = verdict.delay {
        tokio::time::sleep(delay.duration()).await;
    }
    match verdict.error {
        Some(error) if error.code == "AccessDenied" => Err(EfsRefusal { kind: EfsRefusalKind::Denied, message: error.message }),
        Some(error) => Err(EfsRefusal { kind: EfsRefusalKind::Unreachable, message: error.message }),
        None if verdict.lost => {
            Err(EfsRefusal { kind: EfsRefusalKind::Unreachable, message: "the mount target's answer is lost".to_owned() })
        }
        None => Ok(()),
    }
}

/// The mount targets that an instance's network has; none: there is no such instance.
async fn efs_network(ctx: &Ctx, instance_id: &str) -> Option<EfsNetwork> {
    let seen = ctx.engine.read(|aws| {
        let instance = aws.ec2.instance(instance_id)?;
        let client = efs::Client { zone: &instance.zone, ip: instance.private_ip, groups: &instance.interface.security_groups };
        Some(aws.efs.network(&aws.ec2, client))
    });
    seen.await
}

/// Empties state and files; the world stays. Devices are detached first; one that is mounted or open refuses the reset.
async fn reset(server: &Server) -> Response {
    let _one = server.resetting.lock().await;
    let ctx = &server.ctx;
    let attached: Vec<_> = ctx.engine.read(attached).await;
    for (volume_id, instance, device_name) in attached {
        let detach = |call| ToAgent::Detach { call, volume_id: volume_id.clone(), device_name, last: true, force: false };
        match tokio::time::timeout(DETACH, ctx.hub.call(&instance, detach)).await {
            // An agent that is not there holds nothing that a new connection would not report.
            Ok(Ok(()) | Err(HubError::Lost)) => {}
            Ok(Err(HubError::Device(error))) => {
                return refuse(StatusCode::CONFLICT, format!("{error}; delete the pods that use it, then reset again"));
            }
            Err(_) => return refuse(StatusCode::CONFLICT, format!("the agent of {instance} did not detach {volume_id} in time")),
        }
    }
    let places = ctx.places.clone();
    let cleanup = move || {
        for directory in [places.volumes(), places.snapshots(), places.efs()] {
            if let Err(error) = empty(&directory) {
                tracing::error!(directory = %directory.display(), %error, "cannot remove all files");
            }
        }
    };
    let booted = ctx.booted(ec2::Observed::default(), Default::default());
    ctx.engine.reset(Aws::new(&ctx.world, ctx.profile), cleanup, booted).await;
    // Agents connect again and say what they have.
    for instance in ctx.hub.instances() {
        ctx.hub.disconnect(&instance);
    }
    axum::Json(json!({"status": "reset"})).into_response()
}

fn attached(aws: &Aws) -> Vec<(String, String, String)> {
    let seed = aws.ec2.seed();
    let volumes = aws.ec2.volumes().flat_map(|volume| {
        let id = volume.key.id(seed);
        volume.attachments.iter().map(move |(instance, attachment)| (id.clone(), instance.to_string(), attachment.device.clone()))
    });
    volumes.collect()
}

/// Removes what a directory holds. Links are removed, not followed.
fn empty(directory: &std::path::Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() { std::fs::remove_dir_all(entry.path())? } else { std::fs::remove_file(entry.path())? }
    }
    Ok(())
}
