//! csi-snapshotter for one driver (§1.10): makes the snapshot that a VolumeSnapshotContent asks for, looks after it until it can be
//! used, and deletes it when its content goes and its policy says so.
//!
//! ```text
//!  volumeHandle, no status ─ annotation being-created ─CreateSnapshot▶ status, annotation off ─ not ready? ask again, ever slower
//!                                  ▲      └ Canceled, DeadlineExceeded, Unavailable, ResourceExhausted, Aborted: the annotation stays
//!  snapshotHandle ─ListSnapshots▶ status
//!  terminating, being-deleted, not being-created ─ policy Delete ─DeleteSnapshot▶ status empty ▶ drop finalizer
//!                                                └ policy Retain ▶ drop finalizer
//! ```

use std::collections::BTreeMap;

use model_common::csi::{Code, ControllerCall, ControllerReply, Error, Snapshot};
use serde_json::{Map, Value, json};

use super::{Driver, annotate, drop_finalizer, has_finalizer};
use crate::events::{EventRecord, EventType};
use crate::machine::{Backoff, Cache, Effect, Input, Queue, Reject};
use crate::object::{Change, Key, Kind, Object};
use crate::snapshots::{self, BEING_CREATED, BEING_DELETED, CONTENT_FINALIZER, Item};
use crate::write::Write;

/// Class parameters with this prefix are for the sidecar, not for the driver.
const PREFIX: &str = "csi.storage.k8s.io/";
/// Those that are known; all of them name secrets.
const SECRETS: [&str; 8] = [
    "snapshotter-secret-name",
    "snapshotter-secret-namespace",
    "snapshotter-list-secret-name",
    "snapshotter-list-secret-namespace",
    "group-snapshotter-secret-name",
    "group-snapshotter-secret-namespace",
    "group-snapshotter-get-secret-name",
    "group-snapshotter-get-secret-namespace",
];

/// What the driver is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Create,
    Look,
    Delete,
}

/// What the driver answered, until the API knows.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// The snapshot is there, maybe not ready.
    Made(Snapshot),
    /// It is not; `over`: nor is it still being made.
    Failed {
        why: String,
        over: bool,
    },
    Deleted,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Snapshotter {
    driver: Driver,
    component: String,
    cache: Cache,
    work: Queue,
    asked: BTreeMap<Key, Asked>,
    outcomes: BTreeMap<Key, Outcome>,
}

