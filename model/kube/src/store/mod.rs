//! The object store of the API server: linearizable, one version counter for all objects, a bounded watch log
//! (kubernetes-storage-path.md §0A "API server model", kube-api.md §3).
//!
//! ```text
//!  Write ──► admission (defaults, validation) ──► commit ──► Effect::Changed to the watchers and to the disk
//!                                                   └──────► Effect::Reply to the writer, after it is durable
//! ```
//! Garbage collection by ownerReferences and the emptying of a deleted namespace happen in the step that causes them.

mod create;
mod delete;
mod history;
mod ids;
mod index;
mod load;
mod log;
mod update;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use crate::object::{Change, Key, Kind, Object, Typed};
use crate::write::{ApiError, Options, Write};

pub use self::index::claims_of;
pub use self::load::{BadRecord, Begin, BeginError, Record};
pub use self::log::{Entry, KEPT, Log};

/// What a write brings about.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The object as it is after the write, and what became of it.
    Reply { object: Object, outcome: Outcome },
    /// For the watchers and for the disk.
    Changed(Entry),
    /// A `Warning` header for the writer.
    Warning(String),
}

impl Effect {
    /// What of it leaves the store, in one line; journals compare it.
    pub fn told(&self) -> String {
        let json = |object: &Object| object.to_json().map_or_else(|error| error.to_string(), |json| json.to_string());
        match self {
            Self::Reply { object, outcome } => format!("{outcome:?} {:?} {}", object.key(), object.resource_version()),
            Self::Changed(entry) => {
                let what = match entry.change {
                    Change::Added(_) => "added",
                    Change::Modified(_) => "modified",
                    Change::Deleted(_) => "deleted",
                };
                format!("{} {what} {}", entry.version, json(entry.change.object()))
            }
            Self::Warning(text) => text.clone(),
        }
    }
}

/// What became of the written object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    /// Also when nothing changed.
    Updated,
    /// `deletionTimestamp` is set; finalizers or grace hold it.
    Deleting,
    Removed,
}

/// All objects.
#[derive(Debug, Clone)]
pub struct Store {
    objects: BTreeMap<Key, Object>,
    version: u64,
    ids: ids::Ids,
    log: Log,
    index: index::Index,
    /// Changed since [`Store::take_dirty`].
    dirty: BTreeSet<Key>,
    /// What a step still has to do for the objects that hang on a changed one; empty between steps.
    chores: VecDeque<delete::Chore>,
}

