//! Changes that are proposed upstream and not in the release that the machines follow. A machine does as upstream does today, unless it is
//! made with one of these: so an incident that is open upstream can be played with and without what would mend it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A change, by the issue or pull request that proposes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Fix {
    /// An attachment that may be there counts when another node wants the volume.
    UncertainAttachmentCounts,
    /// A VolumeAttachment of a PersistentVolume that is gone is replaced by one of the PersistentVolume that is wanted.
    AttachmentOfDeadVolumeIsReplaced,
    /// A claim has a finalizer while its volume may be in the making.
    ClaimHeldWhileProvisioned,
    /// A kubelet that starts finds what is staged, too, and takes a `vol_data.json` that a pod lost from there.
    StagedVolumesAreFound,
}

impl Fix {
    /// All of them: the change, where it is proposed, what it does.
    pub const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::UncertainAttachmentCounts, "kubernetes#124334", "an uncertain attachment hinders an attach to another node (#71276)"),
        (
            Self::AttachmentOfDeadVolumeIsReplaced,
            "kubernetes#141541",
            "a VolumeAttachment of a PersistentVolume that is gone is replaced (external-attacher#66)",
        ),
        (
            Self::ClaimHeldWhileProvisioned,
            "external-provisioner#673",
            "a finalizer holds a claim while its volume may be in the making (external-provisioner#486)",
        ),
        (
            Self::StagedVolumesAreFound,
            "kubernetes#138454",
            "a kubelet that starts finds what is staged without a pod's directory (#121937), or without its vol_data.json (#101791)",
        ),
    ];

    /// `kubernetes#124334`.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(fix, ..)| *fix == self).map_or("", |(_, name, _)| name)
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of [`Fix::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fix `{0}`; there are {names}", names = Fix::ALL.map(|(_, name, _)| name).join(", "))]
pub struct NoFix(String);

impl FromStr for Fix {
    type Err = NoFix;

    fn from_str(name: &str) -> Result<Self, NoFix> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(fix, ..)| *fix).ok_or_else(|| NoFix(name.to_owned()))
    }
}

impl TryFrom<String> for Fix {
    type Error = NoFix;

    fn try_from(name: String) -> Result<Self, NoFix> {
        name.parse()
    }
}

impl From<Fix> for String {
    fn from(fix: Fix) -> Self {
        fix.name().to_owned()
    }
}

/// The changes that are in; none by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fixes(BTreeSet<Fix>);

impl Fixes {
    pub fn all() -> Self {
        Fix::ALL.into_iter().map(|(fix, ..)| fix).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, fix: Fix) -> bool {
        self.0.contains(&fix)
    }

    pub fn iter(&self) -> impl Iterator<Item = Fix> {
        self.0.iter().copied()
    }
}

impl FromIterator<Fix> for Fixes {
    fn from_iter<I: IntoIterator<Item = Fix>>(fixes: I) -> Self {
        Self(fixes.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fix_is_known_by_its_name() {
        for (fix, name, _) in Fix::ALL {
            assert_eq!(name.parse(), Ok(fix));
            assert_eq!(serde_json::to_value(fix).unwrap(), serde_json::json!(name));
            assert!(Fixes::all().has(fix) && !Fixes::default().has(fix));
        }
        assert!("kubernetes#1".parse::<Fix>().unwrap_err().to_string().contains("kubernetes#124334"));
    }
}
