//! The handshake of §2.5, explored: two nodes, two pods on one ReadWriteOnce volume, watches that lag kind by kind, a crash of the
//! controller at any point. Never is a volume mounted on a node to which it is not attached.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use stateright::{Checker, Model, Property};

use super::super::AttachDetach;
use crate::machine::{Effect, Input, Purpose, Timer};
use crate::object::{Change, Key, Kind, Object};
use crate::store::{self, Store};
use crate::testing::{claim, object, pod, volume};
use crate::write::{ApiError, Patch, Propagation, Subresource, Write};

const UNIQUE: &str = "kubernetes.io/csi/ebs.csi.aws.com^vol-1";
const NODES: [&str; 2] = ["node-a", "node-b"];
const KINDS: [Kind; 6] =
    [Kind::Node, Kind::Pod, Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::VolumeAttachment, Kind::CSIDriver];

#[derive(Debug, Clone)]
struct State {
    machine: AttachDetach,
    store: Store,
    cursors: BTreeMap<Kind, u64>,
    effects: Vec<Effect>,
    retries: BTreeSet<Key>,
    attached: BTreeSet<&'static str>,
    mounted: BTreeSet<&'static str>,
    crashes: u8,
    canon: String,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.canon == other.canon
    }
}

impl Eq for State {}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.canon.hash(hasher);
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Act {
    Deliver(Kind),
    Perform(usize),
    Retry(Key),
    /// The attacher with EC2, or the kubelet of the node.
    Around(&'static str, Do),
    DeleteFirst,
    Crash,
}

/// A step of what is around the controller.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Do {
    InUse(bool),
    Mount,
    Unmount,
    Finalizer,
    Attach,
    Detach,
}

struct Handshake;

fn write(store: &mut Store, write: &Write) -> Result<Object, ApiError> {
    let mut out = Vec::new();
    store.step(Timestamp::UNIX_EPOCH, write, &mut out)?;
    let reply = out.into_iter().find_map(|effect| match effect {
        store::Effect::Reply { object, .. } => Some(object),
        store::Effect::Changed(_) | store::Effect::Warning(_) => None,
    });
    reply.ok_or_else(|| ApiError::internal("no reply"))
}

/// What of an object the machine looks at.
fn projected(object: &Object) -> String {
    match object {
        Object::Node(node) => {
            let status = node.status.clone().unwrap_or_default();
            let attached: Vec<_> = status.volumes_attached.iter().flatten().map(|volume| &volume.name).collect();
            format!("{:?} {attached:?} {:?}", node.metadata.name, status.volumes_in_use)
        }
        Object::VolumeAttachment(attachment) => format!(
            "{} {} {}",
            attachment.spec.node_name,
            attachment.metadata.deletion_timestamp.is_some(),
            attachment.status.as_ref().is_some_and(|status| status.attached)
        ),
        other => format!("{:?}", other.key().name),
    }
}

impl State {
    fn input(&mut self, input: &Input) {
        let mut out = Vec::new();
        self.machine.step(input, &mut out).unwrap();
        for effect in out {
            match effect {
                Effect::Arm(Timer { purpose: Purpose::Retry, item }, _) => {
                    self.retries.insert(item);
                }
                Effect::Disarm(Timer { purpose: Purpose::Retry, item }) => {
                    self.retries.remove(&item);
                }
                // 6 m and 2 m never pass here: the nodes are healthy and nothing hangs.
                Effect::Arm(..) | Effect::Disarm(_) | Effect::Record(_) | Effect::Csi { .. } | Effect::List { .. } => {}
                Effect::Write { .. } | Effect::Get { .. } => self.effects.push(effect),
            }
        }
    }

    fn boot(&mut self) {
        self.machine = AttachDetach::default();
        self.effects.clear();
        self.retries.clear();
        for kind in KINDS {
            self.cursors.insert(kind.clone(), self.store.version());
            let objects: Vec<Object> = self.store.all(&kind).map(|(_, object)| object.clone()).collect();
            for object in objects {
                self.input(&Input::Changed(Change::Added(object)));
            }
        }
        self.input(&Input::Booted);
    }

    fn next_event(&self, kind: &Kind) -> Option<(u64, Change)> {
        let cursor = self.cursors.get(kind).copied().unwrap_or(0);
        let mut events = self.store.since(cursor).unwrap().filter(|entry| entry.change.object().kind() == *kind);
        events.next().map(|entry| (entry.version, entry.change.clone()))
    }

