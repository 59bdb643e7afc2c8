//! One machine and its loop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use model_common::csi::{Code, ControllerCall, Error};
use model_kube::controllers::Controller;
use model_kube::machine::{Effect, Input, stamp};
use model_kube::object::{Change, Key, Object};
use model_kube::write::ApiError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::Backend;
use super::events::Events;
use super::timers::Timers;
use crate::journal::ControllerJournal;

/// How long to wait before a watch that broke is started anew.
const RELIST: Duration = Duration::from_millis(100);

/// What a machine runs on.
pub struct Around<B> {
    /// Its driver's socket.
    pub channel: Option<Channel>,
    pub api: B,
    pub events: Events,
    pub journal: Option<ControllerJournal>,
    pub stop: CancellationToken,
}

/// Runs a machine until it is stopped.
pub async fn run<B: Backend>(machine: Controller, around: Around<B>) {
    let Around { channel: driver, api, events, journal, stop } = around;
    let (answers, mut answered) = mpsc::unbounded_channel();
    let timeout = machine.call_timeout();
    let mut shell = Shell { machine, driver, timeout, api: api.clone(), events, answers, timers: Timers::default(), journal };
    let kinds = shell.machine.kinds();
    // What the machine was told exists, to tell it after a broken watch what is gone.
    let mut known: BTreeMap<Key, Object> = BTreeMap::new();
    let mut booted = false;
    loop {
        let (version, objects) = api.list(&kinds).await;
        let mut gone = std::mem::take(&mut known);
        for object in objects {
            gone.remove(&object.key());
            known.insert(object.key(), object.clone());
            shell.step(Input::Changed(Change::Added(object)));
        }
        for (_, object) in gone {
            shell.step(Input::Changed(Change::Deleted(object)));
        }
        if !std::mem::replace(&mut booted, true) {
            shell.step(Input::Booted);
        }
        let mut watch = api.watch(&kinds, version);
        loop {
            let input = tokio::select! {
                () = stop.cancelled() => return,
                change = watch.next() => match change {
                    Some(change) => {
                        note(&mut known, &change);
                        Input::Changed(change)
                    }
                    None => break,
                },
                Some(answer) = answered.recv() => answer,
                timer = shell.timers.next() => Input::Fired(timer),
            };
            shell.step(input);
        }
        tracing::debug!(controller = shell.machine.name(), "the watch ended; listing again");
        tokio::time::sleep(RELIST).await;
    }
}

fn note(known: &mut BTreeMap<Key, Object>, change: &Change) {
    match change {
        Change::Added(object) | Change::Modified(object) => {
            known.insert(object.key(), object.clone());
        }
        Change::Deleted(object) => {
            known.remove(&object.key());
        }
    }
}

struct Shell<B> {
    machine: Controller,
    driver: Option<Channel>,
    timeout: Duration,
    api: B,
    events: Events,
    answers: mpsc::UnboundedSender<Input>,
    timers: Timers,
    journal: Option<ControllerJournal>,
}

impl<B: Backend> Shell<B> {
    fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        let verdict = self.machine.step(&input, &mut effects);
        if let Some(journal) = &mut self.journal {
            journal.append(&input, &verdict, &effects);
        }
        if let Err(reject) = verdict {
            tracing::warn!(controller = self.machine.name(), "input refused: {reject}");
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let name = self.machine.name();
        match effect {
            Effect::Write { call, mut write } => {
                stamp(&mut write, &Time(Timestamp::now()));
                let (api, answers) = (self.api.clone(), self.answers.clone());
                tokio::spawn(async move {
                    let key = write.key();
                    let result = api.write(write).await;
                    if let Err(error) = &result {
                        tracing::debug!(controller = name, object = %key.name, "write refused: {error}");
                    }
                    // The receiver is gone only when the controller was stopped.
                    let _ = answers.send(Input::Written { call, result });
                });
            }
            Effect::Get { call, key } => {
                let (api, answers) = (self.api.clone(), self.answers.clone());
                tokio::spawn(async move {
                    let result = api.get(&key).await.ok_or_else(|| ApiError::not_found(&key.kind, &key.name));
                    let _ = answers.send(Input::Written { call, result });
                });
            }
            Effect::List { call, kind, namespace } => {
                let (api, answers) = (self.api.clone(), self.answers.clone());
                tokio::spawn(async move {
                    let objects = api.list_in(&kind, &namespace).await;
                    let _ = answers.send(Input::Listed { call, result: Ok(objects) });
                });
            }
            Effect::Csi { call, driver, request } => {
                let (channel, answers, timeout) = (self.driver.clone(), self.answers.clone(), self.timeout);
                tokio::spawn(async move {
                    let what = call_name(&request);
                    let started = Instant::now();
                    let result = match channel {
                        Some(channel) => emulator_common::csi::controller_call(&channel, request, timeout).await,
                        None => Err(Error::new(Code::Unavailable, format!("no connection to {driver}"))),
                    };
                    let millis = started.elapsed().as_millis();
                    match &result {
                        Ok(_) => tracing::info!(controller = name, driver, millis, "{what}"),
                        Err(error) => tracing::warn!(controller = name, driver, millis, "{what} failed: {error}"),
                    }
                    let _ = answers.send(Input::Csi { call, result });
                });
            }
            Effect::Arm(timer, wait) => self.timers.arm(timer, wait),
            Effect::Disarm(timer) => self.timers.disarm(&timer),
            Effect::Record(record) => {
                if self.events.try_send(record).is_err() {
                    tracing::warn!(controller = name, "too many events wait to be written; one was dropped");
                }
            }
        }
    }
}

fn call_name(request: &ControllerCall) -> String {
    match request {
        ControllerCall::CreateVolume { name, .. } => format!("CreateVolume {name}"),
        ControllerCall::DeleteVolume { volume_id } => format!("DeleteVolume {volume_id}"),
        ControllerCall::ControllerPublishVolume { volume_id, node_id, .. } => format!("ControllerPublishVolume {volume_id} {node_id}"),
        ControllerCall::ControllerUnpublishVolume { volume_id, node_id } => format!("ControllerUnpublishVolume {volume_id} {node_id}"),
        ControllerCall::ValidateVolumeCapabilities { volume_id, .. } => format!("ValidateVolumeCapabilities {volume_id}"),
        ControllerCall::ControllerExpandVolume { volume_id, .. } => format!("ControllerExpandVolume {volume_id}"),
        ControllerCall::ControllerModifyVolume { volume_id, .. } => format!("ControllerModifyVolume {volume_id}"),
        ControllerCall::CreateSnapshot { name, .. } => format!("CreateSnapshot {name}"),
        ControllerCall::DeleteSnapshot { snapshot_id } => format!("DeleteSnapshot {snapshot_id}"),
        ControllerCall::ListSnapshots { .. } => "ListSnapshots".to_owned(),
    }
}