impl Store {
    /// An empty store; [`Store::bootstrap`] fills in what every cluster has.
    pub fn new(seed: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 0,
            ids: ids::Ids::new(seed),
            log: Log::default(),
            index: index::Index::default(),
            dirty: BTreeSet::new(),
            chores: VecDeque::new(),
        }
    }

    /// Applies a write as a controller in the process makes it.
    pub fn step(&mut self, at: Timestamp, write: &Write, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        self.step_with(at, write, &Options::default(), out)
    }

    /// Applies a write. On an error nothing has changed.
    pub fn step_with(&mut self, at: Timestamp, write: &Write, options: &Options, out: &mut Vec<Effect>) -> Result<(), ApiError> {
        // Users see whole seconds (metav1.Time); the store keeps what they see.
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        if options.dry_run {
            // Sharing makes the copy cheap enough for the rare dry run.
            let mut copy = self.clone();
            let options = Options { dry_run: false, ..options.clone() };
            let from = out.len();
            let result = copy.step_with(at, write, &options, out);
            let told: Vec<Effect> = out.drain(from..).filter(|effect| !matches!(effect, Effect::Changed(_))).collect();
            out.extend(told);
            return result;
        }
        let result = match write {
            Write::Create { object } => self.create(at, object.clone(), update::Fields::of(options), out),
            Write::Update { object, subresource } => self.update(at, object.clone(), *subresource, options, out),
            Write::Patch { key, patch, subresource } => self.patch(at, key, patch, *subresource, options, out),
            Write::Bind { pod, uid, node } => self.bind(at, pod, uid.as_deref(), node, out),
            Write::Scale { key, replicas, resource_version } => self.scale(at, key, *replicas, resource_version.as_deref(), options, out),
            Write::Delete { key, uid, resource_version, grace_seconds, propagation } => {
                let preconditions = delete::Preconditions { uid: uid.as_deref(), resource_version: resource_version.as_deref() };
                self.delete(at, key, preconditions, *grace_seconds, *propagation, out)
            }
        };
        self.settle(at, out);
        result
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The changes after a version; 410 when they are no longer kept.
    pub fn since(&self, version: u64) -> Result<impl Iterator<Item = &Entry>, ApiError> {
        self.log.since(version)
    }

    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    /// One object of a static type; `namespace` is empty for cluster-scoped kinds.
    pub fn get<T: Typed>(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.objects.get(&Key::new(T::KIND, namespace, name)).and_then(T::peek)
    }

    /// All objects of a static type, by namespace and name.
    pub fn list<T: Typed>(&self) -> impl Iterator<Item = &Arc<T>> {
        self.all(&T::KIND).filter_map(|(_, object)| T::peek(object))
    }

    /// The objects of a static type in a namespace, by name.
    pub fn list_in<'a, T: Typed>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<T>> {
        self.range(&T::KIND, namespace, "").filter_map(|(_, object)| T::peek(object))
    }

    /// All objects of a kind, by namespace and name.
    pub fn all<'a>(&'a self, kind: &Kind) -> impl Iterator<Item = (&'a Key, &'a Object)> + use<'a> {
        let kind = kind.clone();
        self.objects.range(index::first(kind.clone(), "")..).take_while(move |(key, _)| key.kind == kind)
    }

    /// The objects of a kind in a namespace whose names are not before `from`.
    pub fn range<'a>(&'a self, kind: &Kind, namespace: &str, from: &str) -> impl Iterator<Item = (&'a Key, &'a Object)> + use<'a> {
        let start = Key::new(kind.clone(), namespace, from);
        let end = start.clone();
        self.objects.range(start..).take_while(move |(key, _)| key.kind == end.kind && key.namespace == end.namespace)
    }

    /// The objects of a kind in all namespaces from a key on, in order: what a `continue` token resumes.
    pub fn range_from<'a>(&'a self, from: Key) -> impl Iterator<Item = (&'a Key, &'a Object)> + use<'a> {
        let kind = from.kind.clone();
        self.objects.range(from..).take_while(move |(key, _)| key.kind == kind)
    }

    /// The pods with this `spec.nodeName`.
    pub fn pods_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.index.pods_on(node).filter_map(|key| self.objects.get(key)).filter_map(Pod::peek)
    }

    /// The pods that use a claim, also through a generic ephemeral volume.
    pub fn pods_using<'a>(&'a self, namespace: &str, claim: &str) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.index.pods_using(namespace, claim).filter_map(|key| self.objects.get(key)).filter_map(Pod::peek)
    }

    fn require(&self, key: &Key) -> Result<Object, ApiError> {
        self.objects.get(key).cloned().ok_or_else(|| ApiError::not_found(&key.kind, &key.name))
    }

    /// Stores a state under the next version and tells the watchers.
    fn put(&mut self, mut object: Object, out: &mut Vec<Effect>) -> Object {
        self.version += 1;
        object.metadata_mut().resource_version = Some(self.version.to_string());
        let key = object.key();
        let previous = self.objects.insert(key.clone(), object.clone());
        if let Some(previous) = &previous {
            self.index.drop(&key, previous);
            self.owners_changed(&key, previous, &object);
        }
        self.index.add(&key, &object);
        self.dirty.insert(key);
        let change = if previous.is_some() { Change::Modified(object.clone()) } else { Change::Added(object.clone()) };
        self.tell(Entry { version: self.version, change, previous }, out);
        object
    }

    /// Forgets an object and tells the watchers its last state under the next version.
    fn forget(&mut self, key: &Key, out: &mut Vec<Effect>) -> Option<Object> {
        let previous = self.objects.remove(key)?;
        self.version += 1;
        self.index.drop(key, &previous);
        self.dirty.insert(key.clone());
        let mut last = previous.clone();
        last.metadata_mut().resource_version = Some(self.version.to_string());
        self.tell(Entry { version: self.version, change: Change::Deleted(last.clone()), previous: Some(previous) }, out);
        Some(last)
    }

    fn tell(&mut self, entry: Entry, out: &mut Vec<Effect>) {
        self.log.push(entry.clone());
        out.push(Effect::Changed(entry));
    }
}
