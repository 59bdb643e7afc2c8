//! What a scenario leaves behind (kubernetes-storage-path.md §8.1, S20 and S21, for a whole scenario): by [`Facts`] from before and after
//! it, which both the virtual and the real world can tell.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What there is in a world, by name. A world leaves out what it cannot see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub volumes: BTreeSet<String>,
    /// In any state but `detached`: `vol-1 on i-1`.
    pub attachments: BTreeSet<String>,
    /// Of EBS volumes in the instances: `vol-1 on i-1`.
    pub devices: BTreeSet<String>,
    /// Of EBS volumes: `vol-1 at /path on i-1`.
    pub mounts: BTreeSet<String>,
    pub file_systems: BTreeSet<String>,
    pub mount_targets: BTreeSet<String>,
    pub access_points: BTreeSet<String>,
    /// `namespace/name`.
    pub claims: BTreeSet<String>,
    pub persistent_volumes: BTreeSet<String>,
    pub volume_attachments: BTreeSet<String>,
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

/// One sort of things: how it is called, and where it is.
type Sort = (&'static str, fn(&Facts) -> &BTreeSet<String>);

/// S20, S21: a scenario leaves nothing behind that was not there when it began.
pub fn no_leak(before: &Facts, after: &Facts) -> Vec<String> {
    let sorts: [Sort; 10] = [
        ("volume", |facts| &facts.volumes),
        ("attachment of", |facts| &facts.attachments),
        ("device of", |facts| &facts.devices),
        ("mount of", |facts| &facts.mounts),
        ("file system", |facts| &facts.file_systems),
        ("mount target", |facts| &facts.mount_targets),
        ("access point", |facts| &facts.access_points),
        ("PersistentVolumeClaim", |facts| &facts.claims),
        ("PersistentVolume", |facts| &facts.persistent_volumes),
        ("VolumeAttachment", |facts| &facts.volume_attachments),
    ];
    let left = sorts.iter().flat_map(|(what, of)| of(after).difference(of(before)).map(move |name| format!("{what} {name} is left")));
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_is_no_leak() {
        let before = Facts { volumes: ["old".to_owned()].into(), ..Facts::default() };
        let attachments = ["old on i".to_owned()].into();
        let after = Facts { volumes: ["new".to_owned(), "old".to_owned()].into(), attachments, ..Facts::default() };
        assert_eq!(no_leak(&before, &after), ["volume new is left", "attachment of old on i is left"]);
        assert_eq!(no_leak(&after, &before), Vec::<String>::new());
    }
}
