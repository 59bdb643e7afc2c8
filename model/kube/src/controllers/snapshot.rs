//! snapshot-controller, the part that knows no driver (§1.10): binds each VolumeSnapshot to a VolumeSnapshotContent and keeps both,
//! and the claim that a snapshot is made of, until they may go.
//!
//! ```text
//!  snapshot of a claim ─ class, finalizers, content snapcontent-<uid> ─▶ bound ─ content's status (the sidecar's) ─▶ ready
//!  snapshot of a content ─ content's volumeSnapshotRef.uid ─▶ bound ─▶ ready
//!  deleted ─ no claim restores it ─▶ content: being-deleted ─ policy Delete ▶ content deleted ▶ gone ▶ drop finalizers
//!                                                           └ policy Retain ▶ drop finalizers; the content stays
//! ```

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::{annotate, annotation, drop_finalizer, has_finalizer, is_claimed_by, name};
use crate::events::{EventRecord, EventType};
use crate::machine::{Backoff, Cache, Effect, Index, Input, Queue, Reject};
use crate::object::{Key, Kind, Object};
use crate::snapshots::{self, BEING_DELETED, BOUND_FINALIZER, CLAIM_FINALIZER, CONTENT_FINALIZER, DEFAULT_CLASS, Item, SOURCE_FINALIZER};
use crate::write::{ApiError, Write};

mod status;

/// `source.component` of its events.
const COMPONENT: &str = "snapshot-controller";
/// `--retry-interval-start` and `--retry-interval-max` as they are when not given.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

/// Why a snapshot is not what it should be.
enum Trouble {
    /// Told in its status and in an event, unless the status says so already.
    Status { reason: &'static str, message: String, not_ready: bool },
    /// Only tried again.
    Again,
}

/// What a step of a snapshot came to.
enum Step {
    /// A write is on its way, or one has to end first.
    Writing,
    /// Nothing to do here.
    Done,
}

type Stepped = Result<Step, Trouble>;

impl Trouble {
    fn status(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Status { reason, message: message.into(), not_ready: true }
    }
}

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct SnapshotController {
    cache: Cache,
    work: Queue,
}

impl SnapshotController {
    pub fn step(&mut self, input: &Input, out: &mut Vec<Effect>) -> Result<(), Reject> {
        match input {
            Input::Booted => self.work.boot(),
            Input::Changed(change) => {
                self.cache.apply(change);
                self.touched(change.object());
            }
            Input::Written { call, result } => {
                let done = self.work.answer_part(&mut self.cache, *call, result, BACKOFF, out)?;
                self.refused(&done.item, result, out);
            }
            Input::Fired(timer) => self.work.retry(&timer.item),
            Input::Csi { call, .. } | Input::Listed { call, .. } => return Err(Reject::UnknownCall { call: *call }),
        }
        while let Some(item) = self.work.take() {
            if item.kind == snapshots::snapshots() {
                self.sync_snapshot(&item, out);
            } else if item.kind == snapshots::contents() {
                self.sync_content(&item, out);
            }
        }
        Ok(())
    }

    fn touched(&mut self, object: &Object) {
        if let Object::PersistentVolumeClaim(claim) = object {
            // The finalizer may be one that this controller put there before it was started anew.
            if has_finalizer(&claim.metadata, CLAIM_FINALIZER) {
                let address = format!("{}/{}", super::namespace(&claim.metadata), name(&claim.metadata));
                let of_it: Vec<Key> = self.cache.find(Index::SnapshotsByClaim, &address).cloned().collect();
                of_it.into_iter().for_each(|snapshot| self.work.mark_gently(snapshot));
            }
            return;
        }
        let Some(item) = Item::of(object) else { return };
        let kind = object.kind();
        if kind == snapshots::contents() {
            let (namespace, name, _) = item.snapshot_ref();
            self.work.mark(Key::new(snapshots::snapshots(), namespace, name));
            self.work.mark(object.key());
        } else if kind == snapshots::snapshots() {
            self.work.mark(object.key());
            let content = item.bound_content().map_or_else(|| dynamic_content(&item), str::to_owned);
            self.work.mark(Key::new(snapshots::contents(), "", &content));
        }
    }

