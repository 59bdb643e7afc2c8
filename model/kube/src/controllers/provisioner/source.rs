//! What a new volume is filled from: a snapshot or another claim's volume (external-provisioner `getSnapshotSource`, `getPVCSource`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use model_common::csi::ContentSource;

use crate::controllers::binder::matching;
use crate::controllers::{Driver, amount, annotation, has_finalizer, is_claimed_by, name, namespace};
use crate::machine::Cache;
use crate::snapshots::{self, ALLOW_MODE_CHANGE, Item};

/// Keeps a claim while another one is made of it.
pub const CLONE_FINALIZER: &str = "provisioner.storage.kubernetes.io/cloning-protection";
/// Keeps a snapshot while a claim is made of it.
pub const SNAPSHOT_FINALIZER: &str = "provisioner.storage.kubernetes.io/volumesnapshot-as-source-protection";

/// A claim's data source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Snapshot(String),
    Claim(String),
    /// A populator's.
    Other(String),
}

/// The data source of a claim, when the driver can do it.
pub fn of(driver: &Driver, claim: &PersistentVolumeClaim) -> Result<Option<Origin>, String> {
    let Some(spec) = &claim.spec else { return Ok(None) };
    let (group, kind, from) = match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), _) => (&source.api_group, &source.kind, &source.name),
        (None, Some(source)) if source.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) => {
            return Err("dataSourceRef namespace specified but the CrossNamespaceVolumeDataSource feature is disabled".to_owned());
        }
        (None, Some(source)) => (&source.api_group, &source.kind, &source.name),
        (None, None) => return Ok(None),
    };
    if from.is_empty() {
        return Err(format!("the PVC source not found for PVC {}", name(&claim.metadata)));
    }
    match kind.as_str() {
        "VolumeSnapshot" => {
            let group = group.as_deref().unwrap_or("");
            if group != snapshots::GROUP {
                let expected = snapshots::GROUP;
                return Err(format!("the PVC source does not belong to the right APIGroup. Expected {expected}, Got {group}"));
            }
            if !driver.snapshots {
                let why = "CSI driver does not support snapshot restore: controller CREATE_DELETE_SNAPSHOT capability is not reported";
                return Err(why.to_owned());
            }
            Ok(Some(Origin::Snapshot(from.clone())))
        }
        "PersistentVolumeClaim" if !driver.clones => {
            Err("CSI driver does not support clone operations: controller CLONE_VOLUME capability is not reported".to_owned())
        }
        "PersistentVolumeClaim" => Ok(Some(Origin::Claim(from.clone()))),
        other => Ok(Some(Origin::Other(other.to_owned()))),
    }
}

/// The driver's name for the source, or why it cannot be taken (now).
pub fn content(
    cache: &Cache,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    origin: &Origin,
) -> Result<Option<ContentSource>, String> {
    let (kind, from, found) = match origin {
        Origin::Snapshot(from) => ("VolumeSnapshot", from, of_snapshot(cache, claim, class, from).map(ContentSource::Snapshot)),
        Origin::Claim(from) => ("PersistentVolumeClaim", from, of_claim(cache, claim, class, from).map(ContentSource::Volume)),
        Origin::Other(_) => return Ok(None),
    };
    found.map(Some).map_err(|why| format!("error getting handle for DataSource Type {kind} by Name {from}: {why}"))
}

fn of_snapshot(cache: &Cache, claim: &PersistentVolumeClaim, class: &StorageClass, from: &str) -> Result<String, String> {
    let Some(snapshot) = Item::snapshot(cache, namespace(&claim.metadata), from) else {
        return Err(format!("error getting snapshot {from} from api server: {}", snapshots::not_found("volumesnapshots", from)));
    };
    // What was begun before the deletion goes on.
    if snapshot.is_terminating() && !has_finalizer(snapshot.metadata(), SNAPSHOT_FINALIZER) {
        return Err(format!("snapshot {from} is being deleted"));
    }
    let bound = snapshot.bound_content().ok_or_else(|| format!("snapshot {from} not bound"))?;
    let content = Item::content(cache, bound).ok_or_else(|| format!("error getting snapshotcontent {bound} for snapshot {from}"))?;
    if !content.points_to(&snapshot) {
        return Err(format!("snapshotcontent {bound} for snapshot {from} is bound to a different snapshot"));
    }
    if content.text(&["spec", "driver"]) != Some(class.provisioner.as_str()) {
        let class = name(&class.metadata);
        return Err(format!("snapshotcontent {bound} for snapshot {from} is not handled by CSI driver of StorageClass {class}"));
    }
    if !snapshot.is_ready() {
        return Err(format!("snapshot {from} is not Ready"));
    }
    let handle = content.handle().ok_or_else(|| format!("snapshot handle {from} is not available"))?;
    if let Some(size) = snapshot.text(&["status", "restoreSize"]) {
        let least = amount::value(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.to_owned()));
        let requested = matching::requested(claim);
        if requested < least {
            return Err(format!("requested volume size {requested} is less than the size {least} for the source snapshot {from}"));
        }
    }
    mode_is_kept(claim, &content)?;
    Ok(handle.to_owned())
}

