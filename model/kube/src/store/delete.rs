//! Delete: grace, finalizers, garbage collection by ownerReferences, the emptying of namespaces
//! (kubernetes-storage-path.md §0A, kube-api.md §4, §6).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

use crate::object::{Key, Kind, Object};
use crate::write::{ApiError, Propagation};

use super::{Effect, Outcome, Store};

/// Held by an owner until the dependents that block it are gone.
const FOREGROUND: &str = "foregroundDeletion";

/// What must hold of the object for the delete to happen.
#[derive(Clone, Copy)]
pub(super) struct Preconditions<'a> {
    pub uid: Option<&'a str>,
    pub resource_version: Option<&'a str>,
}

/// Holds a definition until its last object is gone.
pub(super) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Work that one change makes for others. Queued, not called: chains of owners may be long.
#[derive(Debug, Clone)]
pub(super) enum Chore {
    /// Deletes the object where no living owner keeps it.
    Collect(Key),
    /// Lets an owner go that waited for its dependents; by uid.
    Release(String),
    /// Removes a terminating namespace once it is empty.
    Namespace(smol_str::SmolStr),
    /// Removes a deleted CustomResourceDefinition once its last object is gone.
    Definition(Kind),
    /// Deletes an object because its namespace or definition goes.
    Delete(Key),
}

/// The grace of a delete, in seconds (pod strategy, `CheckGracefulDelete`).
fn grace_of(object: &Object, asked: Option<i64>) -> i64 {
    let Object::Pod(pod) = object else { return 0 };
    let spec = pod.spec.as_ref();
    let scheduled = spec.and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if !scheduled || matches!(phase, Some("Failed" | "Succeeded")) {
        return 0;
    }
    let grace = asked.or(spec.and_then(|spec| spec.termination_grace_period_seconds)).unwrap_or(0);
    if grace < 0 { 1 } else { grace }
}

/// Whether an object is going, after its dependents.
pub(super) fn waits(object: &Object) -> bool {
    object.metadata().deletion_timestamp.is_some() && object.metadata().finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND)
}

