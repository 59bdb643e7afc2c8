//! A small world for tests: the real store, the real controllers, a driver and kubelets in a few lines, and a [`Pick`] that
//! chooses what happens next, which writes fail and whose answers are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use model_common::csi::{Code, ControllerCall, ControllerReply, Error, Volume};
use model_common::pick::{Pick, Seeded};
use serde_json::{Value, json};

use crate::controllers::{Controller, Driver, claims_of, is_finished, name, node_of, phase_of};
use crate::events::EventRecord;
use crate::machine::{Effect, Input, Purpose, Timer, stamp};
use crate::object::{Key, Kind, Object};
use crate::store::{self, Store};
use crate::write::{ApiError, Patch, Propagation, Subresource, Write};

pub mod alone;
mod objects;
mod snapshots;

pub use objects::{claim, class, object, pod, snapshot, snapshot_class, stateful_set, volume, workload};

struct Slot {
    machine: Controller,
    /// How far each kind's watch has come.
    cursors: BTreeMap<Kind, u64>,
    booted: bool,
}

/// Steps the store with a write, as the API server does; the object of its reply.
fn commit(store: &mut Store, now: Timestamp, write: &Write) -> Result<Object, ApiError> {
    let mut write = write.clone();
    stamp(&mut write, &Time(now));
    let mut out = Vec::new();
    store.step(now, &write, &mut out)?;
    let reply = out.into_iter().find_map(|effect| match effect {
        store::Effect::Reply { object, .. } => Some(object),
        _ => None,
    });
    reply.ok_or_else(|| ApiError::internal("no reply"))
}

/// A live list of the store.
fn list(store: &Store, kind: &Kind, namespace: &str) -> Vec<Object> {
    store.range(kind, namespace, "").map(|(_, object)| object.clone()).collect()
}

