//! One controller alone with the store: others write what they like, its watches lag, its calls end in every way or not at all, its
//! timers run out in any order, and it dies at any point. Whatever happens it does not panic, has one call in flight for an object,
//! breaks none of its own rules, and rests once it is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use model_common::csi::{Code, ControllerCall, ControllerReply, Error, Volume};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::object;
use crate::controllers::Controller;
use crate::machine::{Cache, Effect, Input, Purpose, Reject, Timer};
use crate::object::{Change, Key, Kind, Object, Typed};
use crate::store::Store;
use crate::write::{ApiError, Patch, Propagation, Subresource, Write};

pub mod pods;

/// Something that others do.
pub type Deed = Box<dyn Fn(&mut Alone)>;

/// A machine and what is around it.
pub struct Scene {
    pub make: fn() -> Controller,
    /// Done first, and told to the booted machine: random steps seldom build a world in which much can go wrong.
    pub prepared: Vec<Deed>,
    /// What others do again and again while all comes to rest.
    pub others: Vec<Deed>,
    pub deeds: Vec<Deed>,
    /// What must hold of each effect, by what the machine has been told so far.
    pub rule: fn(&Alone, &Effect),
    /// What must hold once it was left alone.
    pub rest: fn(&Alone),
}

/// One step of a run. Numbers choose among what there is.
#[derive(Debug, Clone)]
pub enum Move {
    Deed(usize),
    /// The next event of a watch, or the list of a kind that was not listed yet.
    Tell(usize),
    /// A call is carried out, and its answer is on the way.
    Perform(usize),
    Answer(usize, Outcome),
    Fire(usize),
    /// A second answer to a call, or a timer that is not armed.
    Stale(usize),
    Boot,
    /// All is forgotten; what was in flight happens or not.
    Crash(bool),
}

#[derive(Debug, Clone)]
pub enum Outcome {
    Fine,
    /// Carried out, and the caller is told of an error.
    Lost,
    Refused(usize),
}

pub fn moves() -> impl Strategy<Value = Vec<Move>> {
    let outcome = prop_oneof![
        5 => Just(Outcome::Fine),
        1 => Just(Outcome::Lost),
        2 => (0..1024_usize).prop_map(Outcome::Refused),
    ];
    let one = prop_oneof![
        8 => (0..1024_usize).prop_map(Move::Deed),
        12 => (0..1024_usize).prop_map(Move::Tell),
        2 => (0..1024_usize).prop_map(Move::Perform),
        10 => (0..1024_usize, outcome).prop_map(|(n, outcome)| Move::Answer(n, outcome)),
        3 => (0..1024_usize).prop_map(Move::Fire),
        1 => (0..1024_usize).prop_map(Move::Stale),
        3 => Just(Move::Boot),
        1 => any::<bool>().prop_map(Move::Crash),
    ];
    prop::collection::vec(one, 0..140)
}

/// A part of the usual 256, which `PROPTEST_CASES` changes.
pub fn config() -> ProptestConfig {
    ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() }
}

/// A call in flight; with its answer, when it was carried out.
type Flying = (Effect, Option<Input>);

pub struct Alone {
    pub machine: Controller,
    pub store: Store,
    now: Timestamp,
    booted: bool,
    /// How far each watch has come; none: not listed yet.
    cursors: BTreeMap<Kind, Option<u64>>,
    pub flying: BTreeMap<u64, Flying>,
    answered: Vec<u64>,
    pub armed: BTreeSet<Timer>,
    /// Timers that ran out and were not armed again.
    pub fired: BTreeSet<Timer>,
    /// What the machine has been told.
    pub told: Cache,
    /// What the last live read of an object showed.
    pub read: BTreeMap<Key, Option<Object>>,
    /// What the last live list showed.
    pub listed: Option<Vec<Object>>,
    /// The driver's volumes with their sizes.
    pub volumes: BTreeMap<String, u64>,
    /// Volumes and nodes as the driver has them.
    pub attached: BTreeSet<(String, String)>,
    pub snapshots: super::snapshots::Snapshots,
    /// The parameters that volumes were modified to.
    pub modified: BTreeMap<String, BTreeMap<String, String>>,
}

