//! The snapshot kinds (`snapshot.storage.k8s.io/v1`): their names, their definitions, and their fields by name.
//!
//! They are custom kinds, as in a real cluster: whoever runs the snapshot controller installs their [`definitions`] first.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::machine::Cache;
use crate::object::{Custom, Key, Kind, Object};

mod definitions;

pub use definitions::definitions;

/// The API group.
pub const GROUP: &str = "snapshot.storage.k8s.io";
/// Keeps a content until its snapshot in the cloud is dealt with.
pub const CONTENT_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";
/// Keeps a snapshot while claims may be made of it.
pub const SOURCE_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection";
/// Keeps a snapshot until its content is gone.
pub const BOUND_FINALIZER: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";
/// Keeps a claim while a snapshot of it is made.
pub const CLAIM_FINALIZER: &str = "snapshot.storage.kubernetes.io/pvc-as-source-protection";
/// On a content: CreateSnapshot is out, or may still be going on in the driver.
pub const BEING_CREATED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-created";
/// On a content: its snapshot is being deleted.
pub const BEING_DELETED: &str = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted";
/// On a class: taken where a snapshot names none.
pub const DEFAULT_CLASS: &str = "snapshot.storage.kubernetes.io/is-default-class";
/// On a content: claims of the other volume mode may be made of it.
pub const ALLOW_MODE_CHANGE: &str = "snapshot.storage.kubernetes.io/allow-volume-mode-change";

/// VolumeSnapshot.
pub fn snapshots() -> Kind {
    kind("volumesnapshots")
}

/// VolumeSnapshotContent.
pub fn contents() -> Kind {
    kind("volumesnapshotcontents")
}

/// VolumeSnapshotClass.
pub fn classes() -> Kind {
    kind("volumesnapshotclasses")
}

fn kind(plural: &str) -> Kind {
    Kind::Custom { group: GROUP.into(), plural: plural.into() }
}

/// How a lister of client-go says that one is missing.
pub fn not_found(singular: &str, name: &str) -> String {
    format!("{singular}.{GROUP} \"{name}\" not found")
}

/// Any of the three, with the fields that the controllers read. A field of another type than the definition's is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    plural: Arc<str>,
    object: Arc<Custom>,
}

impl Item {
    /// The object of a key.
    pub fn at(cache: &Cache, key: &Key) -> Option<Self> {
        cache.object(key).and_then(Self::of)
    }

    /// The snapshot of a name.
    pub fn snapshot(cache: &Cache, namespace: &str, name: &str) -> Option<Self> {
        Self::at(cache, &Key::new(snapshots(), namespace, name))
    }

    /// The content of a name.
    pub fn content(cache: &Cache, name: &str) -> Option<Self> {
        Self::at(cache, &Key::new(contents(), "", name))
    }

    /// The class of a name.
    pub fn class(cache: &Cache, name: &str) -> Option<Self> {
        Self::at(cache, &Key::new(classes(), "", name))
    }

    /// An object, when it is of a custom kind.
    pub fn of(object: &Object) -> Option<Self> {
        match object {
            Object::Custom { plural, object } => Some(Self { plural: plural.clone(), object: object.clone() }),
            _ => None,
        }
    }

    /// A new object of this kind.
    pub fn new(kind: &Kind, kind_name: &str, metadata: ObjectMeta, spec: Value) -> Self {
        let fields = Map::from_iter([("spec".to_owned(), spec)]);
        let custom = Custom { api_version: format!("{GROUP}/v1"), kind: kind_name.to_owned(), metadata, fields };
        Self { plural: kind.plural().into(), object: Arc::new(custom) }
    }