    /// A refused content is told at once; what else is refused is only tried again.
    fn refused(&self, item: &Key, result: &Result<Object, ApiError>, out: &mut Vec<Effect>) {
        let Some(snapshot) = Item::at(&self.cache, item).filter(|_| item.kind == snapshots::snapshots()) else { return };
        let Err(error) = result else { return };
        let content = error.details.as_ref().is_some_and(|details| details.name == dynamic_content(&snapshot));
        if content && !error.is_already_exists() && !error.is_conflict() && !error.is_not_found() {
            let message = format!("Error creating volume snapshot content object for snapshot {}: {error}.", snapshot.address());
            tell(&snapshot, EventType::Warning, "CreateSnapshotContentFailed", message, out);
        }
    }

    fn sync_snapshot(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(snapshot) = Item::at(&self.cache, item) else {
            return self.work.forget(item, out);
        };
        match self.steps(item, &snapshot, out) {
            Ok(Step::Writing) => {}
            Ok(Step::Done) => self.work.succeed(item),
            Err(Trouble::Again) => self.work.fail(item, BACKOFF, out),
            Err(Trouble::Status { reason, message, not_ready }) => {
                if snapshot.error() != Some(message.as_str()) {
                    tell(&snapshot, EventType::Warning, reason, message.clone(), out);
                    let mut updated = snapshot.clone();
                    updated.set_status(status::failed(&snapshot, &message, not_ready));
                    if self.work.write(item, Write::update_status(updated.object()), out) {
                        return;
                    }
                }
                self.work.fail(item, BACKOFF, out);
            }
        }
    }

    /// All that a snapshot needs, in upstream's order, up to the first write.
    fn steps(&mut self, item: &Key, snapshot: &Item, out: &mut Vec<Effect>) -> Stepped {
        match self.class_step(item, snapshot, out) {
            Ok(Step::Done) => {}
            // A class that is gone does not keep its snapshots.
            Err(Trouble::Status { message, .. })
                if snapshot.is_terminating() && snapshot.error() == Some(message.as_str()) && snapshot.class_name().is_some() => {}
            other => return other,
        }
        if let Step::Writing = self.free_claim(item, snapshot, false, out) {
            return Ok(Step::Writing);
        }
        if snapshot.is_terminating() {
            return self.deletion_step(item, snapshot, out);
        }
        if snapshot.source_claim().is_some() == snapshot.source_content().is_some() {
            let why = "Exactly one of PersistentVolumeClaimName and VolumeSnapshotContentName should be specified";
            return Err(Trouble::status("SnapshotValidationError", why));
        }
        let content = self.content_of(snapshot)?;
        if let Step::Writing = self.protect(item, snapshot, content.as_ref(), out) {
            return Ok(Step::Writing);
        }
        if snapshot.is_ready() && snapshot.bound_content().is_some() {
            return self.check_ready(snapshot);
        }
        match content {
            Some(content) => self.bind_step(item, snapshot, &content, out),
            None if snapshot.source_content().is_some() => {
                Err(Trouble::status("SnapshotContentMissing", "VolumeSnapshotContent is missing"))
            }
            None => self.create_step(item, snapshot, out),
        }
    }

    /// `checkAndUpdateSnapshotClass`: the named class must exist; where none is named the only default one of the driver is taken.
    fn class_step(&mut self, item: &Key, snapshot: &Item, out: &mut Vec<Effect>) -> Stepped {
        let keep = |reason, message| Err(Trouble::Status { reason, message, not_ready: false });
        if let Some(class) = snapshot.class_name() {
            if Item::class(&self.cache, class).is_some() {
                return Ok(Step::Done);
            }
            let why = snapshots::not_found("volumesnapshotclass", class);
            return keep("GetSnapshotClassFailed", format!("Failed to get snapshot class with error {why}"));
        }
        if snapshot.source_content().is_some() {
            return Ok(Step::Done);
        }
        match self.default_class(snapshot) {
            Ok(class) => {
                let mut updated = snapshot.clone();
                updated.set_spec("volumeSnapshotClassName", json!(class));
                self.work.write(item, Write::update(updated.object()), out);
                Ok(Step::Writing)
            }
            Err(why) => keep("SetDefaultSnapshotClassFailed", format!("Failed to set default snapshot class with error {why}")),
        }
    }