    /// What the kubelet of a node does next.
    fn kubelet(&self, name: &'static str) -> Option<Do> {
        let status = self.store.get::<Node>("", name)?.status.clone().unwrap_or_default();
        let in_use = status.volumes_in_use.is_some_and(|volumes| volumes.iter().any(|volume| volume == UNIQUE));
        let attached = status.volumes_attached.is_some_and(|volumes| volumes.iter().any(|volume| volume.name == UNIQUE));
        let needed = self.store.pods_on(name).next().is_some();
        match (needed, self.mounted.contains(name), in_use) {
            (true, false, false) => Some(Do::InUse(true)),
            (false, false, true) => Some(Do::InUse(false)),
            (true, false, true) if attached => Some(Do::Mount),
            (false, true, _) => Some(Do::Unmount),
            _ => None,
        }
    }

    fn attachment(&self, node: &str) -> Option<VolumeAttachment> {
        self.store.list::<VolumeAttachment>().find(|attachment| attachment.spec.node_name == node).map(|found| (**found).clone())
    }

    /// What the attacher, with EC2, does next for a node.
    fn attacher(&self, node: &'static str) -> Option<Do> {
        let attachment = self.attachment(node)?;
        let held = attachment.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if attachment.metadata.deletion_timestamp.is_some() {
            return Some(Do::Detach);
        }
        if !held {
            return Some(Do::Finalizer);
        }
        let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        // EC2 refuses a volume that is attached elsewhere; the attacher tries until it is free.
        (!attached && self.attached.iter().all(|other| *other == node)).then_some(Do::Attach)
    }

    fn perform(&mut self, node: &'static str, what: Do) {
        let attachment = self.attachment(node);
        let change = match (what, attachment) {
            (Do::Mount, _) => {
                self.mounted.insert(node);
                return;
            }
            (Do::Unmount, _) => {
                self.mounted.remove(node);
                return;
            }
            (Do::InUse(is), _) => {
                let volumes: &[&str] = if is { &[UNIQUE] } else { &[] };
                let patch = Patch::Merge(json!({"status": {"volumesInUse": volumes}}));
                Write::Patch { key: Key::new(Kind::Node, "", node), patch, subresource: Subresource::Status }
            }
            (Do::Detach, Some(mut attachment)) => {
                self.attached.remove(node);
                attachment.metadata.finalizers = None;
                Write::update(attachment)
            }
            (Do::Finalizer, Some(mut attachment)) => {
                attachment.metadata.finalizers = Some(vec!["external-attacher/ebs-csi-aws-com".into()]);
                Write::update(attachment)
            }
            (Do::Attach, Some(mut attachment)) => {
                self.attached.insert(node);
                attachment.status.get_or_insert_default().attached = true;
                Write::update_status(attachment)
            }
            (Do::Detach | Do::Finalizer | Do::Attach, None) => return,
        };
        write(&mut self.store, &change).unwrap();
    }

    fn finish(mut self) -> Self {
        let mut canon = format!("{:?}|{:?}|{:?}|{:?}|", self.attached, self.mounted, self.crashes, self.retries);
        for kind in [Kind::Node, Kind::Pod, Kind::VolumeAttachment] {
            for (_, object) in self.store.all(&kind) {
                canon.push_str(&projected(object));
            }
            canon.push('>');
            let cursor = self.cursors.get(&kind).copied().unwrap_or(0);
            for entry in self.store.since(cursor).unwrap().filter(|entry| entry.change.object().kind() == kind) {
                canon.push_str(&projected(entry.change.object()));
            }
            for key in self.machine.cache.keys(&kind) {
                canon.push_str(&self.machine.cache.object(&key).map(projected).unwrap_or_default());
            }
            canon.push('|');
        }
        let machine = &self.machine;
        canon.push_str(&format!("{:?}{:?}{:?}", machine.have, machine.wanted.keys(), machine.in_use));
        for effect in &self.effects {
            match effect {
                Effect::Write { write: Write::Patch { patch, key, .. }, .. } => canon.push_str(&format!("P{}{patch:?}", key.name)),
                Effect::Write { write, .. } => canon.push_str(&format!("W{}{}", write.key().name, matches!(write, Write::Create { .. }))),
                Effect::Get { key, .. } => canon.push_str(&format!("G{}", key.name)),
                _ => {}
            }
        }
        self.canon = canon;
        self
    }
}

