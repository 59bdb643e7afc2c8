//! What keeps the sources of volumes while these are made: finalizers on snapshots and claims, and when they go.

use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use model_common::csi::ContentSource;
use model_common::fixes::Fix;

use super::Provisioner;
use super::source::{self, CLONE_FINALIZER, Origin, SNAPSHOT_FINALIZER};
use crate::controllers::{drop_finalizer, has_finalizer, name, namespace};
use crate::machine::{Backoff, Effect, Index, Purpose, Timer};
use crate::object::Key;
use crate::snapshots::{self, Item};
use crate::write::Write;

/// `--snapshot-orphan-sweep-interval`.
const SWEEP: Duration = Duration::from_secs(300);

/// Holds a claim while its volume may be in the making, with [`Fix::ClaimHeldWhileProvisioned`].
const HOLD: &str = "provisioner.storage.kubernetes.io/volume-protection";

/// Where the source of a volume stands.
pub(super) enum Sourced {
    /// The request can go, with the source where there is one.
    Ready(Option<ContentSource>),
    /// A finalizer is being written, or somebody else makes the volume.
    Waiting,
}

fn is_pending(claim: &PersistentVolumeClaim) -> bool {
    matches!(claim.status.as_ref().and_then(|status| status.phase.as_deref()), None | Some("" | "Pending"))
}

impl Provisioner {
    /// Looks up a claim's source and puts the finalizer on it.
    pub(super) fn source_step(
        &mut self,
        item: &Key,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        out: &mut Vec<Effect>,
    ) -> Result<Sourced, String> {
        let Some(origin) = source::of(&self.driver, claim)? else { return Ok(Sourced::Ready(None)) };
        if let Origin::Other(_) = origin {
            let message = "Assuming an external populator will provision the volume".to_owned();
            self.tell(claim, (false, "Provisioning", message), out);
            return Ok(Sourced::Waiting);
        }
        let content = source::content(&self.cache, claim, class, &origin)?;
        let namespace = namespace(&claim.metadata);
        match &origin {
            Origin::Claim(from) => {
                if let Some(source) = self.cache.get::<PersistentVolumeClaim>(namespace, from)
                    && !has_finalizer(&source.metadata, CLONE_FINALIZER)
                {
                    let mut updated = (**source).clone();
                    updated.metadata.finalizers.get_or_insert_default().push(CLONE_FINALIZER.to_owned());
                    self.work.write(item, Write::update(updated), out);
                    return Ok(Sourced::Waiting);
                }
            }
            Origin::Snapshot(from) => {
                if let Some(mut snapshot) = Item::snapshot(&self.cache, namespace, from)
                    && !has_finalizer(snapshot.metadata(), SNAPSHOT_FINALIZER)
                {
                    snapshot.metadata_mut().finalizers.get_or_insert_default().push(SNAPSHOT_FINALIZER.to_owned());
                    self.work.write(item, Write::update(snapshot.object()), out);
                    return Ok(Sourced::Waiting);
                }
            }
            Origin::Other(_) => {}
        }
        Ok(Sourced::Ready(content))
    }

    /// Puts the finalizer on a claim before the driver is asked for its volume. Whether the driver has to wait for that.
    pub(super) fn hold(&mut self, item: &Key, claim: Option<&PersistentVolumeClaim>, out: &mut Vec<Effect>) -> bool {
        let Some(claim) = claim.filter(|claim| self.fixes.has(Fix::ClaimHeldWhileProvisioned) && !has_finalizer(&claim.metadata, HOLD))
        else {
            return false;
        };
        // Nothing may be put on what is being deleted, and nothing was begun for it.
        if claim.metadata.deletion_timestamp.is_none() {
            let mut updated = claim.clone();
            updated.metadata.finalizers.get_or_insert_default().push(HOLD.to_owned());
            self.work.write(item, Write::update(updated), out);
        }
        true
    }

    /// Takes the finalizer off a claim whose volume has its PersistentVolume, or that gets none. Whether it had one.
    pub(super) fn let_go(&mut self, item: &Key, claim: Option<&PersistentVolumeClaim>, out: &mut Vec<Effect>) -> bool {
        let Some(claim) = claim.filter(|claim| has_finalizer(&claim.metadata, HOLD)) else { return false };
        let mut updated = claim.clone();
        drop_finalizer(&mut updated.metadata, HOLD);
        self.work.write(item, Write::update(updated), out);
        true
    }

    /// A claim that goes loses the finalizer once no claim is made of it any more (`CloningProtectionController`). Whether it had one.
    pub(super) fn free_origin(&mut self, item: &Key, claim: &PersistentVolumeClaim, out: &mut Vec<Effect>) -> bool {
        if !has_finalizer(&claim.metadata, CLONE_FINALIZER) {
            return false;
        }
        let address = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
        let pending = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
        if self.cache.found::<PersistentVolumeClaim>(Index::ClaimsByOrigin, &address).any(|other| pending(other)) {
            self.work.fail(item, Backoff::CONTROLLER, out);
            return true;
        }
        let mut updated = claim.clone();
        drop_finalizer(&mut updated.metadata, CLONE_FINALIZER);
        self.work.write(item, Write::update(updated), out);
        true
    }

    /// A snapshot of which a volume was made is let go.
    pub(super) fn free_snapshot(&mut self, item: &Key, out: &mut Vec<Effect>) {
        let snapshot = Item::at(&self.cache, item).filter(|snapshot| has_finalizer(snapshot.metadata(), SNAPSHOT_FINALIZER));
        let Some(mut snapshot) = snapshot.filter(|_| self.restored.contains(item)) else {
            self.restored.remove(item);
            return self.work.succeed(item);
        };
        drop_finalizer(snapshot.metadata_mut(), SNAPSHOT_FINALIZER);
        self.work.write(item, Write::update(snapshot.object()), out);
    }

    pub(super) fn arm_sweep(&self, out: &mut Vec<Effect>) {
        if self.driver.snapshots {
            out.push(Effect::Arm(Timer { purpose: Purpose::Resync, item: Key::new(snapshots::snapshots(), "", "") }, SWEEP));
        }
    }

    /// Finalizers that a crash or a deleted claim left (`SnapshotFinalizerController`).
    pub(super) fn sweep(&mut self, out: &mut Vec<Effect>) {
        for key in self.cache.keys(&snapshots::snapshots()) {
            let Some(snapshot) = Item::at(&self.cache, &key) else { continue };
            let address = snapshot.address();
            let mut claims = self.cache.found::<PersistentVolumeClaim>(Index::ClaimsBySnapshot, &address);
            if has_finalizer(snapshot.metadata(), SNAPSHOT_FINALIZER) && !claims.any(|claim| is_pending(claim)) {
                self.restored.insert(key.clone());
                self.work.mark_gently(key);
            }
        }
        self.arm_sweep(out);
    }
}
