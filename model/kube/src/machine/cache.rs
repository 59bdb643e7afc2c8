//! A controller's own view of the API, as an informer keeps it: fed by watch events and by the answers to its own writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::object::{Change, Key, Kind, Object, Typed};
use crate::snapshots;

/// Ways to find objects other than by name. The value looked up is a string made by the functions of [`Cache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Index {
    /// Pods by `<namespace>/<claim>`, generic ephemeral claims among them.
    PodsByClaim,
    /// Pods by `spec.nodeName`.
    PodsByNode,
    /// VolumeAttachments by the PersistentVolume's name.
    AttachmentsByVolume,
    /// VolumeAttachments by their node.
    AttachmentsByNode,
    /// PersistentVolumes by `<namespace>/<claim>` of their claimRef.
    VolumesByClaim,
    /// PersistentVolumes without a claimRef, by their class.
    VolumesFree,
    /// PersistentVolumeClaims by their class.
    ClaimsByClass,
    /// PersistentVolumeClaims by `spec.volumeName`.
    ClaimsByVolume,
    /// PersistentVolumeClaims by `<namespace>/<snapshot>` of their data source.
    ClaimsBySnapshot,
    /// PersistentVolumeClaims by `<namespace>/<claim>` of their data source.
    ClaimsByOrigin,
    /// VolumeSnapshots by `<namespace>/<claim>` that they are of.
    SnapshotsByClaim,
    /// Objects of any kind by the uid of the owner that controls them.
    Owned,
    /// Pods, ReplicaSets and ControllerRevisions that nobody controls, by namespace: a workload may adopt them.
    Free,
}

/// Objects by key, with indexes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cache {
    objects: BTreeMap<Key, Object>,
    /// The newest version that the watch of a kind has shown. An answer that is not newer adds nothing: the watch has
    /// already told what became of that object, even when it is gone.
    seen: BTreeMap<Kind, u64>,
    index: BTreeMap<(Index, String), BTreeSet<Key>>,
}

impl Cache {
    /// Takes in a watch event. An event older than what is known is dropped (§1.1, `storeObjectUpdate`).
    pub fn apply(&mut self, change: &Change) {
        let object = change.object();
        let version = object.resource_version();
        let seen = self.seen.entry(object.kind()).or_default();
        *seen = version.max(*seen);
        let key = object.key();
        if self.objects.get(&key).is_some_and(|known| known.resource_version() > version) {
            return;
        }
        match change {
            Change::Added(_) | Change::Modified(_) => self.put(key, object.clone()),
            Change::Deleted(_) => self.remove(&key),
        }
    }

    /// Takes in the answer to a write or a read of this controller.
    pub fn answered(&mut self, object: &Object, deleted: bool) {
        let key = object.key();
        let version = object.resource_version();
        // A delete answers with the state that it found, marked: while that state is the known one, the watch has not told of the end.
        let is_marked = deleted && object.metadata().deletion_timestamp.is_some();
        let is_known = self.objects.get(&key).is_some_and(|known| {
            known.resource_version() == version && known.uid() == object.uid() && known.metadata().deletion_timestamp.is_none()
        });
        if is_marked && is_known {
            // A pod stays in sight until the watch says that it is gone: its name is still its own.
            return if key.kind == Kind::Pod { self.put(key, object.clone()) } else { self.remove(&key) };
        }
        if version <= self.seen.get(&key.kind).copied().unwrap_or(0)
            || self.objects.get(&key).is_some_and(|known| known.resource_version() >= version)
        {
            return;
        }
        let metadata = object.metadata();
        let terminating = metadata.deletion_timestamp.is_some();
        let held = metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()) || key.kind == Kind::Pod;
        if (deleted && !terminating) || (terminating && !held) {
            // This write removed the object; the watch says so later.
            return self.remove(&key);
        }
        self.put(key, object.clone());
    }

    fn put(&mut self, key: Key, object: Object) {
        let new = indexed(&object);
        let old = self.objects.insert(key.clone(), object).map(|old| indexed(&old)).unwrap_or_default();
        // Most changes leave an object where it was found.
        if old != new {
            self.drop_index(&key, old);
            for value in new {
                self.index.entry(value).or_default().insert(key.clone());
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(object) = self.objects.remove(key) {
            self.drop_index(key, indexed(&object));
        }
    }

    fn drop_index(&mut self, key: &Key, values: Vec<(Index, String)>) {
        for value in values {
            if let Some(keys) = self.index.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(&value);
                }
            }
        }
    }

    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    /// One object; `namespace` is empty for cluster-scoped kinds.
    pub fn get<T: Typed>(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.objects.get(&Key::new(T::KIND, namespace, name)).and_then(T::peek)
    }

    /// The object of a key, when it is of this kind.
    pub fn at<T: Typed>(&self, key: &Key) -> Option<&Arc<T>> {
        self.objects.get(key).and_then(T::peek)
    }

    /// All objects of a kind, by namespace and name.
    pub fn list<T: Typed>(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.range(Key::new(T::KIND, "", "")..).map_while(|(_, object)| T::peek(object))
    }

    /// The objects of a kind in a namespace, by name.
    pub fn list_in<T: Typed>(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        let start = Key::new(T::KIND, namespace, "");
        let end = start.clone();
        self.objects.range(start..).take_while(move |(key, _)| key.namespace == end.namespace).map_while(|(_, object)| T::peek(object))
    }

    /// The keys of all objects of a kind.
    pub fn keys(&self, kind: &Kind) -> Vec<Key> {
        self.objects.range(Key::new(kind.clone(), "", "")..).map(|(key, _)| key).take_while(|key| key.kind == *kind).cloned().collect()
    }

    /// The keys found by an index.
    pub fn find<'a>(&'a self, index: Index, value: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.index.get(&(index, value.to_owned())).into_iter().flatten()
    }

    /// The objects found by an index.
    pub fn found<'a, T: Typed>(&'a self, index: Index, value: &str) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.find(index, value).filter_map(|key| self.at::<T>(key))
    }
}