impl Store {
    pub(super) fn delete(
        &mut self,
        at: Timestamp,
        key: &Key,
        preconditions: Preconditions<'_>,
        asked: Option<i64>,
        propagation: Propagation,
        out: &mut Vec<Effect>,
    ) -> Result<(), ApiError> {
        let old = self.require(key)?;
        if let Some(uid) = preconditions.uid.filter(|uid| *uid != old.uid()) {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid());
            return Err(ApiError::conflict(&key.kind, &key.name, &why));
        }
        if let Some(version) = preconditions.resource_version {
            let have = old.metadata().resource_version.as_deref().unwrap_or("");
            if version != have {
                let why =
                    format!("Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {have}");
                return Err(ApiError::conflict(&key.kind, &key.name, &why));
            }
        }
        if key.kind == Kind::Namespace && matches!(&*key.name, "default" | "kube-system" | "kube-public") {
            return Err(ApiError::forbidden(&key.kind, &key.name, "this namespace may not be deleted"));
        }
        if propagation == Propagation::Orphan {
            self.orphan_dependents(old.uid(), out);
        }
        let (object, removed) = self.begin_delete(at, old, asked, propagation, out);
        let outcome = if removed { Outcome::Removed } else { Outcome::Deleting };
        out.push(Effect::Reply { object, outcome });
        Ok(())
    }

    /// Marks an object for deletion, or removes it where nothing holds it. Returns its last state, and whether it is gone.
    fn begin_delete(
        &mut self,
        at: Timestamp,
        old: Object,
        asked: Option<i64>,
        propagation: Propagation,
        out: &mut Vec<Effect>,
    ) -> (Object, bool) {
        let key = old.key();
        let grace = grace_of(&old, asked);
        let mut next = old.clone();
        let blocking = propagation == Propagation::Foreground && self.blocking_dependents(old.uid()).next().is_some();
        let metadata = next.metadata_mut();
        if blocking && !metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND) {
            metadata.finalizers.get_or_insert_default().push(FOREGROUND.to_owned());
        }
        let held = metadata.finalizers.iter().flatten().next().is_some() || matches!(old, Object::Namespace(_));
        let shorter = metadata.deletion_grace_period_seconds.is_none_or(|current| grace < current);
        if metadata.deletion_timestamp.is_none() || shorter {
            metadata.deletion_timestamp = Some(Time(at.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(at)));
            metadata.deletion_grace_period_seconds = Some(grace);
            if let Some(generation) = metadata.generation.as_mut() {
                *generation += 1;
            }
        }
        let now = metadata.deletion_grace_period_seconds == Some(0);
        if !held && now {
            // Watchers see the deletionTimestamp in the last state only.
            let gone = self.remove(&key, out);
            return (gone.map_or(next.clone(), |_| next), true);
        }
        if let Object::Namespace(namespace) = &mut next {
            Arc::make_mut(namespace).status.get_or_insert_default().phase = Some("Terminating".to_owned());
        }
        let changed = next != old;
        let object = if changed { self.put(next, out) } else { next };
        if blocking {
            self.chores.extend(self.index.dependents(object.uid()).cloned().map(Chore::Collect));
        }
        if key.kind == Kind::Namespace {
            let content = self.content_of(&key.name);
            self.chores.extend(content.into_iter().map(Chore::Delete));
            self.chores.push_back(Chore::Namespace(key.name.clone()));
        }
        if let Object::CustomResourceDefinition(definition) = &object {
            let kind = Kind::Custom { group: definition.spec.group.as_str().into(), plural: definition.spec.names.plural.as_str().into() };
            let content: Vec<Key> = self.all(&kind).map(|(key, _)| key.clone()).collect();
            self.chores.extend(content.into_iter().map(Chore::Delete));
            self.chores.push_back(Chore::Definition(kind));
        }
        (object, false)
    }

    /// Does the chores that the step has left, and those that they leave.
    pub(super) fn settle(&mut self, at: Timestamp, out: &mut Vec<Effect>) {
        while let Some(chore) = self.chores.pop_front() {
            match chore {
                Chore::Collect(key) => self.collect(at, &key, out),
                Chore::Release(uid) => self.release_owner(&uid, out),
                Chore::Namespace(name) => self.finish_namespace(&name, out),
                Chore::Definition(kind) => self.finish_definition(&kind, out),
                Chore::Delete(key) => {
                    if let Some(found) = self.objects.get(&key).cloned() {
                        self.begin_delete(at, found, None, Propagation::Background, out);
                    }
                }
            }
        }
    }

    /// Removes an object; what hangs on it follows as chores.
    pub(super) fn remove(&mut self, key: &Key, out: &mut Vec<Effect>) -> Option<Object> {
        let last = self.forget(key, out)?;
        self.chores.extend(self.index.dependents(last.uid()).cloned().map(Chore::Collect));
        let owners = last.metadata().owner_references.iter().flatten().map(|owner| owner.uid.clone());
        self.chores.extend(owners.map(Chore::Release));
        if !key.namespace.is_empty() {
            self.chores.push_back(Chore::Namespace(key.namespace.clone()));
        }
        if matches!(key.kind, Kind::Custom { .. }) {
            self.chores.push_back(Chore::Definition(key.kind.clone()));
        }
        Some(last)
    }

    /// What a change of an object's owners leaves to do: an owner that is no longer blocked goes, and so does the object with its last owner.
    pub(super) fn owners_changed(&mut self, key: &Key, before: &Object, now: &Object) {
        let (before, now) = (&before.metadata().owner_references, &now.metadata().owner_references);
        if before == now {
            return;
        }
        let blocks = |uid: &str| now.iter().flatten().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true));
        let freed = before.iter().flatten().filter(|owner| !blocks(&owner.uid)).map(|owner| Chore::Release(owner.uid.clone()));
        self.chores.extend(freed);
        self.chores.push_back(Chore::Collect(key.clone()));
    }

    /// Whether an owner is there, and whether it is there only until its dependents are gone.
    fn owner(&self, uid: &str) -> Option<bool> {
        self.index.key_of(uid).and_then(|key| self.objects.get(key)).map(waits)
    }

    /// Deletes an object that no living owner keeps; else drops its references to those that do not keep it (`attemptToDeleteItem`).
    fn collect(&mut self, at: Timestamp, key: &Key, out: &mut Vec<Effect>) {
        let Some(object) = self.objects.get(key).cloned() else { return };
        let owners = object.metadata().owner_references.as_deref().unwrap_or_default();
        let living: Vec<_> = owners.iter().filter(|owner| self.owner(&owner.uid) == Some(false)).cloned().collect();
        if owners.is_empty() || living.len() == owners.len() {
            return;
        }
        if !living.is_empty() {
            let mut next = object.clone();
            next.metadata_mut().owner_references = Some(living);
            self.put(next, out);
            return;
        }
        let is_waited_for = owners.iter().any(|owner| self.owner(&owner.uid) == Some(true));
        if !is_waited_for || object.metadata().deletion_timestamp.is_some() {
            self.begin_delete(at, object, None, Propagation::Background, out);
            return;
        }
        // Its owner waits, so it waits for its own dependents. Where one of those waits already the owners form a circle, and it blocks no
        // longer, so that the circle opens here.
        let circle = self.index.dependents(object.uid()).any(|key| self.objects.get(key).is_some_and(waits));
        let mut next = object;
        if circle {
            for owner in next.metadata_mut().owner_references.iter_mut().flatten() {
                owner.block_owner_deletion = Some(false);
            }
            next = self.put(next, out);
        }
        self.begin_delete(at, next, None, Propagation::Foreground, out);
    }

    pub(super) fn blocking_dependents<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Key> {
        self.index.dependents(uid).filter(move |key| {
            self.objects.get(key).is_some_and(|object| {
                object
                    .metadata()
                    .owner_references
                    .iter()
                    .flatten()
                    .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
            })
        })
    }

    fn release_owner(&mut self, uid: &str, out: &mut Vec<Effect>) {
        let Some(key) = self.index.key_of(uid).cloned() else { return };
        let Some(owner) = self.objects.get(&key).cloned() else { return };
        if !waits(&owner) || self.blocking_dependents(uid).next().is_some() {
            return;
        }
        let mut next = owner;
        let finalizers = next.metadata_mut().finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != FOREGROUND);
        let free = finalizers.is_empty() && next.metadata().deletion_grace_period_seconds.unwrap_or(0) == 0;
        self.put(next, out);
        if free {
            self.remove(&key, out);
        }
    }

    fn orphan_dependents(&mut self, uid: &str, out: &mut Vec<Effect>) {
        let dependents: Vec<Key> = self.index.dependents(uid).cloned().collect();
        for key in dependents {
            if let Some(mut object) = self.objects.get(&key).cloned() {
                if let Some(owners) = object.metadata_mut().owner_references.as_mut() {
                    owners.retain(|owner| owner.uid != uid);
                }
                if object.metadata().owner_references.as_ref().is_some_and(Vec::is_empty) {
                    object.metadata_mut().owner_references = None;
                }
                self.put(object, out);
            }
        }
    }

    fn content_of(&self, namespace: &str) -> Vec<Key> {
        let mut keys = Vec::new();
        // One range per kind: the kinds are few, the objects many.
        let mut next = self.objects.keys().next().map(|key| key.kind.clone());
        while let Some(kind) = next {
            keys.extend(self.range(&kind, namespace, "").map(|(key, _)| key.clone()));
            // Namespaces are DNS names: this key is after all of the kind.
            let after = Key::new(kind.clone(), "\u{10ffff}", "");
            next = self.objects.range(after..).map(|(key, _)| key.kind.clone()).find(|found| *found != kind);
        }
        keys
    }

    fn finish_namespace(&mut self, name: &str, out: &mut Vec<Effect>) {
        let key = Key::new(Kind::Namespace, "", name);
        let terminating = self.objects.get(&key).is_some_and(|namespace| namespace.metadata().deletion_timestamp.is_some());
        if terminating && self.index.is_empty_namespace(name) {
            self.forget(&key, out);
        }
    }

    fn finish_definition(&mut self, kind: &Kind, out: &mut Vec<Effect>) {
        let Some(definition) = self.definition(kind).filter(|found| found.metadata.deletion_timestamp.is_some()) else { return };
        if self.all(kind).next().is_some() {
            return;
        }
        let mut next = Object::CustomResourceDefinition(definition.clone());
        let finalizers = next.metadata_mut().finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != CLEANUP);
        let free = finalizers.is_empty();
        let key = next.key();
        self.put(next, out);
        if free {
            self.remove(&key, out);
        }
    }
}