impl Scene {
    pub fn run(&self, moves: &[Move]) {
        let machine = (self.make)();
        let mut alone = Alone {
            cursors: machine.kinds().into_iter().map(|kind| (kind, None)).collect(),
            machine,
            store: Store::new(7),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            booted: false,
            flying: BTreeMap::new(),
            answered: Vec::new(),
            armed: BTreeSet::new(),
            fired: BTreeSet::new(),
            told: Cache::default(),
            read: BTreeMap::new(),
            listed: None,
            volumes: BTreeMap::new(),
            attached: BTreeSet::new(),
            snapshots: super::snapshots::Snapshots::default(),
            modified: BTreeMap::new(),
        };
        alone.store.bootstrap(alone.now, &mut Vec::new()).unwrap();
        for definition in crate::snapshots::definitions() {
            alone.write(&Write::create(definition)).unwrap();
        }
        if !self.prepared.is_empty() {
            self.prepared.iter().for_each(|deed| deed(&mut alone));
            self.go(&mut alone, &Move::Boot);
            while alone.cursors.keys().any(|kind| !alone.news(kind).is_empty()) {
                self.go(&mut alone, &Move::Tell(0));
            }
        }
        for one in moves {
            self.go(&mut alone, one);
        }
        self.settle(&mut alone);
        (self.rest)(&alone);
    }

    fn go(&self, alone: &mut Alone, one: &Move) {
        match one {
            Move::Deed(n) => self.deeds[n % self.deeds.len()](alone),
            Move::Tell(n) => {
                let kinds: Vec<Kind> = alone.cursors.keys().filter(|kind| !alone.news(kind).is_empty()).cloned().collect();
                let Some(kind) = (!kinds.is_empty()).then(|| &kinds[n % kinds.len()]) else { return };
                let mut news = alone.news(kind);
                let is_list = alone.cursors[kind].is_none();
                let version = if is_list { alone.store.version() } else { news[0].1 };
                alone.cursors.insert(kind.clone(), Some(version));
                news.truncate(if is_list { usize::MAX } else { 1 });
                for (change, _) in news {
                    alone.told.apply(&change);
                    self.input(alone, &Input::Changed(change));
                }
            }
            Move::Perform(n) => {
                let Some(call) = alone.call(*n) else { return };
                let (effect, answer) = alone.flying[&call].clone();
                let answer = answer.unwrap_or_else(|| alone.perform(call, &effect));
                alone.flying.insert(call, (effect, Some(answer)));
            }
            Move::Answer(n, outcome) => {
                let Some(call) = alone.call(*n) else { return };
                let (effect, known) = alone.flying.remove(&call).unwrap();
                let carried_out = known.is_some();
                let answer = match outcome {
                    Outcome::Refused(which) if !carried_out => refusal(call, &effect, *which),
                    _ => {
                        let answer = known.unwrap_or_else(|| alone.perform(call, &effect));
                        if matches!(outcome, Outcome::Lost) { lost(call, &effect) } else { answer }
                    }
                };
                alone.answered.push(call);
                if let Input::Listed { result: Ok(objects), .. } = &answer {
                    alone.listed = Some(objects.clone());
                }
                if let Input::Written { result, .. } = &answer {
                    if let Ok(object) = result {
                        alone.told.answered(object, matches!(effect, Effect::Write { write: Write::Delete { .. }, .. }));
                    }
                    match &effect {
                        Effect::Get { key, .. } if result.as_ref().is_ok() => alone.read.insert(key.clone(), result.clone().ok()),
                        Effect::Get { key, .. } if result.as_ref().is_err_and(ApiError::is_not_found) => {
                            alone.read.insert(key.clone(), None)
                        }
                        _ => None,
                    };
                }
                self.input(alone, &answer);
            }
            Move::Fire(n) => {
                let Some(timer) = alone.armed.iter().nth(n % alone.armed.len().max(1)).cloned() else { return };
                self.fire(alone, timer);
            }
            Move::Stale(n) => {
                if let Some(call) = (n % 2 == 0).then(|| alone.answered.get(n % alone.answered.len().max(1))).flatten() {
                    let before = format!("{:?}", alone.machine);
                    let input = match n % 6 {
                        0 => Input::Written { call: *call, result: Err(ApiError::internal("late")) },
                        4 => Input::Listed { call: *call, result: Ok(Vec::new()) },
                        _ => Input::Csi { call: *call, result: Ok(ControllerReply::DeleteVolume) },
                    };
                    let mut out = Vec::new();
                    assert_eq!(alone.machine.step(&input, &mut out), Err(Reject::UnknownCall { call: *call }));
                    assert!(out.is_empty() && before == format!("{:?}", alone.machine), "a rejected input changed something");
                    return;
                }
                // A timer of an earlier time: harmless where it says nothing but "look again".
                let items: Vec<Key> = alone.cursors.keys().flat_map(|kind| alone.told.keys(kind)).collect();
                let item = items.get(n % items.len().max(1)).cloned().unwrap_or_else(|| Key::new(Kind::Pod, "default", "nobody"));
                let purpose = [Purpose::Retry, Purpose::Resync, Purpose::Deadline][n % 3];
                self.input(alone, &Input::Fired(Timer { purpose, item }));
            }
            Move::Boot if !alone.booted => {
                alone.booted = true;
                // Kinds that were not listed yet: their watches tell all that ever happened, in order.
                alone.cursors.values_mut().for_each(|cursor| {
                    cursor.get_or_insert(0);
                });
                self.input(alone, &Input::Booted);
            }
            Move::Boot => {}
            Move::Crash(done) => {
                for (call, (effect, answer)) in std::mem::take(&mut alone.flying) {
                    if *done && answer.is_none() {
                        alone.perform(call, &effect);
                    }
                }
                alone.machine = (self.make)();
                alone.booted = false;
                alone.cursors.values_mut().for_each(|cursor| *cursor = None);
                alone.answered.clear();
                alone.armed.clear();
                alone.fired.clear();
                alone.read.clear();
                alone.listed = None;
                alone.told = Cache::default();
            }
        }
    }