fn indexed(object: &Object) -> Vec<(Index, String)> {
    let mut values = Vec::new();
    let metadata = object.metadata();
    match metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)) {
        Some(owner) => values.push((Index::Owned, owner.uid.clone())),
        None if matches!(object, Object::Pod(_) | Object::ReplicaSet(_) | Object::ControllerRevision(_)) => {
            values.push((Index::Free, metadata.namespace.clone().unwrap_or_default()));
        }
        None => {}
    }
    match object {
        Object::Pod(pod) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
            let Some(spec) = &pod.spec else { return values };
            if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
                values.push((Index::PodsByNode, node.to_owned()));
            }
            for claim in crate::controllers::claims_of(pod) {
                values.push((Index::PodsByClaim, format!("{namespace}/{claim}")));
            }
        }
        Object::VolumeAttachment(attachment) => {
            if let Some(volume) = &attachment.spec.source.persistent_volume_name {
                values.push((Index::AttachmentsByVolume, volume.clone()));
            }
            values.push((Index::AttachmentsByNode, attachment.spec.node_name.clone()));
        }
        Object::PersistentVolume(volume) => {
            if let Some(claim) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
                let (namespace, name) = (claim.namespace.as_deref().unwrap_or(""), claim.name.as_deref().unwrap_or(""));
                values.push((Index::VolumesByClaim, format!("{namespace}/{name}")));
            } else {
                values.push((Index::VolumesFree, crate::controllers::class_of_volume(volume).to_owned()));
            }
        }
        Object::PersistentVolumeClaim(claim) => {
            let class = crate::controllers::class_of_claim(claim);
            values.push((Index::ClaimsByClass, class.to_owned()));
            if let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty()) {
                values.push((Index::ClaimsByVolume, volume.to_owned()));
            }
            if let Some(source) = claim.spec.as_ref().and_then(|spec| spec.data_source.as_ref()) {
                let address = format!("{}/{}", claim.metadata.namespace.as_deref().unwrap_or(""), source.name);
                match (source.kind.as_str(), source.api_group.as_deref()) {
                    ("VolumeSnapshot", Some(snapshots::GROUP)) => values.push((Index::ClaimsBySnapshot, address)),
                    ("PersistentVolumeClaim", _) => values.push((Index::ClaimsByOrigin, address)),
                    _ => {}
                }
            }
        }
        Object::Custom { .. } if object.kind() == snapshots::snapshots() => {
            let snapshot = snapshots::Item::of(object);
            if let Some((snapshot, claim)) = snapshot.as_ref().and_then(|snapshot| Some((snapshot, snapshot.source_claim()?))) {
                values.push((Index::SnapshotsByClaim, format!("{}/{claim}", snapshot.namespace())));
            }
        }
        _ => {}
    }
    values
}