    pub fn object(&self) -> Object {
        Object::Custom { plural: self.plural.clone(), object: self.object.clone() }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        &self.object.metadata
    }

    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut Arc::make_mut(&mut self.object).metadata
    }

    pub fn name(&self) -> &str {
        crate::controllers::name(self.metadata())
    }

    pub fn namespace(&self) -> &str {
        crate::controllers::namespace(self.metadata())
    }

    pub fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or("")
    }

    /// `namespace/name`.
    pub fn address(&self) -> String {
        format!("{}/{}", self.namespace(), self.name())
    }

    pub fn is_terminating(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    pub fn has_annotation(&self, key: &str) -> bool {
        crate::controllers::annotation(self.metadata(), key).is_some()
    }

    /// A reference for events and for `spec.volumeSnapshotRef`.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(self.object.api_version.clone()),
            kind: Some(self.object.kind.clone()),
            namespace: self.metadata().namespace.clone(),
            name: self.metadata().name.clone(),
            uid: self.metadata().uid.clone(),
            resource_version: self.metadata().resource_version.clone(),
            field_path: None,
        }
    }

    fn field(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.object.fields.get(*first)?, |value, name| value.get(name)).filter(|value| !value.is_null())
    }

    /// A field that is text.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.field(path).and_then(Value::as_str)
    }

    /// A field that is a whole number.
    pub fn number(&self, path: &[&str]) -> Option<i64> {
        self.field(path).and_then(Value::as_i64)
    }

    /// `spec.source.persistentVolumeClaimName` of a snapshot.
    pub fn source_claim(&self) -> Option<&str> {
        self.text(&["spec", "source", "persistentVolumeClaimName"])
    }

    /// `spec.source.volumeSnapshotContentName` of a snapshot.
    pub fn source_content(&self) -> Option<&str> {
        self.text(&["spec", "source", "volumeSnapshotContentName"])
    }

    /// `spec.source.volumeHandle` of a content: a snapshot is to be made of it.
    pub fn volume_handle(&self) -> Option<&str> {
        self.text(&["spec", "source", "volumeHandle"])
    }

    /// `spec.source.snapshotHandle` of a content: the snapshot exists.
    pub fn given_handle(&self) -> Option<&str> {
        self.text(&["spec", "source", "snapshotHandle"])
    }

    /// `spec.volumeSnapshotClassName`.
    pub fn class_name(&self) -> Option<&str> {
        self.text(&["spec", "volumeSnapshotClassName"])
    }

    /// `status.boundVolumeSnapshotContentName` of a snapshot, where it is not empty.
    pub fn bound_content(&self) -> Option<&str> {
        self.text(&["status", "boundVolumeSnapshotContentName"]).filter(|name| !name.is_empty())
    }

    /// `status.snapshotHandle` of a content.
    pub fn handle(&self) -> Option<&str> {
        self.text(&["status", "snapshotHandle"])
    }

    /// `spec.deletionPolicy` of a content.
    pub fn is_to_be_deleted(&self) -> bool {
        self.text(&["spec", "deletionPolicy"]) == Some("Delete")
    }

    /// `spec.volumeSnapshotRef` of a content: namespace, name and uid, empty where they are missing.
    pub fn snapshot_ref(&self) -> (&str, &str, &str) {
        let part = |name| self.text(&["spec", "volumeSnapshotRef", name]).unwrap_or("");
        (part("namespace"), part("name"), part("uid"))
    }

    /// Whether this content's reference is to that snapshot, by uid too.
    pub fn points_to(&self, snapshot: &Self) -> bool {
        self.snapshot_ref() == (snapshot.namespace(), snapshot.name(), snapshot.uid())
    }

    pub fn has_status(&self) -> bool {
        self.field(&["status"]).is_some()
    }

    pub fn ready(&self) -> Option<bool> {
        self.field(&["status", "readyToUse"]).and_then(Value::as_bool)
    }

    pub fn is_ready(&self) -> bool {
        self.ready() == Some(true)
    }

    /// `status.error.message`.
    pub fn error(&self) -> Option<&str> {
        self.text(&["status", "error", "message"])
    }

    /// The parameters of a class.
    pub fn parameters(&self) -> impl Iterator<Item = (&String, &str)> {
        let all = self.field(&["parameters"]).and_then(Value::as_object);
        all.into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_str()?)))
    }

    /// The status, empty where there is none.
    pub fn status(&self) -> Map<String, Value> {
        self.field(&["status"]).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    pub fn set_status(&mut self, status: Map<String, Value>) {
        Arc::make_mut(&mut self.object).fields.insert("status".to_owned(), Value::Object(status));
    }

    /// Sets a field of the specification.
    pub fn set_spec(&mut self, name: &str, value: Value) {
        let fields = &mut Arc::make_mut(&mut self.object).fields;
        if let Some(spec) = fields.entry("spec").or_insert_with(|| Value::Object(Map::new())).as_object_mut() {
            spec.insert(name.to_owned(), value);
        }
    }

    /// The specification's field of that name.
    pub fn spec(&self, name: &str) -> Option<&Value> {
        self.field(&["spec", name])
    }
}