    fn fire(&self, alone: &mut Alone, timer: Timer) {
        alone.armed.remove(&timer);
        alone.fired.insert(timer.clone());
        self.input(alone, &Input::Fired(timer));
    }

    fn input(&self, alone: &mut Alone, input: &Input) {
        let mut out = Vec::new();
        alone.machine.step(input, &mut out).unwrap();
        for effect in out {
            assert!(alone.booted || matches!(effect, Effect::Arm(..) | Effect::Disarm(_) | Effect::Record(_)), "acts before it is booted");
            (self.rule)(alone, &effect);
            match &effect {
                Effect::Write { call, .. } | Effect::Get { call, .. } | Effect::List { call, .. } | Effect::Csi { call, .. } => {
                    let other = alone.flying.values().find(|(other, _)| target(other) == target(&effect));
                    assert!(other.is_none(), "two calls in flight for one object: {other:?} and {effect:?}");
                    assert!(!alone.flying.contains_key(call), "call {call} twice");
                    alone.flying.insert(*call, (effect, None));
                }
                Effect::Arm(timer, _) => {
                    alone.fired.remove(timer);
                    alone.armed.insert(timer.clone());
                }
                Effect::Disarm(timer) => {
                    alone.fired.remove(timer);
                    alone.armed.remove(timer);
                }
                Effect::Record(_) => {}
            }
        }
    }

    /// Everything is told and answered well, and each timer runs out, three times over; in between it must come to rest.
    fn settle(&self, alone: &mut Alone) {
        self.go(alone, &Move::Boot);
        for _ in 0..4 {
            self.quiet(alone);
            for timer in alone.armed.clone() {
                if alone.armed.contains(&timer) {
                    alone.now += Duration::from_secs(1);
                    self.fire(alone, timer);
                }
            }
        }
        self.quiet(alone);
    }

    fn quiet(&self, alone: &mut Alone) {
        let mut steps = 0;
        loop {
            self.others.iter().for_each(|deed| deed(alone));
            if alone.flying.is_empty() && alone.cursors.keys().all(|kind| alone.news(kind).is_empty()) {
                return;
            }
            while !alone.flying.is_empty() || alone.cursors.keys().any(|kind| !alone.news(kind).is_empty()) {
                // Each watch in its turn: one that always has news must not hold up the others.
                self.go(alone, &Move::Tell(steps));
                self.go(alone, &Move::Answer(0, Outcome::Fine));
                steps += 1;
                assert!(steps < 1000, "no rest: {:?}", alone.flying);
            }
        }
    }
}

impl Alone {
    fn call(&self, n: usize) -> Option<u64> {
        self.flying.keys().nth(n % self.flying.len().max(1)).copied()
    }

    /// What a watch has not told yet, with versions.
    fn news(&self, kind: &Kind) -> Vec<(Change, u64)> {
        match self.cursors[kind] {
            None => self.store.all(kind).map(|(_, object)| (Change::Added(object.clone()), 0)).collect(),
            Some(cursor) => self
                .store
                .since(cursor)
                .unwrap()
                .filter(|entry| entry.change.object().kind() == *kind)
                .map(|entry| (entry.change.clone(), entry.version))
                .collect(),
        }
    }

    pub fn write(&mut self, write: &Write) -> Result<Object, ApiError> {
        super::commit(&mut self.store, self.now, write)
    }