impl Model for Handshake {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let mut store = Store::new(1);
        store.bootstrap(Timestamp::UNIX_EPOCH, &mut Vec::new()).unwrap();
        for name in NODES {
            write(
                &mut store,
                &Write::create(object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
                    "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}}))),
            )
            .unwrap();
            let ready = Patch::Merge(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
            write(&mut store, &Write::Patch { key: Key::new(Kind::Node, "", name), patch: ready, subresource: Subresource::Status })
                .unwrap();
        }
        let made = write(&mut store, &Write::create(object(claim("ebs-claim", "", "ReadWriteOnce", "1Gi")))).unwrap();
        let mut bound = volume("test-pv", "vol-1", "1Gi");
        bound["spec"]["claimRef"] =
            json!({"kind": "PersistentVolumeClaim", "namespace": "default", "name": "ebs-claim", "uid": made.uid()});
        write(&mut store, &Write::create(object(bound))).unwrap();
        let key = made.key();
        write(&mut store, &Write::merge(key.clone(), json!({"spec": {"volumeName": "test-pv"}}))).unwrap();
        let patch = Patch::Merge(json!({"status": {"phase": "Bound"}}));
        write(&mut store, &Write::Patch { key, patch, subresource: Subresource::Status }).unwrap();
        for (name, node) in [("first", NODES[0]), ("second", NODES[1])] {
            let mut pod = pod(name, "ebs-claim");
            pod["spec"]["nodeName"] = json!(node);
            write(&mut store, &Write::create(object(pod))).unwrap();
        }
        let mut state = State {
            machine: AttachDetach::default(),
            store,
            cursors: BTreeMap::new(),
            effects: Vec::new(),
            retries: BTreeSet::new(),
            attached: BTreeSet::new(),
            mounted: BTreeSet::new(),
            crashes: 0,
            canon: String::new(),
        };
        state.boot();
        vec![state.finish()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Act>) {
        actions.extend(KINDS.iter().filter(|kind| state.next_event(kind).is_some()).cloned().map(Act::Deliver));
        actions.extend((0..state.effects.len()).map(Act::Perform));
        actions.extend(state.retries.iter().cloned().map(Act::Retry));
        for node in NODES {
            actions.extend([state.attacher(node), state.kubelet(node)].into_iter().flatten().map(|what| Act::Around(node, what)));
        }
        if state.store.get::<Pod>("default", "first").is_some() {
            actions.push(Act::DeleteFirst);
        }
        if state.crashes == 0 {
            actions.push(Act::Crash);
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        let mut state = last.clone();
        match act {
            Act::Deliver(kind) => {
                let (version, change) = state.next_event(&kind)?;
                state.cursors.insert(kind, version);
                state.input(&Input::Changed(change));
            }
            Act::Perform(index) => match state.effects.remove(index) {
                Effect::Write { call, write: wanted } => {
                    let result = write(&mut state.store, &wanted);
                    state.input(&Input::Written { call, result });
                }
                Effect::Get { call, key } => {
                    let found = state.store.object(&key).cloned();
                    let result = found.ok_or_else(|| ApiError::not_found(&key.kind, &key.name));
                    state.input(&Input::Written { call, result });
                }
                _ => return None,
            },
            Act::Retry(item) => {
                state.retries.remove(&item);
                state.input(&Input::Fired(Timer { purpose: Purpose::Retry, item }));
            }
            Act::Around(node, what) => state.perform(node, what),
            Act::DeleteFirst => {
                let key = Key::new(Kind::Pod, "default", "first");
                let delete =
                    Write::Delete { key, uid: None, resource_version: None, grace_seconds: Some(0), propagation: Propagation::Background };
                write(&mut state.store, &delete).ok()?;
            }
            Act::Crash => {
                state.crashes += 1;
                state.boot();
            }
        }
        Some(state.finish())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never mounted while detached", |_, state: &State| state.mounted.is_subset(&state.attached)),
            Property::always("one node at a time", |_, state: &State| state.attached.len() <= 1),
            Property::sometimes("the second pod gets the volume after the first", |_, state: &State| {
                state.mounted.contains(NODES[1]) && state.store.get::<Pod>("default", "first").is_none()
            }),
        ]
    }
}

#[test]
fn never_mounted_while_detached() {
    let checker = Handshake.checker().threads(2).target_state_count(24_000).spawn_bfs().join();
    println!("{} states, {} unique, depth {}", checker.state_count(), checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}
