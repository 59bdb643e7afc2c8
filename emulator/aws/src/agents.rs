//! The socket of an agent: `GET /_ebbtide/agent` (model/common/src/agent.rs).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use model_aws::ec2::{self, ObservedDevice};
use model_aws::{Aws, Input, Reject};
use model_common::agent::{FromAgent, Hello, PROTOCOL, Register, ToAgent};

use crate::ctx::Ctx;

/// How long a new connection has to say `Hello`.
const HELLO: Duration = Duration::from_secs(10);
/// Between pings; an agent that answers none of two is gone.
const PING: Duration = Duration::from_secs(15);

/// Serves one agent until its connection ends or another takes its place.
pub async fn serve(ctx: Arc<Ctx>, mut socket: WebSocket) {
    let hello = loop {
        match tokio::time::timeout(HELLO, receive(&mut socket)).await {
            Ok(Some(FromAgent::Hello(hello))) => break hello,
            Ok(Some(FromAgent::Register(wish))) => {
                if let Err(message) = register(&ctx, wish).await {
                    return refuse(&mut socket, message).await;
                }
                if send(&mut socket, &ToAgent::Registered).await.is_err() {
                    return;
                }
            }
            Ok(Some(FromAgent::Done { .. })) => return refuse(&mut socket, "the first message must be hello".to_owned()).await,
            Ok(None) | Err(_) => return,
        }
    };
    if let Err(message) = ctx.engine.read(|aws| accept(aws, &hello)).await {
        tracing::warn!(instance = %hello.instance_id, %message, "refused an agent");
        return refuse(&mut socket, message).await;
    }
    if ctx.engine.read(|aws| aws.faults.unreachable(&hello.instance_id)).await {
        // No word: the agent sees a connection that ends, and tries again.
        tracing::debug!(instance = %hello.instance_id, "a fault keeps an agent away");
        return;
    }
    let instance = hello.instance_id.clone();
    // The old connection's calls are lost, and the machine hears so before it hears what the new one has.
    ctx.hub.disconnect(&instance);
    ctx.hub.quiet(&instance).await;
    let (connection, mut inbox) = ctx.hub.register(&instance);
    if send(&mut socket, &ToAgent::Welcome).await.is_err() {
        return;
    }
    tracing::info!(%instance, node = %hello.node_name, devices = hello.devices.len(), "an agent connected");
    if let Some(boot) = hello.boot.clone() {
        ctx.engine.tell(Input::Ec2(ec2::Input::Started { instance: instance.as_str().into(), boot }));
    }
    ctx.engine.tell(Input::Ec2(connected(hello)));
    let mut ping = tokio::time::interval(PING);
    let mut silent = 0u8;
    while connection.current() {
        tokio::select! {
            outgoing = inbox.recv() => match outgoing {
                Some(message) if send(&mut socket, &message).await.is_ok() => {}
                _ => break,
            },
            incoming = socket.recv() => match incoming {
                Some(Ok(Message::Text(text))) => {
                    silent = 0;
                    match serde_json::from_str(&text) {
                        Ok(FromAgent::Done { call, result }) => connection.done(call, result),
                        Ok(FromAgent::Register(_) | FromAgent::Hello(_)) => tracing::warn!(%instance, "an agent said hello twice"),
                        Err(error) => tracing::warn!(%instance, %error, "an agent sent what is no message"),
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => silent = 0,
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
            },
            _ = ping.tick() => {
                silent += 1;
                if silent > 2 || socket.send(Message::Ping(axum::body::Bytes::new())).await.is_err() {
                    break;
                }
            }
        }
    }
    if connection.current() {
        tracing::info!(%instance, "an agent's connection ended");
        drop(connection);
        ctx.hub.quiet(&instance).await;
        // A new connection may be there already; its `Connected` must be the last word.
        ctx.hub.if_away(&instance, || {
            ctx.engine.tell(Input::Ec2(ec2::Input::Disconnected { instance: instance.as_str().into() }));
        });
    }
}

/// Makes an instance of a node that is none yet.
async fn register(ctx: &Ctx, wish: Register) -> Result<(), String> {
    let Register { instance_id, node_name, availability_zone: zone, instance_type, internal_ip } = wish;
    if ctx.engine.read(|aws| aws.ec2.instance(&instance_id).is_some()).await {
        return Ok(());
    }
    tracing::info!(instance = %instance_id, node = %node_name, zone, instance_type, "a node registers as an instance");
    let new = ec2::Registration { instance_id, node: node_name, zone, instance_type, private_ip: internal_ip };
    match ctx.engine.command(Input::Ec2(ec2::Input::Command(ec2::Command::Register(new)))).await {
        Ok(_) => Ok(()),
        Err(Reject::Ec2(ec2::Reject::NoSuchZone { zone })) => {
            let zones: Vec<&str> = ctx.world.zones.iter().map(|zone| zone.name.as_str()).collect();
            Err(format!("the world has no zone {zone}; it has {}. Name one of these in the Node's providerID", zones.join(", ")))
        }
        Err(reject) => Err(reject.to_string()),
    }
}

fn accept(aws: &Aws, hello: &Hello) -> Result<(), String> {
    let Hello { instance_id, availability_zone, protocol, .. } = hello;
    if *protocol != PROTOCOL {
        return Err(format!("the agent speaks protocol {protocol}, this endpoint {PROTOCOL}; use the same version of ebbtide"));
    }
    let instance = aws.ec2.instance(instance_id).ok_or_else(|| format!("the world has no instance {instance_id}"))?;
    if instance.zone != *availability_zone {
        return Err(format!("{instance_id} is in {}, not in {availability_zone}", instance.zone));
    }
    Ok(())
}

fn connected(hello: Hello) -> ec2::Input {
    let devices = hello
        .devices
        .into_iter()
        .map(|device| ObservedDevice { volume_id: device.volume_id, device: device.device_name, bytes: device.size_bytes })
        .collect();
    ec2::Input::Connected { instance: hello.instance_id.into(), no_devices: hello.no_devices, devices }
}

async fn receive(socket: &mut WebSocket) -> Option<FromAgent> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) => return serde_json::from_str(&text).ok(),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Binary(_) | Message::Close(_) => return None,
        }
    }
}

async fn send(socket: &mut WebSocket, message: &ToAgent) -> Result<(), axum::Error> {
    let text = serde_json::to_string(message).map_err(axum::Error::new)?;
    socket.send(Message::Text(text.into())).await
}

async fn refuse(socket: &mut WebSocket, message: String) {
    // The agent may be gone already.
    let _ = send(socket, &ToAgent::Refused { message }).await;
    let _ = socket.send(Message::Close(None)).await;
}
