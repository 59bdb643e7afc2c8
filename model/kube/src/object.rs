//! The objects: `k8s-openapi` types behind `Arc`, one enum over the kinds that the storage path knows, and
//! [`Custom`] for kinds that come with a CustomResourceDefinition (the snapshot kinds among them).

use std::sync::Arc;

use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, coordination::v1 as coordination, core::v1 as core, storage::v1 as storage};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use smol_str::SmolStr;

/// An object of a kind that `k8s-openapi` does not know: its fields as JSON, its metadata typed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Custom {
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    pub kind: String,
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// `spec`, `status` and whatever else the kind has.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, Value>,
}

/// Which resource: what selects a collection in the API.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    PersistentVolumeClaim,
    PersistentVolume,
    Event,
    ConfigMap,
    Secret,
    ServiceAccount,
    Lease,
    StorageClass,
    VolumeAttachment,
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    VolumeAttributesClass,
    StatefulSet,
    Deployment,
    ReplicaSet,
    DaemonSet,
    Job,
    ControllerRevision,
    CustomResourceDefinition,
    /// A kind of a CustomResourceDefinition, by its group and plural.
    Custom {
        group: Arc<str>,
        plural: Arc<str>,
    },
}

/// The name of one object. `namespace` is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub kind: Kind,
    pub namespace: SmolStr,
    pub name: SmolStr,
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

/// A kind with a static type.
pub trait Typed: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    const KIND: Kind;
    fn metadata(&self) -> &ObjectMeta;
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
    fn wrap(object: Arc<Self>) -> Object;
    /// The typed object, when it is of this kind.
    fn peek(object: &Object) -> Option<&Arc<Self>>;
    fn key(&self) -> Key {
        let metadata = self.metadata();
        Key::new(Self::KIND, metadata.namespace.as_deref().unwrap_or(""), metadata.name.as_deref().unwrap_or(""))
    }
}

macro_rules! kinds {
    ($($kind:ident: $type:ty),* $(,)?) => {
        /// Any object. Cloning is cheap. Serialized (for journals and hashes) it says its variant; [`Object::to_json`] is what the API shows.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum Object {
            $($kind(Arc<$type>),)*
            /// The plural is the CustomResourceDefinition's; the object itself does not say it.
            Custom { plural: Arc<str>, object: Arc<Custom> },
        }

        impl Object {
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.metadata,)*
                    Self::Custom { object, .. } => &object.metadata,
                }
            }

            /// The metadata for writing; copies the object when it is shared.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self {
                    $(Self::$kind(object) => &mut Arc::make_mut(object).metadata,)*
                    Self::Custom { object, .. } => &mut Arc::make_mut(object).metadata,
                }
            }

            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                    Self::Custom { plural, object } => {
                        let group = object.api_version.split_once('/').map_or("", |(group, _)| group);
                        Kind::Custom { group: group.into(), plural: plural.clone() }
                    }
                }
            }

            /// The object as the API shows it, with `apiVersion` and `kind`.
            pub fn to_json(&self) -> Result<Value, serde_json::Error> {
                match self {
                    $(Self::$kind(object) => serde_json::to_value(object),)*
                    Self::Custom { object, .. } => serde_json::to_value(object),
                }
            }

            /// The object of a kind from its JSON. Unknown fields are dropped; types that do not fit are an error.
            pub fn from_json(kind: &Kind, json: Value) -> Result<Self, serde_json::Error> {
                Ok(match kind {
                    $(Kind::$kind => Self::$kind(Arc::new(serde_json::from_value(json)?)),)*
                    Kind::Custom { plural, .. } => Self::Custom { plural: plural.clone(), object: Arc::new(serde_json::from_value(json)?) },
                })
            }
        }

        $(impl Typed for $type {
            const KIND: Kind = Kind::$kind;
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
            fn wrap(object: Arc<Self>) -> Object {
                Object::$kind(object)
            }
            fn peek(object: &Object) -> Option<&Arc<Self>> {
                match object {
                    Object::$kind(object) => Some(object),
                    _ => None,
                }
            }
        })*
    };
}