    fn perform(&mut self, call: u64, effect: &Effect) -> Input {
        match effect {
            Effect::Write { write, .. } => Input::Written { call, result: self.write(write) },
            Effect::Get { key, .. } => {
                let found = self.store.object(key).cloned();
                Input::Written { call, result: found.ok_or_else(|| ApiError::not_found(&key.kind, &key.name)) }
            }
            Effect::List { kind, namespace, .. } => Input::Listed { call, result: Ok(super::list(&self.store, kind, namespace)) },
            Effect::Csi { request, .. } => Input::Csi { call, result: self.drive(request) },
            Effect::Arm(..) | Effect::Disarm(_) | Effect::Record(_) => unreachable!("not a call"),
        }
    }

    fn drive(&mut self, request: &ControllerCall) -> Result<ControllerReply, Error> {
        match request {
            ControllerCall::CreateVolume { name, capacity, content_source, .. } => {
                let volume_id = format!("vol-{name}");
                self.volumes.insert(volume_id.clone(), capacity.required_bytes);
                let (capacity_bytes, content_source) = (capacity.required_bytes, content_source.clone());
                Ok(ControllerReply::CreateVolume(Volume { volume_id, capacity_bytes, content_source, ..Volume::default() }))
            }
            ControllerCall::DeleteVolume { volume_id } => {
                self.volumes.remove(volume_id);
                Ok(ControllerReply::DeleteVolume)
            }
            ControllerCall::ControllerPublishVolume { volume_id, node_id, .. } => {
                self.attached.insert((volume_id.clone(), node_id.clone()));
                Ok(ControllerReply::ControllerPublishVolume { publish_context: BTreeMap::new() })
            }
            ControllerCall::ControllerUnpublishVolume { volume_id, node_id } => {
                self.attached.remove(&(volume_id.clone(), node_id.clone()));
                Ok(ControllerReply::ControllerUnpublishVolume)
            }
            ControllerCall::ControllerExpandVolume { volume_id, capacity, .. } => {
                self.volumes.insert(volume_id.clone(), capacity.required_bytes);
                Ok(ControllerReply::ControllerExpandVolume { capacity_bytes: capacity.required_bytes, node_expansion_required: true })
            }
            ControllerCall::ControllerModifyVolume { volume_id, mutable_parameters } => {
                self.modified.insert(volume_id.clone(), mutable_parameters.clone());
                Ok(ControllerReply::ControllerModifyVolume)
            }
            other => self.snapshots.drive(other).unwrap_or_else(|| Err(Error::new(Code::Unimplemented, format!("{other:?}")))),
        }
    }

    /// Changes what is there of an object, its status too.
    pub fn amend(&mut self, key: &Key, change: &Value) {
        for subresource in [Subresource::None, Subresource::Status] {
            let _ = self.write(&Write::Patch { key: key.clone(), patch: Patch::Merge(change.clone()), subresource });
        }
    }

    /// Creates the object, or changes it to what is given.
    pub fn put(&mut self, given: &Value) {
        let new = object(given.clone());
        let key = new.key();
        let made = self.write(&Write::create(new));
        // Only a part of an object is a change of one that is there.
        let whole = given.get("apiVersion").is_some();
        assert!(!whole || self.store.object(&key).is_some(), "cannot be made: {made:?}");
        for subresource in [Subresource::None, Subresource::Status] {
            let _ = self.write(&Write::Patch { key: key.clone(), patch: Patch::Merge(given.clone()), subresource });
        }
    }
}

/// What a call changes or asks about.
fn target(effect: &Effect) -> String {
    match effect {
        // Of a create that leaves the name to the server only the prefix is known.
        Effect::Write { write: Write::Create { object }, .. } => {
            format!(
                "{:?} {:?}",
                object.key(),
                object.metadata().generate_name.as_deref().filter(|_| object.metadata().name.is_none()).unwrap_or("")
            )
        }
        Effect::Write { write, .. } => format!("{:?} \"\"", write.key()),
        Effect::Get { key, .. } => format!("{key:?} \"\""),
        // As many as there are claims may be under way: what they ask about is not theirs alone.
        Effect::List { call, kind, namespace } => format!("list {call} {kind:?} {namespace}"),
        Effect::Csi { request, .. } => match request {
            ControllerCall::CreateVolume { name, .. } => format!("create {name}"),
            ControllerCall::ControllerPublishVolume { volume_id, node_id, .. }
            | ControllerCall::ControllerUnpublishVolume { volume_id, node_id } => format!("{volume_id} on {node_id}"),
            ControllerCall::DeleteVolume { volume_id } | ControllerCall::ControllerExpandVolume { volume_id, .. } => volume_id.clone(),
            ControllerCall::CreateSnapshot { name, .. } => format!("snapshot {name}"),
            ControllerCall::ControllerModifyVolume { volume_id, .. } => format!("modify {volume_id}"),
            other => format!("{other:?}"),
        },
        Effect::Arm(..) | Effect::Disarm(_) | Effect::Record(_) => String::new(),
    }
}