impl Snapshotter {
    pub fn new(driver: Driver) -> Self {
        let component = format!("csi-snapshotter {}", driver.name);
        Self { driver, component, cache: Cache::default(), work: Queue::default(), asked: BTreeMap::new(), outcomes: BTreeMap::new() }
    }

    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    fn backoff(&self) -> Backoff {
        Backoff { first: std::time::Duration::from_secs(1), longest: self.driver.longest_retry }
    }

    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                let key = change.object().key();
                let old = self.cache.object(&key).cloned();
                self.cache.apply(change);
                if key.kind == snapshots::contents() && concerns(old.as_ref(), change) {
                    self.work.mark(key);
                }
            }
            Input::Written { call, result } => {
                let backoff = self.backoff();
                self.work.answer_part(&mut self.cache, *call, result, backoff, out)?;
            }
            Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
            Input::Csi { call, result } => {
                let done = self.work.finish(*call)?;
                self.answered(&done.item, result, out);
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
        }
        while let Some(item) = self.work.take() {
            if item.kind == snapshots::contents() {
                self.sync(&item, out);
            }
        }
        Ok(())
    }

    fn answered(&mut self, item: &Key, result: &Result<ControllerReply, Error>, out: &mut Vec<Effect>) {
        let asked = self.asked.remove(item);
        let (Some(asked), Some(content)) = (asked, Item::at(&self.cache, item)) else { return };
        let error = match (asked, result) {
            (Asked::Create, Ok(ControllerReply::CreateSnapshot(made))) => return self.learnt(item, Outcome::Made(made.clone())),
            (Asked::Delete, Ok(ControllerReply::DeleteSnapshot)) => return self.learnt(item, Outcome::Deleted),
            (Asked::Look, Ok(ControllerReply::ListSnapshots { entries, .. })) => {
                if let Some(found) = entries.first() {
                    return self.learnt(item, Outcome::Made(found.clone()));
                }
                let handle = content.handle().or(content.given_handle()).unwrap_or("");
                let why = format!("can not find snapshot for snapshotID {handle}");
                let why = format!("failed to list snapshot for content {}: {why:?}", content.name());
                return self.learnt(item, Outcome::Failed { why, over: false });
            }
            (_, Ok(other)) => Error::new(Code::Internal, format!("unexpected answer {other:?}")),
            (_, Err(error)) => error.clone(),
        };
        let text = error.to_string();
        let why = match asked {
            Asked::Create => {
                let volume = content.volume_handle().unwrap_or("");
                format!("failed to take snapshot of the volume {volume}: {text:?}")
            }
            Asked::Look => format!("failed to list snapshot for content {}: {text:?}", content.name()),
            Asked::Delete => {
                // Why is in the shell's log only, as upstream.
                self.tell(&content, "SnapshotDeleteError", "Failed to delete snapshot".to_owned(), out);
                return self.work.fail(item, self.backoff(), out);
            }
        };
        let over = matches!(asked, Asked::Create) && is_final(error.code);
        self.learnt(item, Outcome::Failed { why, over });
    }

    fn learnt(&mut self, item: &Key, outcome: Outcome) {
        self.outcomes.insert(item.clone(), outcome);
    }

    fn ask(&mut self, item: &Key, asked: Asked, request: ControllerCall, out: &mut Vec<Effect>) {
        self.asked.insert(item.clone(), asked);
        self.work.call(item, &self.driver.name, request, out);
    }

    fn tell(&self, content: &Item, reason: &str, message: String, out: &mut Vec<Effect>) {
        out.push(Effect::Record(EventRecord::new(content.reference(), EventType::Warning, reason, message, &self.component)));
    }

    /// Whether it is a content of this driver.
    fn is_ours(&self, content: &Item) -> bool {
        let has_source = content.volume_handle().is_some() || content.given_handle().is_some();
        let class = content.class_name().and_then(|class| Item::class(&self.cache, class));
        has_source
            && content.text(&["spec", "driver"]) == Some(&self.driver.name)
            && class.is_none_or(|class| class.text(&["driver"]) == Some(&self.driver.name))
    }

    /// `shouldDelete`.
    fn is_to_go(&self, content: &Item) -> bool {
        let (_, _, uid) = content.snapshot_ref();
        let unbound = content.given_handle().is_some() && uid.is_empty();
        let deleted = !content.has_annotation(BEING_CREATED) && content.has_annotation(BEING_DELETED);
        content.is_terminating() && (unbound || deleted)
    }

    fn sync(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(content) = Item::at(&self.cache, item) else {
            self.asked.remove(item);
            self.outcomes.remove(item);
            return self.work.forget(item, out);
        };
        if !self.is_ours(&content) {
            return self.work.succeed(item);
        }
        if let Some(outcome) = self.outcomes.get(item).cloned() {
            return self.save(item, &content, &outcome, out);
        }
        if self.is_to_go(&content) {
            if let Some(snapshot_id) = content.handle().filter(|_| content.is_to_be_deleted()) {
                let request = ControllerCall::DeleteSnapshot { snapshot_id: snapshot_id.to_owned() };
                return self.ask(item, Asked::Delete, request, out);
            }
            return self.let_go(item, &content, out);
        }
        if content.is_ready() {
            if !self.unmark(item, &content, out) {
                self.work.succeed(item);
            }
            return;
        }
        if let Some(handle) = content.given_handle() {
            let handle = content.handle().unwrap_or(handle).to_owned();
            return self.look(item, &content, handle, out);
        }
        let (parameters, problem) = match self.parameters(&content) {
            Ok(parameters) => (parameters, None),
            Err(why) => (BTreeMap::new(), Some(why)),
        };
        // As the real one: a missing class is found before the annotation is set, a bad parameter after.
        let classless = content.class_name().and_then(|class| Item::class(&self.cache, class)).is_none();
        if !classless && !content.has_annotation(BEING_CREATED) {
            let mut updated = content.clone();
            annotate(&mut updated.metadata_mut().annotations, BEING_CREATED, "yes");
            self.work.write(item, Write::update(updated.object()), out);
            return;
        }
        let (_, _, uid) = content.snapshot_ref();
        let problem = problem.or_else(|| {
            let why = format!("cannot create snapshot. Snapshot content {} not bound to a snapshot", content.name());
            let volume = content.volume_handle().unwrap_or("");
            uid.is_empty().then(|| format!("failed to take snapshot of the volume {volume}: {why:?}"))
        });
        if let Some(why) = problem {
            self.outcomes.insert(item.clone(), Outcome::Failed { why, over: false });
            return self.work.mark(item.clone());
        }
        let request = ControllerCall::CreateSnapshot {
            name: format!("snapshot-{uid}"),
            source_volume_id: content.volume_handle().unwrap_or("").to_owned(),
            parameters,
        };
        self.ask(item, Asked::Create, request, out);
    }

    /// A snapshot that was there before: is it ready?
    fn look(&mut self, item: &Key, content: &Item, handle: String, out: &mut Vec<Effect>) {
        let missing = content.class_name().filter(|class| Item::class(&self.cache, class).is_none());
        if let Some(class) = missing {
            let why = snapshots::not_found("volumesnapshotclass", class);
            let why = format!("failed to get snapshot class {class} for snapshot content {}: {why}", content.name());
            self.outcomes.insert(item.clone(), Outcome::Failed { why, over: false });
            return self.work.mark(item.clone());
        }
        if !self.driver.lists_snapshots {
            let source_volume_id = String::new();
            let made = Snapshot { snapshot_id: handle, source_volume_id, size_bytes: 0, creation_time_ms: 0, ready_to_use: true };
            self.outcomes.insert(item.clone(), Outcome::Made(made));
            return self.work.mark(item.clone());
        }
        let request = ControllerCall::ListSnapshots {
            snapshot_id: handle,
            source_volume_id: String::new(),
            max_entries: 0,
            starting_token: String::new(),
        };
        self.ask(item, Asked::Look, request, out);
    }

    fn parameters(&self, content: &Item) -> Result<BTreeMap<String, String>, String> {
        let input = |why: String| format!("failed to get input parameters to create snapshot for content {}: {why:?}", content.name());
        let Some(class_name) = content.class_name() else {
            return Err(input(format!("failed to take snapshot {} without a snapshot class", content.name())));
        };
        let class = Item::class(&self.cache, class_name).ok_or_else(|| input(snapshots::not_found("volumesnapshotclass", class_name)))?;
        let mut parameters = BTreeMap::new();
        for (key, value) in class.parameters() {
            match key.strip_prefix(PREFIX) {
                None => {
                    parameters.insert(key.clone(), value.to_owned());
                }
                Some(known) if SECRETS.contains(&known) => {}
                Some(_) => {
                    let why = format!("found unknown parameter key \"{key}\" with reserved namespace {PREFIX}");
                    return Err(format!("failed to remove CSI Parameters of prefixed keys: {why}"));
                }
            }
        }
        if self.driver.extra_create_metadata {
            let (namespace, name, _) = content.snapshot_ref();
            for (key, value) in
                [("volumesnapshot/name", name), ("volumesnapshot/namespace", namespace), ("volumesnapshotcontent/name", content.name())]
            {
                parameters.insert(format!("{PREFIX}{key}"), value.to_owned());
            }
        }
        Ok(parameters)
    }

    /// Brings an answer of the driver into the API, a write at a time.
    fn save(&mut self, item: &Key, content: &Item, outcome: &Outcome, out: &mut Vec<Effect>) {
        match outcome {
            Outcome::Made(snapshot) => {
                if self.status(item, content, made(content, snapshot), out) || self.unmark(item, content, out) {
                    return;
                }
                self.outcomes.remove(item);
                if snapshot.ready_to_use || content.is_terminating() {
                    self.work.succeed(item);
                    // Its deletion may have waited for this.
                    self.work.mark(item.clone());
                } else {
                    self.work.fail(item, self.backoff(), out);
                }
            }
            Outcome::Failed { why, over } => {
                if *over && self.unmark(item, content, out) {
                    return;
                }
                let (reason, what) = match content.volume_handle() {
                    Some(_) if !content.has_status() => ("SnapshotCreationFailed", "create snapshot"),
                    _ => ("SnapshotContentCheckandUpdateFailed", "check and update snapshot content"),
                };
                let message = format!("Failed to {what}: {why}");
                self.outcomes.remove(item);
                self.work.fail(item, self.backoff(), out);
                if content.error() != Some(message.as_str()) {
                    self.tell(content, reason, message.clone(), out);
                    let mut status = content.status();
                    status.insert("error".to_owned(), json!({"message": message}));
                    status.insert("readyToUse".to_owned(), json!(false));
                    self.status(item, content, status, out);
                }
            }
            Outcome::Deleted => {
                let mut status = content.status();
                ["snapshotHandle", "readyToUse", "creationTime", "restoreSize"].into_iter().for_each(|name| drop(status.remove(name)));
                if !self.status(item, content, status, out) {
                    self.outcomes.remove(item);
                    self.work.succeed(item);
                    self.work.mark(item.clone());
                }
            }
        }
    }

    /// Writes the status where it is another; whether it was.
    fn status(&mut self, item: &Key, content: &Item, status: Map<String, Value>, out: &mut Vec<Effect>) -> bool {
        if status == content.status() {
            return false;
        }
        let mut updated = content.clone();
        updated.set_status(status);
        self.work.write(item, Write::update_status(updated.object()), out);
        true
    }

    /// Takes the annotation off that says that the driver may still be at it; whether it was there.
    fn unmark(&mut self, item: &Key, content: &Item, out: &mut Vec<Effect>) -> bool {
        if !content.has_annotation(BEING_CREATED) {
            return false;
        }
        let mut updated = content.clone();
        let annotations = &mut updated.metadata_mut().annotations;
        annotations.iter_mut().for_each(|annotations| drop(annotations.remove(BEING_CREATED)));
        annotations.take_if(|annotations| annotations.is_empty());
        self.work.write(item, Write::update(updated.object()), out);
        true
    }

    fn let_go(&mut self, item: &Key, content: &Item, out: &mut Vec<Effect>) {
        if !has_finalizer(content.metadata(), CONTENT_FINALIZER) {
            return self.work.succeed(item);
        }
        let mut updated = content.clone();
        drop_finalizer(updated.metadata_mut(), CONTENT_FINALIZER);
        self.work.write(item, Write::update(updated.object()), out);
    }
}