    fn default_class(&self, snapshot: &Item) -> Result<String, String> {
        let volume = self.volume_of(snapshot)?;
        let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        let driver = &csi.ok_or_else(|| format!("snapshotting non-CSI volumes is not supported, snapshot:{}", snapshot.address()))?.driver;
        let all = self.cache.keys(&snapshots::classes());
        let defaults: Vec<Item> = all
            .iter()
            .filter_map(|key| Item::at(&self.cache, key))
            .filter(|class| annotation(class.metadata(), DEFAULT_CLASS) == Some("true") && class.text(&["driver"]) == Some(driver))
            .collect();
        match defaults.as_slice() {
            [] => Err("cannot find default snapshot class".to_owned()),
            [one] => Ok(one.name().to_owned()),
            many => Err(format!("{} default snapshot classes were found", many.len())),
        }
    }

    fn claim_of(&self, snapshot: &Item) -> Result<&PersistentVolumeClaim, String> {
        let claim = snapshot.source_claim().ok_or_else(|| "the snapshot source PVC name is not specified".to_owned())?;
        if claim.is_empty() {
            return Err(format!("the PVC name is not specified in snapshot {}", snapshot.address()));
        }
        let found = self.cache.get::<PersistentVolumeClaim>(snapshot.namespace(), claim);
        found.map(|claim| &**claim).ok_or_else(|| {
            let why = format!("persistentvolumeclaim \"{claim}\" not found");
            format!("failed to retrieve PVC {claim} from the lister: {why:?}")
        })
    }

    fn volume_of(&self, snapshot: &Item) -> Result<&PersistentVolume, String> {
        let claim = self.claim_of(snapshot)?;
        let claim_name = name(&claim.metadata);
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
            return Err(format!("the PVC {claim_name} is not yet bound to a PV, will not attempt to take a snapshot"));
        }
        let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        let Some(volume) = self.cache.get::<PersistentVolume>("", volume_name) else {
            let why = format!("persistentvolumes \"{volume_name}\" not found");
            return Err(format!("failed to retrieve PV {volume_name} from the API server: {why:?}"));
        };
        if !is_claimed_by(volume, claim) {
            return Err("claim in dataSource not bound or invalid".to_owned());
        }
        Ok(volume)
    }

    /// `getPreprovisionedContentFromStore` and `getDynamicallyProvisionedContentFromStore`: the snapshot's content where there is one, and
    /// trouble where it is another's.
    fn content_of(&self, snapshot: &Item) -> Result<Option<Item>, Trouble> {
        let dynamic = snapshot.source_content().is_none();
        let content_name = snapshot.source_content().map_or_else(|| dynamic_content(snapshot), str::to_owned);
        if content_name.is_empty() {
            return Err(Trouble::Again);
        }
        let Some(content) = Item::content(&self.cache, &content_name) else { return Ok(None) };
        if dynamic && content.volume_handle().is_none() {
            let why = format!("VolumeSnapshotContent {content_name} is pre-provisioned while expecting a dynamically provisioned one");
            return Err(Trouble::status("SnapshotContentMismatch", why));
        }
        if !dynamic && content.given_handle().is_none() {
            let why = "VolumeSnapshotContent is dynamically provisioned while expecting a pre-provisioned one";
            return Err(Trouble::status("SnapshotContentMismatch", why));
        }
        let (namespace, name, uid) = content.snapshot_ref();
        let same = (namespace, name) == (snapshot.namespace(), snapshot.name());
        if !same || !(uid == snapshot.uid() || (!dynamic && uid.is_empty())) {
            let why = format!("VolumeSnapshotContent [{content_name}] is bound to a different snapshot");
            return Err(Trouble::status("SnapshotContentMisbound", why));
        }
        Ok(Some(content))
    }