fn lost(call: u64, effect: &Effect) -> Input {
    match effect {
        Effect::Csi { .. } => Input::Csi { call, result: Err(Error::new(Code::DeadlineExceeded, "lost")) },
        Effect::List { .. } => Input::Listed { call, result: Err(ApiError::internal("lost")) },
        _ => Input::Written { call, result: Err(ApiError::internal("lost")) },
    }
}

fn refusal(call: u64, effect: &Effect, which: usize) -> Input {
    let codes = [
        Code::Aborted,
        Code::Internal,
        Code::NotFound,
        Code::InvalidArgument,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::OutOfRange,
        Code::Unavailable,
    ];
    match effect {
        // Now and then an answer to another question.
        Effect::Csi { .. } if which % 9 == 8 => {
            Input::Csi { call, result: Ok(ControllerReply::ValidateVolumeCapabilities { confirmed: true, message: String::new() }) }
        }
        Effect::Csi { .. } => Input::Csi { call, result: Err(Error::new(codes[which % codes.len()], "refused")) },
        Effect::Write { write, .. } => {
            let Key { kind, name, .. } = write.key();
            let error = match which % 5 {
                0 => ApiError::stale(&kind, &name),
                1 => ApiError::not_found(&kind, &name),
                2 => ApiError::already_exists(&kind, &name),
                3 => ApiError::forbidden(&kind, &name, "refused"),
                _ => ApiError::internal("refused"),
            };
            Input::Written { call, result: Err(error) }
        }
        Effect::List { .. } => Input::Listed { call, result: Err(ApiError::internal("refused")) },
        _ => Input::Written { call, result: Err(ApiError::internal("refused")) },
    }
}

/// The object as it is given: made, or changed to that.
pub fn put(given: Value) -> Deed {
    Box::new(move |alone| alone.put(&given))
}

/// A delete as a user asks for it: finalizers and graces hold.
pub fn delete(kind: Kind, namespace: &str, name: &str) -> Deed {
    let key = Key::new(kind, namespace, name);
    Box::new(move |alone| {
        let _ = alone.write(&Write::delete(key.clone()));
    })
}

/// The object goes at once, whatever holds it.
pub fn gone(kind: Kind, namespace: &str, name: &str) -> Deed {
    let key = Key::new(kind, namespace, name);
    Box::new(move |alone| {
        let _ = alone.write(&Write::merge(key.clone(), json!({"metadata": {"finalizers": null}})));
        let write = Write::Delete {
            key: key.clone(),
            uid: None,
            resource_version: None,
            grace_seconds: Some(0),
            propagation: Propagation::Background,
        };
        let _ = alone.write(&write);
    })
}

/// What the PV controller does: claim and volume are each other's.
pub fn bind(claim: &'static str, volume: &'static str) -> Deed {
    Box::new(move |alone| {
        let Some(found) = alone.store.get::<PersistentVolumeClaim>("default", claim).cloned() else { return };
        let Some(pv) = alone.store.get::<PersistentVolume>("", volume) else { return };
        let taken = pv.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
        let named = found.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
        if taken || named {
            return;
        }
        let reference = json!({"kind": "PersistentVolumeClaim", "namespace": "default", "name": claim, "uid": found.metadata.uid});
        alone.put(&json!({"kind": "PersistentVolume", "metadata": {"name": volume}, "spec": {"claimRef": reference}, "status": {"phase": "Bound"}}));
        alone.put(&json!({"kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": "default", "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": volume}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}));
    })
}

/// A node in zone `us-east-1<last letter>`, ready or not.
pub fn node(name: &str, ready: &str) -> Value {
    let zone = format!("us-east-1{}", &name[name.len() - 1..]);
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {
            "name": name,
            "labels": {"topology.ebs.csi.aws.com/zone": zone, "topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name},
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

/// The object of a key, as the machine knows it.
pub fn told<T: Typed>(alone: &Alone, key: &Key) -> Option<std::sync::Arc<T>> {
    alone.told.at::<T>(key).cloned()
}
