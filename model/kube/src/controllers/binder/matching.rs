//! Which volume suits a claim (§1.5; component-helpers `storage/volume/pv_helpers.go`, `index.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};

use crate::controllers::amount;
use crate::controllers::{class_of_claim, class_of_volume, is_claimed_by, name, namespace};
use crate::machine::{Cache, Index};
use crate::selector;

fn mode(mode: Option<&str>) -> &str {
    mode.filter(|mode| !mode.is_empty()).unwrap_or("Filesystem")
}

/// Whether one is a block device and the other a file system.
pub fn mode_differs(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    mode(of_volume) != mode(of_claim)
}

/// Bytes a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> u64 {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|resources| resources.requests.as_ref());
    amount::storage(requests)
}

/// Bytes a volume has.
pub fn capacity(volume: &PersistentVolume) -> u64 {
    amount::storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn modes(modes: Option<&Vec<String>>) -> BTreeSet<&str> {
    modes.into_iter().flatten().map(String::as_str).collect()
}

fn volume_modes(volume: &PersistentVolume) -> BTreeSet<&str> {
    modes(volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()))
}

fn claim_modes(claim: &PersistentVolumeClaim) -> BTreeSet<&str> {
    modes(claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()))
}

fn attributes_class_differs(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or("");
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or("");
    of_volume != of_claim
}

/// Why a volume that a claim names cannot be bound to it (`checkVolumeSatisfyClaim`).
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(format!("the volume is marked for deletion \"{}\"", name(&volume.metadata)));
    }
    let why = if capacity(volume) < requested(claim) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if attributes_class_differs(volume, claim) {
        "volumeAttributesClassName does not match"
    } else if mode_differs(volume, claim) {
        "incompatible volumeMode"
    } else if !claim_modes(claim).is_subset(&volume_modes(volume)) {
        "incompatible accessMode"
    } else {
        return Ok(());
    };
    Err(why.to_owned())
}

/// The volumes that a claim may be bound to as far as claimRef and class go: its own, and those of its class that are nobody's.
pub fn candidates<'a>(cache: &'a Cache, claim: &PersistentVolumeClaim) -> impl Iterator<Item = &'a Arc<PersistentVolume>> {
    let address = format!("{}/{}", namespace(&claim.metadata), name(&claim.metadata));
    cache.found(Index::VolumesByClaim, &address).chain(cache.found(Index::VolumesFree, class_of_claim(claim)))
}

/// The volume to bind a claim to: of those with the fewest access modes beyond the wanted ones that have a match, the smallest.
/// `node` makes it the scheduler's question (the volume must fit the node); without it and with `delay`, only a volume that
/// is bound to the claim already counts, because the scheduler decides.
pub fn best<'a>(
    volumes: impl Iterator<Item = &'a Arc<PersistentVolume>>,
    claim: &PersistentVolumeClaim,
    node: Option<&Node>,
    excluded: &BTreeSet<String>,
    delay: bool,
) -> Option<Arc<PersistentVolume>> {
    let wanted = claim_modes(claim);
    // Candidate sets in ascending number of modes; sets of one size in a fixed order.
    let mut candidates: BTreeMap<(usize, BTreeSet<&str>), Vec<&Arc<PersistentVolume>>> = BTreeMap::new();
    for volume in volumes {
        let has = volume_modes(volume);
        if wanted.is_subset(&has) {
            candidates.entry((has.len(), has)).or_default().push(volume);
        }
    }
    for set in candidates.into_values() {
        match best_of(&set, claim, node, excluded, delay) {
            Found::Best(volume) => return Some(volume),
            Found::Elsewhere => return None,
            Found::Nothing => {}
        }
    }
    None
}

enum Found {
    Best(Arc<PersistentVolume>),
    /// The claim has a volume, but not on this node.
    Elsewhere,
    Nothing,
}

fn best_of(
    set: &[&Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
    node: Option<&Node>,
    excluded: &BTreeSet<String>,
    delay: bool,
) -> Found {
    let request = requested(claim);
    let wanted_class = class_of_claim(claim);
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let mut best: Option<(u64, &Arc<PersistentVolume>)> = None;
    for volume in set {
        let volume: &Arc<PersistentVolume> = volume;
        if excluded.contains(name(&volume.metadata)) {
            continue;
        }
        let claimed = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
        if claimed && !is_claimed_by(volume, claim) {
            continue;
        }
        let size = capacity(volume);
        if size < request
            || mode_differs(volume, claim)
            || attributes_class_differs(volume, claim)
            || volume.metadata.deletion_timestamp.is_some()
        {
            continue;
        }
        let fits = node.is_none_or(|node| selector::volume_fits(volume, node));
        if claimed {
            return if fits { Found::Best(volume.clone()) } else { Found::Elsewhere };
        }
        if node.is_none() && delay {
            continue;
        }
        let available = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
        if !available
            || !selector.is_none_or(|selector| selector::labels_match(selector, volume.metadata.labels.as_ref()))
            || class_of_volume(volume) != wanted_class
            || !fits
        {
            continue;
        }
        if best.is_none_or(|(smallest, _)| size < smallest) {
            best = Some((size, volume));
        }
    }
    best.map_or(Found::Nothing, |(_, volume)| Found::Best(volume.clone()))
}