    /// The snapshot's own finalizers.
    fn protect(&mut self, item: &Key, snapshot: &Item, content: Option<&Item>, out: &mut Vec<Effect>) -> Step {
        let has = |finalizer| has_finalizer(snapshot.metadata(), finalizer);
        let bound = snapshot.bound_content().is_some() && content.is_some_and(Item::is_to_be_deleted);
        let missing: Vec<String> = [(SOURCE_FINALIZER, true), (BOUND_FINALIZER, bound)]
            .into_iter()
            .filter(|(finalizer, needed)| *needed && !has(finalizer))
            .map(|(finalizer, _)| finalizer.to_owned())
            .collect();
        if missing.is_empty() {
            return Step::Done;
        }
        let mut updated = snapshot.clone();
        updated.metadata_mut().finalizers.get_or_insert_default().extend(missing);
        self.work.write(item, Write::update(updated.object()), out);
        Step::Writing
    }

    /// The snapshot and its content point at each other, and the snapshot's status says what the content's does.
    fn bind_step(&mut self, item: &Key, snapshot: &Item, content: &Item, out: &mut Vec<Effect>) -> Stepped {
        let bound = content.points_to(snapshot) && content.class_name().is_some();
        if snapshot.source_content().is_some() && !bound {
            let mut updated = content.clone();
            let mut reference = content.spec("volumeSnapshotRef").cloned().unwrap_or_else(|| json!({}));
            reference["uid"] = json!(snapshot.uid());
            updated.set_spec("volumeSnapshotRef", reference);
            if let Some(class) = snapshot.class_name() {
                updated.set_spec("volumeSnapshotClassName", json!(class));
            }
            if updated != *content {
                self.work.write(item, Write::update(updated.object()), out);
                return Ok(Step::Writing);
            }
        }
        if snapshot.source_claim().is_some() && content.given_handle().is_some() {
            let why = format!("Snapshot handle should not be set in content {} for dynamic provisioning", snapshot.address());
            return Err(Trouble::status("SnapshotHandleSet", why));
        }
        let next = status::of_content(snapshot, content);
        if next == snapshot.status() {
            return Ok(Step::Done);
        }
        let mut updated = snapshot.clone();
        updated.set_status(next);
        let was_cut = snapshot.text(&["status", "creationTime"]).is_some();
        if !was_cut && updated.text(&["status", "creationTime"]).is_some() {
            let message = format!("Snapshot {} was successfully created by the CSI driver.", snapshot.address());
            tell(snapshot, EventType::Normal, "SnapshotCreated", message, out);
        }
        if !snapshot.is_ready() && updated.is_ready() {
            tell(snapshot, EventType::Normal, "SnapshotReady", format!("Snapshot {} is ready to use.", snapshot.address()), out);
        }
        self.work.write(item, Write::update_status(updated.object()), out);
        Ok(Step::Writing)
    }

    /// A snapshot of a claim that has no content yet.
    fn create_step(&mut self, item: &Key, snapshot: &Item, out: &mut Vec<Effect>) -> Stepped {
        let failed = |why: String| {
            Err(Trouble::status("SnapshotContentCreationFailed", format!("Failed to create snapshot content with error {why}")))
        };
        let claim = match self.claim_of(snapshot) {
            Ok(claim) => claim.clone(),
            Err(_) => return failed(not_updated(snapshot.name(), "cannot get claim from snapshot")),
        };
        if !has_finalizer(&claim.metadata, CLAIM_FINALIZER) {
            if claim.metadata.deletion_timestamp.is_some() {
                return failed(not_updated(name(&claim.metadata), "cannot add finalizer on claim because it is being deleted"));
            }
            let mut updated = claim;
            updated.metadata.finalizers.get_or_insert_default().push(CLAIM_FINALIZER.to_owned());
            self.work.write(item, Write::update(updated), out);
            return Ok(Step::Writing);
        }
        match self.new_content(snapshot) {
            Ok(content) => {
                if self.work.write(item, Write::create(content.object()), out) {
                    let message = format!("Waiting for a snapshot {} to be created by the CSI driver.", snapshot.address());
                    tell(snapshot, EventType::Normal, "CreatingSnapshot", message, out);
                }
                Ok(Step::Writing)
            }
            Err(why) => failed(why),
        }
    }