/// A file system becomes no block volume, nor the other way round, unless the content allows it.
fn mode_is_kept(claim: &PersistentVolumeClaim, content: &Item) -> Result<(), String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let source = content.text(&["spec", "sourceVolumeMode"]);
    let (Some(wanted), Some(source)) = (wanted, source) else { return Ok(()) };
    if wanted == source {
        return Ok(());
    }
    let why = match annotation(content.metadata(), ALLOW_MODE_CHANGE) {
        None => format!("{ALLOW_MODE_CHANGE} annotation is not present on snapshotcontent {}", content.name()),
        // As Go's ParseBool reads.
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => return Ok(()),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => {
            format!("{ALLOW_MODE_CHANGE} is set to false on snapshotcontent {}", content.name())
        }
        Some(other) => format!(
            "failed to convert {ALLOW_MODE_CHANGE} annotation value to boolean with error: strconv.ParseBool: parsing {other:?}: invalid syntax"
        ),
    };
    let (namespace, name) = (namespace(&claim.metadata), name(&claim.metadata));
    Err(format!("requested volume {namespace}/{name} modifies the mode of the source volume but does not have permission to do so. {why}"))
}

fn of_claim(cache: &Cache, claim: &PersistentVolumeClaim, class: &StorageClass, from: &str) -> Result<String, String> {
    let namespace = namespace(&claim.metadata);
    let Some(source) = cache.get::<PersistentVolumeClaim>(namespace, from) else {
        let why = format!("persistentvolumeclaim \"{from}\" not found");
        return Err(format!("error getting PVC {from} (namespace {namespace:?}) from api server: {why}"));
    };
    let phase = source.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("");
    if phase != "Bound" {
        // Go prints the whole status.
        return Err(format!("the PVC DataSource {from} must have a status of Bound.  Got {{{phase} [] map[] [] map[] map[] <nil> <nil>}}"));
    }
    if source.metadata.deletion_timestamp.is_some() {
        return Err(format!("the PVC DataSource {from} is currently being deleted"));
    }
    let class_of = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
    if class_of(source).is_none() {
        return Err(format!("the source PVC ({from}) storageclass cannot be empty"));
    }
    if class_of(claim).is_none() {
        return Err(format!("the requested PVC ({}) storageclass cannot be empty", name(&claim.metadata)));
    }
    let (requested, least) = (matching::requested(claim), matching::requested(source));
    if requested < least {
        return Err(format!(
            "error, new PVC request must be greater than or equal in size to the specified PVC data source, requested {requested} but source is {least}"
        ));
    }
    let volume_name = source.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
    if volume_name.is_empty() {
        return Err(format!("volume name is empty in source PVC {from}"));
    }
    let invalid = || "claim in dataSource not bound or invalid".to_owned();
    let volume = cache.get::<PersistentVolume>("", volume_name).ok_or_else(invalid)?;
    let spec = volume.spec.as_ref().ok_or_else(invalid)?;
    let csi = spec.csi.as_ref().filter(|csi| csi.driver == class.provisioner).ok_or_else(invalid)?;
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if !bound || !is_claimed_by(volume, source) {
        return Err(invalid());
    }
    let is_block = |mode: Option<&str>| mode == Some("Block");
    let mode = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let (is, wanted) = match (is_block(spec.volume_mode.as_deref()), is_block(mode)) {
        (true, false) => ("Block", "Filesystem"),
        (false, true) => ("Filesystem", "Block"),
        _ => return Ok(csi.volume_handle.clone()),
    };
    Err(format!(
        "the source PVC and destination PVCs must have the same volume mode for cloning.  Source is {is}, but new PVC requested {wanted}"
    ))
}