pub struct World {
    pub store: Store,
    pub now: Timestamp,
    slots: Vec<Slot>,
    pending: Vec<(usize, Effect)>,
    answers: Vec<(usize, Input)>,
    timers: BTreeMap<(usize, Timer), Timestamp>,
    /// Volume id → name.
    pub volumes: BTreeMap<String, String>,
    pub deleted: BTreeSet<String>,
    pub snapshots: snapshots::Snapshots,
    /// The parameters that volumes were modified to.
    pub modified: BTreeMap<String, BTreeMap<String, String>>,
    /// Volume id → nodes.
    pub attached: BTreeMap<String, BTreeSet<String>>,
    /// Node → volume ids.
    pub mounted: BTreeMap<String, BTreeSet<String>>,
    pub events: Vec<EventRecord>,
    pub calls: Vec<ControllerCall>,
    /// Answers of the driver that come before its own, by call name.
    pub refusals: Vec<(&'static str, Error)>,
    pick: Seeded,
    /// How many more failures may be drawn.
    pub faults: usize,
    /// Nodes whose kubelet does nothing any more. Only they fall silent.
    pub dead: BTreeSet<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut controllers = Controller::builtin();
        controllers.extend(Controller::sidecars(&Driver::ebs()));
        controllers.extend(Controller::sidecars(&Driver::efs()));
        let slots = controllers.into_iter().map(|machine| Slot { machine, cursors: BTreeMap::new(), booted: false }).collect();
        let mut world = Self {
            store: Store::new(seed),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            slots,
            pending: Vec::new(),
            answers: Vec::new(),
            timers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            deleted: BTreeSet::new(),
            snapshots: snapshots::Snapshots::default(),
            modified: BTreeMap::new(),
            attached: BTreeMap::new(),
            mounted: BTreeMap::new(),
            events: Vec::new(),
            calls: Vec::new(),
            refusals: Vec::new(),
            pick: Seeded::new(seed),
            faults: 0,
            dead: BTreeSet::new(),
        };
        for name in ["default", "kube-system", "kube-node-lease"] {
            let _ = world.write(&Write::create(object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))));
        }
        for definition in crate::snapshots::definitions() {
            let _ = world.write(&Write::create(definition));
        }
        for (name, attach) in [("ebs.csi.aws.com", true), ("efs.csi.aws.com", false)] {
            let _ = world.write(&Write::create(object(json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": name}, "spec": {"attachRequired": attach}}))));
        }
        for (node, zone) in [("node-a", "us-east-1a"), ("node-b", "us-east-1b")] {
            world.node(node, zone);
        }
        world
    }

    pub fn node(&mut self, name: &str, zone: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {
                "name": name,
                "labels": {"topology.ebs.csi.aws.com/zone": zone, "topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name},
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let created = self.write(&Write::create(object(node.clone()))).unwrap();
        let mut node = (**created.get::<Node>().unwrap()).clone();
        node.status = serde_json::from_value(json!({"conditions": [{"type": "Ready", "status": "True"}]})).unwrap();
        self.write(&Write::update_status(node)).unwrap();
        self.apply(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": [
            {"name": "ebs.csi.aws.com", "nodeID": format!("i-{name}"), "topologyKeys": ["topology.ebs.csi.aws.com/zone"], "allocatable": {"count": 25}},
            {"name": "efs.csi.aws.com", "nodeID": format!("i-{name}")}]}}));
        self.mounted.entry(name.to_owned()).or_default();
    }

    pub fn apply(&mut self, json: Value) -> Object {
        self.write(&Write::create(object(json))).unwrap()
    }

    pub fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.write(&Write::delete(Key::new(kind, namespace, name))).unwrap();
    }

    pub fn write(&mut self, write: &Write) -> Result<Object, ApiError> {
        commit(&mut self.store, self.now, write)
    }

    /// The controller of that name loses its memory and starts anew.
    pub fn crash(&mut self, name: &str) {
        for index in 0..self.slots.len() {
            if self.slots[index].machine.name() != name {
                continue;
            }
            let fresh = match &self.slots[index].machine {
                Controller::Provisioner(machine) => {
                    Controller::Provisioner(crate::controllers::provisioner::Provisioner::new(machine.driver().clone()))
                }
                Controller::Attacher(machine) => {
                    Controller::Attacher(crate::controllers::attacher::Attacher::new(machine.driver().clone()))
                }
                Controller::Resizer(machine) => Controller::Resizer(crate::controllers::resizer::Resizer::new(machine.driver().clone())),
                Controller::Modifier(machine) => {
                    Controller::Modifier(crate::controllers::modifier::Modifier::new(machine.driver().clone()))
                }
                Controller::Snapshotter(machine) => {
                    Controller::Snapshotter(crate::controllers::snapshotter::Snapshotter::new(machine.driver().clone()))
                }
                other => Controller::builtin().into_iter().find(|fresh| fresh.name() == other.name()).unwrap(),
            };
            self.slots[index] = Slot { machine: fresh, cursors: BTreeMap::new(), booted: false };
            self.pending.retain(|(slot, _)| *slot != index);
            self.answers.retain(|(slot, _)| *slot != index);
            self.timers.retain(|(slot, _), _| *slot != index);
        }
    }

    fn input(&mut self, index: usize, input: &Input) {
        let mut out = Vec::new();
        self.slots[index].machine.step(input, &mut out).unwrap();
        for effect in out {
            match effect {
                Effect::Arm(timer, wait) => {
                    if timer.purpose != Purpose::NodeSilent || self.dead.contains(&*timer.item.name) {
                        self.timers.insert((index, timer), self.now + wait);
                    }
                }
                Effect::Disarm(timer) => {
                    self.timers.remove(&(index, timer));
                }
                Effect::Record(record) => self.events.push(record),
                other => self.pending.push((index, other)),
            }
        }
    }

    fn boot(&mut self, index: usize) {
        for kind in self.slots[index].machine.kinds() {
            let version = self.store.version();
            let objects: Vec<Object> = self.store.all(&kind).map(|(_, object)| object.clone()).collect();
            self.slots[index].cursors.insert(kind, version);
            for object in objects {
                self.input(index, &Input::Changed(crate::object::Change::Added(object)));
            }
        }
        self.slots[index].booted = true;
        self.input(index, &Input::Booted);
    }

    fn fault(&mut self) -> bool {
        if self.faults > 0 && self.pick.chance(1, 6) {
            self.faults -= 1;
            return true;
        }
        false
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        let answer = match effect {
            Effect::Write { call, write } => {
                let result = if self.fault() {
                    if self.pick.chance(1, 2) {
                        let _ = self.write(&write); // Applied, and the answer is lost.
                    }
                    Err(ApiError::internal("fault"))
                } else {
                    self.write(&write)
                };
                Input::Written { call, result }
            }
            Effect::Get { call, key } => {
                let found = self.store.object(&key).cloned();
                Input::Written { call, result: found.ok_or_else(|| ApiError::not_found(&key.kind, &key.name)) }
            }
            Effect::List { call, kind, namespace } => Input::Listed { call, result: Ok(list(&self.store, &kind, &namespace)) },
            Effect::Csi { call, request, .. } => {
                self.calls.push(request.clone());
                let result = if self.fault() {
                    if self.pick.chance(1, 2) {
                        let _ = self.drive(&request);
                    }
                    Err(Error::new(Code::DeadlineExceeded, "fault"))
                } else {
                    self.drive(&request)
                };
                Input::Csi { call, result }
            }
            Effect::Arm(..) | Effect::Disarm(_) | Effect::Record(_) => return,
        };
        self.answers.push((index, answer));
    }

    fn drive(&mut self, request: &ControllerCall) -> Result<ControllerReply, Error> {
        let name = format!("{request:?}");
        if let Some(position) = self.refusals.iter().position(|(call, _)| name.starts_with(call)) {
            return Err(self.refusals.remove(position).1);
        }
        match request {
            ControllerCall::CreateVolume { name, capacity, topology, content_source, .. } => {
                let volume_id = format!("vol-{name}");
                self.volumes.insert(volume_id.clone(), name.clone());
                Ok(ControllerReply::CreateVolume(Volume {
                    volume_id,
                    capacity_bytes: capacity.required_bytes,
                    content_source: content_source.clone(),
                    accessible_topology: topology.iter().flat_map(|topology| topology.preferred.first().cloned()).collect(),
                    ..Volume::default()
                }))
            }
            ControllerCall::DeleteVolume { volume_id } => {
                assert!(self.attached.get(volume_id).is_none_or(|nodes| nodes.is_empty()), "S10: {volume_id} deleted while attached");
                self.volumes.remove(volume_id);
                self.deleted.insert(volume_id.clone());
                Ok(ControllerReply::DeleteVolume)
            }
            ControllerCall::ControllerPublishVolume { volume_id, node_id, .. } => {
                let node = node_id.trim_start_matches("i-").to_owned();
                let nodes = self.attached.entry(volume_id.clone()).or_default();
                if nodes.iter().any(|other| *other != node) {
                    return Err(Error::new(Code::FailedPrecondition, "attached elsewhere"));
                }
                nodes.insert(node);
                Ok(ControllerReply::ControllerPublishVolume {
                    publish_context: BTreeMap::from([("devicePath".into(), "/dev/xvdaa".into())]),
                })
            }
            ControllerCall::ControllerUnpublishVolume { volume_id, node_id } => {
                let node = node_id.trim_start_matches("i-");
                if let Some(nodes) = self.attached.get_mut(volume_id) {
                    nodes.remove(node);
                }
                Ok(ControllerReply::ControllerUnpublishVolume)
            }
            ControllerCall::ControllerExpandVolume { capacity, .. } => {
                Ok(ControllerReply::ControllerExpandVolume { capacity_bytes: capacity.required_bytes, node_expansion_required: true })
            }
            ControllerCall::ControllerModifyVolume { volume_id, mutable_parameters } => {
                self.modified.insert(volume_id.clone(), mutable_parameters.clone());
                Ok(ControllerReply::ControllerModifyVolume)
            }
            other => self.snapshots.drive(other).unwrap_or_else(|| Err(Error::new(Code::Unimplemented, format!("{other:?}")))),
        }
    }

    /// (driver attaches, volume handle) of a pod's volumes.
    fn needs(&self, pod: &Pod) -> Option<Vec<(bool, String)>> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
        claims_of(pod)
            .map(|claim| {
                let claim = self.store.get::<PersistentVolumeClaim>(namespace, &claim)?;
                let volume = self.store.get::<PersistentVolume>("", claim.spec.as_ref()?.volume_name.as_deref()?)?;
                let csi = volume.spec.as_ref()?.csi.as_ref()?;
                let driver = self.store.get::<CSIDriver>("", &csi.driver)?;
                Some((driver.spec.attach_required != Some(false), csi.volume_handle.clone()))
            })
            .collect()
    }

    /// What a node's kubelet does next, if anything.
    fn kubelet(&mut self, node: &str, act: bool) -> bool {
        if self.dead.contains(node) {
            return false;
        }
        let Some(object) = self.store.get::<Node>("", node).cloned() else { return false };
        let status = object.status.clone().unwrap_or_default();
        let pods: Vec<_> = self.store.list::<Pod>().filter(|pod| node_of(pod) == node).cloned().collect();
        let mounted = self.mounted.get(node).cloned().unwrap_or_default();
        let leaving = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
        let needed: BTreeSet<(bool, String)> =
            pods.iter().filter(|pod| !leaving(pod)).filter_map(|pod| self.needs(pod)).flatten().collect();
        let unmount: Vec<String> = mounted.iter().filter(|volume| !needed.iter().any(|(_, needed)| needed == *volume)).cloned().collect();
        if let Some(volume) = unmount.first() {
            if act {
                self.mounted.entry(node.to_owned()).or_default().remove(volume);
            }
            return true;
        }
        let unique = |volume: &String| format!("kubernetes.io/csi/ebs.csi.aws.com^{volume}");
        let in_use: BTreeSet<String> = needed.iter().filter(|(attach, _)| *attach).map(|(_, volume)| unique(volume)).collect();
        if in_use != status.volumes_in_use.clone().unwrap_or_default().into_iter().collect() {
            if act {
                let patch = Patch::Merge(json!({"status": {"volumesInUse": in_use}}));
                let key = Key::new(Kind::Node, "", node);
                self.write(&Write::Patch { key, patch, subresource: Subresource::Status }).unwrap();
            }
            return true;
        }
        for pod in &pods {
            if leaving(pod) {
                if act {
                    let write = Write::Delete {
                        key: crate::object::Typed::key(&**pod),
                        uid: pod.metadata.uid.clone(),
                        resource_version: None,
                        grace_seconds: Some(0),
                        propagation: Propagation::Background,
                    };
                    self.write(&write).unwrap();
                }
                return true;
            }
            let Some(needs) = self.needs(pod) else { continue };
            let attached = status.volumes_attached.clone().unwrap_or_default();
            let mut all = true;
            for (attach, volume) in needs {
                if mounted.contains(&volume) {
                    continue;
                }
                if !attach || attached.iter().any(|known| known.name == unique(&volume)) {
                    if act {
                        self.mounted.entry(node.to_owned()).or_default().insert(volume);
                    }
                    return true;
                }
                all = false;
            }
            if all && phase_of(pod) != "Running" && !is_finished(pod) {
                if act {
                    let mut updated = (**pod).clone();
                    updated.status = serde_json::from_value(json!({"phase": "Running",
                        "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                        {"name": "app", "image": "x", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}))
                    .unwrap();
                    self.write(&Write::update_status(updated)).unwrap();
                }
                return true;
            }
        }
        false
    }

    fn check(&self) {
        for (node, volumes) in self.mounted.iter().filter(|(node, _)| !self.dead.contains(*node)) {
            for volume in volumes {
                let is_ebs = self.attached.contains_key(volume);
                assert!(!is_ebs || self.attached[volume].contains(node), "S4: {volume} is mounted on {node} and not attached to it");
            }
        }
        let mut bound: BTreeMap<String, String> = BTreeMap::new();
        for claim in self.store.list::<PersistentVolumeClaim>() {
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound") {
                let name = claim.metadata.name.clone().unwrap_or_default();
                if let Some(other) = bound.insert(volume.clone(), name.clone()) {
                    panic!("S11: {volume} is bound to {other} and {name}");
                }
            }
        }
    }

    /// One thing happens; false when only periodic timers are left.
    pub fn step(&mut self) -> bool {
        let (mut deliverable, mut idle) = (Vec::new(), Vec::new());
        for (index, slot) in self.slots.iter().enumerate() {
            if !slot.booted {
                deliverable.push((index, None));
                continue;
            }
            let first = slot.cursors.values().min().copied().unwrap_or(0);
            let mut open: BTreeMap<&Kind, u64> = slot.cursors.iter().map(|(kind, cursor)| (kind, *cursor)).collect();
            for entry in self.store.since(first).unwrap() {
                let kind = entry.change.object().kind();
                if open.get(&kind).is_some_and(|cursor| entry.version > *cursor) {
                    open.remove(&kind);
                    deliverable.push((index, Some((kind, entry.version, entry.change.clone()))));
                }
            }
            // A watch with nothing to tell moves on, so that the next look is short.
            idle.push((index, open.into_keys().cloned().collect::<Vec<_>>()));
        }
        let version = self.store.version();
        for (index, kinds) in idle {
            for kind in kinds {
                self.slots[index].cursors.insert(kind, version);
            }
        }
        let nodes: Vec<String> = self.mounted.keys().cloned().collect();
        let busy: Vec<String> = nodes.into_iter().filter(|node| self.kubelet(node, false)).collect();
        let choices = deliverable.len() + self.pending.len() + self.answers.len() + busy.len();
        if choices == 0 {
            let next = self
                .timers
                .iter()
                .filter(|((_, timer), _)| timer.purpose != Purpose::Resync)
                .min_by_key(|(key, at)| (**at, (*key).clone()));
            let Some((key, at)) = next.map(|(key, at)| (key.clone(), *at)) else { return false };
            self.now = at.max(self.now);
            self.timers.remove(&key);
            self.input(key.0, &Input::Fired(key.1));
            self.check();
            return true;
        }
        let mut choice = self.pick.pick(choices);
        if choice < deliverable.len() {
            let (index, event) = deliverable.swap_remove(choice);
            match event {
                None => self.boot(index),
                Some((kind, version, change)) => {
                    self.slots[index].cursors.insert(kind, version);
                    self.input(index, &Input::Changed(change));
                }
            }
        } else {
            choice -= deliverable.len();
            if choice < self.pending.len() {
                let (index, effect) = self.pending.remove(choice);
                self.perform(index, effect);
            } else if choice - self.pending.len() < self.answers.len() {
                let (index, answer) = self.answers.remove(choice - self.pending.len());
                self.input(index, &answer);
            } else {
                let node = busy[choice - self.pending.len() - self.answers.len()].clone();
                self.kubelet(&node, true);
            }
        }
        self.check();
        true
    }

    /// Until nothing moves; a world that never rests is a hot loop.
    pub fn settle(&mut self) {
        let mut spoken = self.now;
        for _ in 0..20_000 {
            // A kubelet writes its status every five minutes, whatever happens (`nodeStatusReportFrequency`).
            if self.now.duration_since(spoken) > SignedDuration::from_mins(5) {
                self.nodes_speak();
                spoken = self.now;
            }
            if !self.step() {
                return;
            }
        }
        panic!("no rest after 20000 steps; pending {:?}", self.pending.first());
    }

    /// Fires the periodic timers once, and has each kubelet say that it is there: a controller that has just started takes a volume for
    /// in use until the node's next status. Then rests.
    pub fn resync(&mut self) {
        let periodic: Vec<_> = self.timers.keys().filter(|(_, timer)| timer.purpose == Purpose::Resync).cloned().collect();
        self.now += Duration::from_secs(15);
        for key in periodic {
            self.timers.remove(&key);
            self.input(key.0, &Input::Fired(key.1));
        }
        self.nodes_speak();
        self.settle();
    }

    /// Each kubelet that lives writes its status.
    fn nodes_speak(&mut self) {
        let nodes = self.store.all(&Kind::Node).filter_map(|(_, object)| Some((**object.get::<Node>()?).clone()));
        let nodes: Vec<Node> = nodes.filter(|node| !self.dead.contains(name(&node.metadata))).collect();
        for mut node in nodes {
            let conditions = node.status.as_mut().and_then(|status| status.conditions.as_mut());
            conditions.into_iter().flatten().for_each(|condition| condition.last_heartbeat_time = Some(Time(self.now)));
            self.write(&Write::update_status(node)).expect("the node is there");
        }
    }

    pub fn said(&self, reason: &str) -> Vec<&str> {
        self.events.iter().filter(|event| event.reason == reason).map(|event| event.message.as_str()).collect()
    }

    pub fn json(&self, kind: Kind, namespace: &str, name: &str) -> Value {
        self.store.object(&Key::new(kind, namespace, name)).map_or(Value::Null, |object| object.to_json().unwrap())
    }
}