    fn new_content(&self, snapshot: &Item) -> Result<Item, String> {
        let input = |why: String| format!("failed to get input parameters to create snapshot {}: {why:?}", snapshot.name());
        // Checked before; it may have gone meanwhile.
        let class_name = snapshot.class_name().unwrap_or("");
        let class = Item::class(&self.cache, class_name).ok_or_else(|| input(snapshots::not_found("volumesnapshotclass", class_name)))?;
        let volume = self.volume_of(snapshot).map_err(input)?;
        let spec = volume.spec.as_ref();
        let csi = spec.and_then(|spec| spec.csi.as_ref());
        let csi = csi.ok_or_else(|| format!("cannot find CSI PersistentVolumeSource for volume {}", name(&volume.metadata)))?;
        let mut content = json!({
            "volumeSnapshotRef": snapshot.reference(),
            "source": {"volumeHandle": csi.volume_handle},
            "volumeSnapshotClassName": class_name,
            "deletionPolicy": class.text(&["deletionPolicy"]),
            "driver": class.text(&["driver"]),
        });
        if let Some(mode) = spec.and_then(|spec| spec.volume_mode.as_deref()) {
            content["sourceVolumeMode"] = json!(mode);
        }
        let metadata = ObjectMeta { name: Some(dynamic_content(snapshot)), ..ObjectMeta::default() };
        Ok(Item::new(&snapshots::contents(), "VolumeSnapshotContent", metadata, content))
    }

    /// `syncReadySnapshot`: what is bound must still be there.
    fn check_ready(&self, snapshot: &Item) -> Stepped {
        let Some(content) = snapshot.bound_content().and_then(|name| Item::content(&self.cache, name)) else {
            return Err(Trouble::status("SnapshotContentMissing", "VolumeSnapshotContent is missing"));
        };
        if !content.points_to(snapshot) {
            return Err(Trouble::status("SnapshotMisbound", "VolumeSnapshotContent is not bound to the VolumeSnapshot correctly"));
        }
        Ok(Step::Done)
    }

    /// The claim is let go once no snapshot of it is being made; `without`: this one does not count any more.
    fn free_claim(&mut self, item: &Key, snapshot: &Item, without: bool, out: &mut Vec<Effect>) -> Step {
        let Ok(claim) = self.claim_of(snapshot) else { return Step::Done };
        if !has_finalizer(&claim.metadata, CLAIM_FINALIZER) {
            return Step::Done;
        }
        let address = format!("{}/{}", snapshot.namespace(), name(&claim.metadata));
        let mut of_it = self.cache.find(Index::SnapshotsByClaim, &address);
        let is_used = of_it.any(|other| !(without && other == item) && Item::at(&self.cache, other).is_some_and(|other| !other.is_ready()));
        if is_used {
            return Step::Done;
        }
        let mut updated = claim.clone();
        drop_finalizer(&mut updated.metadata, CLAIM_FINALIZER);
        self.work.write(item, Write::update(updated), out);
        Step::Writing
    }

