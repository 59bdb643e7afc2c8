//! Admission plugins: what depends on other objects, and what a new object gets from the cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, StorageClass, TokenRequest};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::defaults::default_tolerations;
use crate::object::{Kind, Object};
use crate::store::Store;
use crate::write::{ApiError, Subresource};

/// Marks the default StorageClass.
pub const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// Its old name, still read.
pub const IS_DEFAULT_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// The old way to name a claim's class.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The CSIDriver objects that the drivers' installations bring (Helm charts of aws-ebs-csi-driver and aws-efs-csi-driver).
pub fn csi_drivers() -> Vec<Object> {
    let driver = |name: &str, spec: CSIDriverSpec| {
        Object::from(CSIDriver { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, spec })
    };
    vec![
        driver(
            "ebs.csi.aws.com",
            CSIDriverSpec {
                attach_required: Some(true),
                pod_info_on_mount: Some(false),
                fs_group_policy: Some("File".to_owned()),
                node_allocatable_update_period_seconds: Some(10),
                ..CSIDriverSpec::default()
            },
        ),
        driver(
            "efs.csi.aws.com",
            CSIDriverSpec { attach_required: Some(false), token_requests: None::<Vec<TokenRequest>>, ..CSIDriverSpec::default() },
        ),
    ]
}

/// The class that a claim without one gets: the newest of those marked, then by name.
pub fn default_class(store: &Store) -> Option<&Arc<StorageClass>> {
    store
        .list::<StorageClass>()
        .filter(|class| {
            let annotations = class.metadata.annotations.as_ref();
            [IS_DEFAULT, IS_DEFAULT_BETA].iter().any(|name| annotations.and_then(|all| all.get(*name)).is_some_and(|value| value == "true"))
        })
        .max_by(|a, b| {
            // Newest first; of those of one second the first by name.
            let by_age = a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp);
            by_age.then_with(|| b.metadata.name.cmp(&a.metadata.name))
        })
}

/// Plugins at creation: PVC protection, default StorageClass, priority, service account, tolerations.
pub fn admit_create(object: &mut Object, store: &Store) -> Result<(), ApiError> {
    match object {
        Object::PersistentVolumeClaim(claim) => {
            let claim = Arc::make_mut(claim);
            add_finalizer(&mut claim.metadata, "kubernetes.io/pvc-protection");
            let old_way = claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BETA_CLASS));
            if let Some(spec) = claim.spec.as_mut()
                && spec.storage_class_name.is_none()
                && !old_way
            {
                spec.storage_class_name = default_class(store).and_then(|class| class.metadata.name.clone());
            }
        }
        Object::PersistentVolume(volume) => add_finalizer(&mut Arc::make_mut(volume).metadata, "kubernetes.io/pv-protection"),
        Object::VolumeAttributesClass(class) => {
            add_finalizer(&mut Arc::make_mut(class).metadata, "kubernetes.io/vac-protection");
        }
        Object::Pod(pod) => {
            let pod = Arc::make_mut(pod);
            let name = pod.metadata.name.clone().unwrap_or_default();
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
            default_tolerations(spec);
            let priority = match spec.priority_class_name.as_deref() {
                None | Some("") => 0,
                Some("system-node-critical") => 2_000_001_000,
                Some("system-cluster-critical") => 2_000_000_000,
                Some(class) => {
                    let why = format!("no PriorityClass with name {class} was found");
                    return Err(ApiError::forbidden(&Kind::Pod, &name, &why));
                }
            };
            spec.priority.get_or_insert(priority);
            spec.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
            let account = spec.service_account_name.get_or_insert_with(|| "default".to_owned()).clone();
            spec.service_account = Some(account.clone());
            if store.get::<ServiceAccount>(&namespace, &account).is_none() {
                let why = format!("error looking up service account {namespace}/{account}: serviceaccounts \"{account}\" not found");
                return Err(ApiError::forbidden(&Kind::Pod, &name, &why));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Plugins at an update.
pub fn admit_update(new: &mut Object, old: &Object, subresource: Subresource) {
    // A pod keeps what admission gave it when an update leaves it out.
    if let (Object::Pod(new), Object::Pod(old), Subresource::None) = (&mut *new, old, subresource)
        && let (Some(spec), Some(before)) = (Arc::make_mut(new).spec.as_mut(), old.spec.as_ref())
    {
        spec.priority = spec.priority.or(before.priority);
        if spec.preemption_policy.is_none() {
            spec.preemption_policy.clone_from(&before.preemption_policy);
        }
        if spec.service_account_name.is_none() {
            spec.service_account_name.clone_from(&before.service_account_name);
            spec.service_account.clone_from(&before.service_account);
        }
        default_tolerations(spec);
    }
}

fn add_finalizer(metadata: &mut ObjectMeta, name: &str) {
    let finalizers = metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == name) {
        finalizers.push(name.to_owned());
    }
}
