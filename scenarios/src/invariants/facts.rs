//! What must hold in every world after every step (kubernetes-storage-path.md §8.1), as functions with names.
//! They look at [`Facts`], which both the virtual and the real world can tell.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The state of a world, as far as the invariants care. A world leaves out what it cannot see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub volumes: Vec<VolumeFact>,
    pub file_systems: BTreeSet<String>,
    pub mount_targets: BTreeSet<String>,
    pub access_points: BTreeSet<String>,
    pub persistent_volumes: Vec<PvFact>,
    pub claims: Vec<ClaimFact>,
    /// Volumes whose device exists in an instance: (instance id, volume id). None: not visible from here.
    pub devices: Option<BTreeSet<(String, String)>>,
    /// EBS volumes that are mounted in an instance: (instance id, volume id, path).
    pub mounts: BTreeSet<(String, String, String)>,
    pub volume_attachments: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct VolumeFact {
    pub id: String,
    pub multi_attach: bool,
    /// Instances with an attachment in any state but `detached`.
    pub instances: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PvFact {
    pub name: String,
    /// `namespace/name` and uid of the claim in `claimRef`.
    pub claim: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClaimFact {
    /// `namespace/name`.
    pub name: String,
    pub uid: String,
    pub bound: bool,
    pub volume: Option<String>,
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// The invariant's name.
    pub invariant: String,
    /// What was seen.
    pub message: String,
    /// After which step.
    pub step: String,
}

/// Checks the invariants that hold at any time; what is wrong, as (name, message).
pub fn safety(facts: &Facts) -> Vec<(&'static str, String)> {
    let checks = [
        ("single-attach", single_attach(facts)),
        ("pv-bound-once", pv_bound_once(facts)),
        ("mounted-implies-attached", mounted_implies_attached(facts)),
    ];
    checks.into_iter().flat_map(|(name, found)| found.into_iter().map(move |message| (name, message))).collect()
}

/// S1: a volume without multi-attach is attached to at most one instance.
pub fn single_attach(facts: &Facts) -> Vec<String> {
    facts
        .volumes
        .iter()
        .filter(|volume| !volume.multi_attach && volume.instances.len() > 1)
        .map(|volume| format!("{} is attached to {}", volume.id, volume.instances.join(" and ")))
        .collect()
}

/// S11: a PersistentVolume has at most one bound claim, and that is the one its claimRef names.
pub fn pv_bound_once(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let mut by_volume: BTreeMap<&str, Vec<&ClaimFact>> = BTreeMap::new();
    for claim in facts.claims.iter().filter(|claim| claim.bound) {
        if let Some(volume) = &claim.volume {
            by_volume.entry(volume).or_default().push(claim);
        }
    }
    for (volume, claims) in by_volume {
        if let [first, second, ..] = claims.as_slice() {
            found.push(format!("PersistentVolume {volume} is bound to {} and {}", first.name, second.name));
        }
        let owner = facts.persistent_volumes.iter().find(|pv| pv.name == volume).and_then(|pv| pv.claim.as_ref());
        if let (Some((name, uid)), [claim]) = (owner, claims.as_slice())
            && !uid.is_empty()
            && *uid != claim.uid
        {
            found.push(format!("{} is bound to PersistentVolume {volume}, which names {name} (uid {uid})", claim.name));
        }
    }
    found
}

/// S4, S8: where an EBS volume is mounted, its device is there.
pub fn mounted_implies_attached(facts: &Facts) -> Vec<String> {
    let Some(devices) = &facts.devices else { return Vec::new() };
    facts
        .mounts
        .iter()
        .filter(|(instance, volume, _)| !devices.contains(&(instance.clone(), volume.clone())))
        .map(|(instance, volume, path)| format!("{volume} is mounted at {path} on {instance}, where it has no device"))
        .collect()
}

/// S20, S21: a scenario leaves nothing behind that was not there when it began.
pub fn no_leak(before: &Facts, after: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let volumes = |facts: &Facts| facts.volumes.iter().map(|volume| volume.id.clone()).collect::<BTreeSet<_>>();
    let attachments =
        |facts: &Facts| facts.volumes.iter().flat_map(|v| v.instances.iter().map(|i| format!("{} on {i}", v.id))).collect::<BTreeSet<_>>();
    let mounts = |facts: &Facts| facts.mounts.iter().map(|(i, v, path)| format!("{v} at {path} on {i}")).collect::<BTreeSet<_>>();
    let devices = |facts: &Facts| facts.devices.iter().flatten().map(|(i, v)| format!("{v} on {i}")).collect::<BTreeSet<_>>();
    let claims = |facts: &Facts| facts.claims.iter().map(|claim| claim.name.clone()).collect::<BTreeSet<_>>();
    let pvs = |facts: &Facts| facts.persistent_volumes.iter().map(|pv| pv.name.clone()).collect::<BTreeSet<_>>();
    let sets: [(&str, BTreeSet<String>, BTreeSet<String>); 10] = [
        ("volume", volumes(before), volumes(after)),
        ("attachment of", attachments(before), attachments(after)),
        ("device of", devices(before), devices(after)),
        ("mount of", mounts(before), mounts(after)),
        ("file system", before.file_systems.clone(), after.file_systems.clone()),
        ("mount target", before.mount_targets.clone(), after.mount_targets.clone()),
        ("access point", before.access_points.clone(), after.access_points.clone()),
        ("PersistentVolumeClaim", claims(before), claims(after)),
        ("PersistentVolume", pvs(before), pvs(after)),
        ("VolumeAttachment", before.volume_attachments.clone(), after.volume_attachments.clone()),
    ];
    for (what, before, after) in sets {
        found.extend(after.difference(&before).map(|name| format!("{what} {name} is left")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: &str, multi_attach: bool, instances: &[&str]) -> VolumeFact {
        VolumeFact { id: id.into(), multi_attach, instances: instances.iter().map(|i| (*i).into()).collect() }
    }

    #[test]
    fn two_attachments_need_multi_attach() {
        let facts = Facts { volumes: vec![volume("a", false, &["i1"]), volume("b", true, &["i1", "i2"])], ..Facts::default() };
        assert_eq!(safety(&facts), []);
        let facts = Facts { volumes: vec![volume("a", false, &["i1", "i2"])], ..Facts::default() };
        assert_eq!(safety(&facts), [("single-attach", "a is attached to i1 and i2".to_owned())]);
    }

    #[test]
    fn a_pv_has_one_claim() {
        let claim = |name: &str, uid: &str| ClaimFact { name: name.into(), uid: uid.into(), bound: true, volume: Some("pv".into()) };
        let pv = PvFact { name: "pv".into(), claim: Some(("d/a".into(), "1".into())) };
        let mut facts = Facts { persistent_volumes: vec![pv], claims: vec![claim("d/a", "1")], ..Facts::default() };
        assert_eq!(safety(&facts), []);
        facts.claims = vec![claim("d/a", "2")];
        assert_eq!(safety(&facts).len(), 1, "another claim of the same name");
        facts.claims = vec![claim("d/a", "1"), claim("d/b", "3")];
        assert_eq!(safety(&facts), [("pv-bound-once", "PersistentVolume pv is bound to d/a and d/b".to_owned())]);
    }

    #[test]
    fn a_mount_needs_its_device() {
        let mut facts = Facts { mounts: [("i".into(), "v".into(), "/p".into())].into(), ..Facts::default() };
        assert_eq!(safety(&facts), [], "devices cannot be seen");
        facts.devices = Some([("i2".into(), "v".into())].into());
        assert_eq!(safety(&facts).len(), 1);
        facts.devices = Some([("i".into(), "v".into())].into());
        assert_eq!(safety(&facts), []);
    }

    #[test]
    fn what_was_there_before_is_no_leak() {
        let before = Facts { volumes: vec![volume("old", false, &[])], ..Facts::default() };
        let after = Facts { volumes: vec![volume("old", false, &["i"]), volume("new", false, &[])], ..Facts::default() };
        assert_eq!(no_leak(&before, &after), ["volume new is left", "attachment of old on i is left"]);
        assert_eq!(no_leak(&after, &before), Vec::<String>::new());
    }
}