kinds! {
    Namespace: core::Namespace,
    Node: core::Node,
    Pod: core::Pod,
    PersistentVolumeClaim: core::PersistentVolumeClaim,
    PersistentVolume: core::PersistentVolume,
    Event: core::Event,
    ConfigMap: core::ConfigMap,
    Secret: core::Secret,
    ServiceAccount: core::ServiceAccount,
    Lease: coordination::Lease,
    StorageClass: storage::StorageClass,
    VolumeAttachment: storage::VolumeAttachment,
    CSIDriver: storage::CSIDriver,
    CSINode: storage::CSINode,
    CSIStorageCapacity: storage::CSIStorageCapacity,
    VolumeAttributesClass: storage::VolumeAttributesClass,
    StatefulSet: apps::StatefulSet,
    Deployment: apps::Deployment,
    ReplicaSet: apps::ReplicaSet,
    DaemonSet: apps::DaemonSet,
    Job: batch::Job,
    ControllerRevision: apps::ControllerRevision,
    CustomResourceDefinition: apiextensions::CustomResourceDefinition,
}

/// The built-in kinds that are metadata, spec and status, field by field.
macro_rules! in_three_parts {
    ($($kind:ident),* $(,)?) => {
        impl Object {
            /// Whether two objects of one kind have the same spec; none where the kind has none that is typed.
            pub fn same_spec(&self, other: &Self) -> Option<bool> {
                match (self, other) {
                    $((Self::$kind(a), Self::$kind(b)) => Some(a.spec == b.spec),)*
                    _ => None,
                }
            }

            /// Whether two objects of one kind have the same status; none where the kind has none that is typed.
            pub fn same_status(&self, other: &Self) -> Option<bool> {
                match (self, other) {
                    $((Self::$kind(a), Self::$kind(b)) => Some(a.status == b.status),)*
                    _ => None,
                }
            }

            /// Merges a patch (RFC 7396) into the status, then `clean`s it; false where the kind has none that is typed.
            pub fn merge_status(&mut self, patch: &Value, clean: impl Fn(&mut Value) -> bool) -> Result<bool, serde_json::Error> {
                match self {
                    $(Self::$kind(object) => {
                        let mut status = serde_json::to_value(&object.status)?;
                        json_patch::merge(&mut status, patch);
                        clean(&mut status);
                        let status = serde_json::from_value(status)?;
                        Arc::make_mut(object).status = status;
                    })*
                    _ => return Ok(false),
                }
                Ok(true)
            }

            /// Takes the status of another object of the same kind; false where the kind has none that is typed.
            pub fn take_status(&mut self, of: &Self) -> bool {
                match (self, of) {
                    $((Self::$kind(to), Self::$kind(from)) => Arc::make_mut(to).status.clone_from(&from.status),)*
                    _ => return false,
                }
                true
            }
        }
    };
}

in_three_parts! {
    Namespace, Node, Pod, PersistentVolumeClaim, PersistentVolume, VolumeAttachment, StatefulSet, Deployment, ReplicaSet, DaemonSet, Job,
    CustomResourceDefinition,
}

impl Object {
    pub fn key(&self) -> Key {
        let metadata = self.metadata();
        Key::new(self.kind(), metadata.namespace.as_deref().unwrap_or(""), metadata.name.as_deref().unwrap_or(""))
    }

    pub fn get<T: Typed>(&self) -> Option<&Arc<T>> {
        T::peek(self)
    }

    /// `metadata.resourceVersion` as a number; 0 where it has none.
    pub fn resource_version(&self) -> u64 {
        self.metadata().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
    }

    pub fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or("")
    }
}

impl<T: Typed> From<T> for Object {
    fn from(object: T) -> Self {
        T::wrap(Arc::new(object))
    }
}

/// What happened to an object, as a watch tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    Added(Object),
    Modified(Object),
    /// The last state; its `resourceVersion` is that of the deletion.
    Deleted(Object),
}

impl Change {
    pub fn object(&self) -> &Object {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => object,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_keeps_its_kind_through_json() {
        let json = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}, "data": {"k": "v"}});
        let object = Object::from_json(&Kind::ConfigMap, json.clone()).unwrap();
        assert_eq!(object.key(), Key::new(Kind::ConfigMap, "b", "a"));
        assert_eq!(object.to_json().unwrap(), json);
    }

    #[test]
    fn a_custom_object_knows_its_group() {
        let json =
            json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": "s"}, "spec": {"x": 1}});
        let kind = Kind::Custom { group: "snapshot.storage.k8s.io".into(), plural: "volumesnapshots".into() };
        let object = Object::from_json(&kind, json.clone()).unwrap();
        assert_eq!(object.kind(), kind);
        assert_eq!(object.to_json().unwrap(), json);
    }
}
