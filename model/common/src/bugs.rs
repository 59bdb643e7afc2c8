//! Bugs put into the machines on purpose, to see that a search finds them: the seeded bugs of kubernetes-storage-path.md §11 and some
//! of our own. They exist only with the feature `seeded-bugs`, which tests switch on; elsewhere [`on`] is a constant.

/// A bug. The comments name the incident of §8.4 where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Bug {
    /// 9: the attach/detach controller detaches before it has taken the volume off the node's list and looked again (PR #27837).
    DetachUnannounced = 1,
    /// 10: it looks again at what its watch showed, not at the API (PR #28095).
    HandshakeByWatch,
    /// 11: a detach that was decided on before another of the same volume had ended is carried out after it (#93902).
    DetachedTwice,
    /// 24: a NodeStageVolume that timed out counts as not done (PR #82492).
    StageTimeoutIsFinal,
    /// 25: after a NodeUnstageVolume that timed out the device counts as mounted still (#86360).
    UnstageTimeoutKeepsDevice,
    /// 26: after a NodeUnstageVolume that failed the device counts as mounted still (#106729).
    UnstageFailureKeepsDevice,
    /// 31: a claim that is being deleted is no longer a volume of its pods (PR #130335).
    DeletedClaimIsRefused,
    /// 44: a volume whose claim the watch has not shown yet is released (#83177).
    ReleasedByWatch,
    /// Ours: a report of `volumesInUse` that is under way is not considered.
    ReportUnderWayIgnored,
    /// Ours, and #113979: volumes of containers that ran before the kubelet are not wanted.
    AdoptedNotWanted,
    /// Ours, and #94108: a volume is deleted while it is attached.
    DeletedWhileAttached,
    /// Ours: an attachment to another node does not count.
    AttachedElsewhereIgnored,
}

impl Bug {
    pub const ALL: [Self; 12] = [
        Self::DetachUnannounced,
        Self::HandshakeByWatch,
        Self::DetachedTwice,
        Self::StageTimeoutIsFinal,
        Self::UnstageTimeoutKeepsDevice,
        Self::UnstageFailureKeepsDevice,
        Self::DeletedClaimIsRefused,
        Self::ReleasedByWatch,
        Self::ReportUnderWayIgnored,
        Self::AdoptedNotWanted,
        Self::DeletedWhileAttached,
        Self::AttachedElsewhereIgnored,
    ];
}

#[cfg(feature = "seeded-bugs")]
static SEEDED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Puts one bug into every machine of this process, or takes it out again.
#[cfg(feature = "seeded-bugs")]
pub fn seed(bug: Option<Bug>) {
    SEEDED.store(bug.map_or(0, |bug| bug as u8), std::sync::atomic::Ordering::SeqCst);
}

/// Whether a bug is in.
#[cfg(feature = "seeded-bugs")]
pub fn on(bug: Bug) -> bool {
    SEEDED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether a bug is in: never, without the feature.
#[cfg(not(feature = "seeded-bugs"))]
pub const fn on(_: Bug) -> bool {
    false
}