/// The status of a content whose snapshot is there (`updateSnapshotContentStatus`): what is known once stays.
fn made(content: &Item, snapshot: &Snapshot) -> Map<String, Value> {
    let mut status = content.status();
    let mut once = |name: &str, value: Value| {
        let known = status.entry(name).or_insert(Value::Null);
        if known.is_null() {
            *known = value;
        }
    };
    once("snapshotHandle", json!(snapshot.snapshot_id));
    once("creationTime", json!(snapshot.creation_time_ms.saturating_mul(1_000_000)));
    if snapshot.size_bytes > 0 {
        once("restoreSize", json!(snapshot.size_bytes));
    }
    if status.get("readyToUse") != Some(&json!(snapshot.ready_to_use)) {
        status.insert("readyToUse".to_owned(), json!(snapshot.ready_to_use));
        if snapshot.ready_to_use {
            status.remove("error");
        }
    }
    status
}

/// Whether the driver is not at it any more (`isCSIFinalError`).
fn is_final(code: Code) -> bool {
    !matches!(code, Code::Canceled | Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
}

/// Whether a change is a reason to look (`ShouldEnqueueContentChange`): what the sidecar itself writes is none, so that it does not
/// cut its own waits short.
fn concerns(old: Option<&Object>, change: &Change) -> bool {
    let (Some(old), Change::Added(new) | Change::Modified(new)) = (old.and_then(Item::of), change) else { return true };
    let Some(new) = Item::of(new) else { return true };
    // The echo of a write of its own, which was taken in with its answer: looking again at once would wear the backoff out.
    if old.metadata().resource_version == new.metadata().resource_version {
        return false;
    }
    (!old.is_ready() && new.is_ready()) || plain(&old) != plain(&new)
}

/// Without what changes are not looked at for.
fn plain(content: &Item) -> Item {
    let mut plain = content.clone();
    let metadata = plain.metadata_mut();
    metadata.resource_version = None;
    metadata.managed_fields = None;
    metadata.finalizers = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(BEING_CREATED);
    }
    metadata.annotations.take_if(|annotations| annotations.is_empty());
    plain.set_status(Map::new());
    plain
}

/// What it needs to know.
pub fn kinds() -> Vec<Kind> {
    vec![snapshots::contents(), snapshots::classes()]
}

#[cfg(test)]
mod tests;