    fn is_being_restored(&self, snapshot: &Item) -> bool {
        let address = snapshot.address();
        let mut claims = self.cache.found::<PersistentVolumeClaim>(Index::ClaimsBySnapshot, &address);
        claims.any(|claim| claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending"))
    }

    fn deletion_step(&mut self, item: &Key, snapshot: &Item, out: &mut Vec<Effect>) -> Stepped {
        let has = |finalizer| has_finalizer(snapshot.metadata(), finalizer);
        if !has(SOURCE_FINALIZER) && !has(BOUND_FINALIZER) {
            return Ok(Step::Done);
        }
        let bound = snapshot.bound_content().map(str::to_owned);
        let content_name = bound.or_else(|| snapshot.source_claim().map(|_| dynamic_content(snapshot)));
        let content = content_name.and_then(|name| Item::content(&self.cache, &name)).filter(|content| content.points_to(snapshot));
        if content.is_some() && self.is_being_restored(snapshot) {
            tell(snapshot, EventType::Warning, "SnapshotDeletePending", "Snapshot is being used to restore a PVC".to_owned(), out);
            return Err(Trouble::Again);
        }
        let deletes = content.as_ref().is_some_and(Item::is_to_be_deleted);
        if let Some(content) = &content {
            if self.mark_deleted(item, content, out) {
                return Ok(Step::Writing);
            }
            if deletes && !content.is_terminating() {
                self.work.write(item, Write::delete(content.object().key()), out);
                return Ok(Step::Writing);
            }
        }
        // First the claim: once the snapshot is gone nothing leads to it any more.
        if let Step::Writing = self.free_claim(item, snapshot, true, out) {
            return Ok(Step::Writing);
        }
        let mut updated = snapshot.clone();
        drop_finalizer(updated.metadata_mut(), SOURCE_FINALIZER);
        if !deletes {
            drop_finalizer(updated.metadata_mut(), BOUND_FINALIZER);
        }
        if updated == *snapshot {
            return Ok(Step::Done);
        }
        self.work.write(item, Write::update(updated.object()), out);
        Ok(Step::Writing)
    }

    /// The annotation by which the sidecar knows that it may delete. Whether a write was needed.
    fn mark_deleted(&mut self, item: &Key, content: &Item, out: &mut Vec<Effect>) -> bool {
        let mut updated = content.clone();
        if content.has_annotation(BEING_DELETED) {
            return false;
        }
        annotate(&mut updated.metadata_mut().annotations, BEING_DELETED, "yes");
        self.work.write(item, Write::update(updated.object()), out);
        true
    }

    fn sync_content(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let Some(content) = Item::at(&self.cache, item) else {
            return self.work.forget(item, out);
        };
        if content.volume_handle().is_some() == content.given_handle().is_some() {
            let why = "Exactly one of VolumeHandle and SnapshotHandle should be specified";
            tell(&content, EventType::Warning, "ContentValidationError", why.to_owned(), out);
            return self.work.fail(item, BACKOFF, out);
        }
        let (namespace, name, uid) = content.snapshot_ref();
        if uid.is_empty() {
            return self.work.succeed(item);
        }
        if !content.is_terminating() && !has_finalizer(content.metadata(), CONTENT_FINALIZER) {
            let mut updated = content.clone();
            updated.metadata_mut().finalizers.get_or_insert_default().push(CONTENT_FINALIZER.to_owned());
            self.work.write(item, Write::update(updated.object()), out);
            return;
        }
        // A content whose snapshot is missing stays: it may have been copied from another cluster.
        let snapshot = Item::snapshot(&self.cache, namespace, name).filter(|snapshot| snapshot.uid() == uid);
        let is_leaving = snapshot.is_some_and(|snapshot| {
            let has = |finalizer| has_finalizer(snapshot.metadata(), finalizer);
            snapshot.is_terminating() && (has(SOURCE_FINALIZER) || has(BOUND_FINALIZER))
        });
        if is_leaving && self.mark_deleted(item, &content, out) {
            return;
        }
        self.work.succeed(item);
    }
}

/// `snapcontent-<uid>`.
fn dynamic_content(snapshot: &Item) -> String {
    format!("snapcontent-{}", snapshot.uid())
}

fn not_updated(name: &str, why: &str) -> String {
    format!("snapshot controller failed to update {name} on API server: {why}")
}

fn tell(item: &Item, event_type: EventType, reason: &str, message: String, out: &mut Vec<Effect>) {
    let regarding: ObjectReference = item.reference();
    out.push(Effect::Record(EventRecord::new(regarding, event_type, reason, message, COMPONENT)));
}

/// What it needs to know.
pub fn kinds() -> Vec<Kind> {
    vec![snapshots::snapshots(), snapshots::contents(), snapshots::classes(), Kind::PersistentVolumeClaim, Kind::PersistentVolume]
}

#[cfg(test)]
mod tests;
