//! The invariants by name: kubernetes-storage-path.md §8.1 and §8.2, row for row.

/// Who can see whether an invariant holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every world: the two APIs show it.
    Api,
    /// The virtual world, which hides nothing: it takes the calls between the components or the mounts of the nodes.
    Virtual,
    /// No single run of any world here, and why.
    Nowhere(&'static str),
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invariant {
    /// The specification's number: `S1`, `L1`.
    pub id: &'static str,
    /// As a scenario names it in `spec.invariants`.
    pub name: &'static str,
    /// What must hold.
    pub says: &'static str,
    pub reach: Reach,
}

/// The rows by number. Those whose reach is nowhere have no monitor.
#[allow(dead_code)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Rule {
    S1,
    S2,
    S3,
    S4,
    S5,
    S6,
    S7,
    S8,
    S9,
    S10,
    S11,
    S12,
    S13,
    S14,
    S15,
    S16,
    S17,
    S18,
    S19,
    S20,
    S21,
    S22,
    S23,
    S24,
    S25,
    S26,
    S27,
    S28,
    S29,
    S30,
    L1,
    L2,
    L3,
    L4,
    L5,
    L6,
    L7,
    L8,
    L9,
    L10,
    L11,
    L12,
    L13,
    L14,
}

impl Rule {
    /// Its row: [`ALL`] has the rows in the order of the variants, which a test holds.
    pub(super) fn row(self) -> &'static Invariant {
        &ALL[self as usize]
    }

    /// Its bit in a set of rules.
    pub(super) fn bit(self) -> u64 {
        1 << self as u8
    }
}

const fn row(id: &'static str, name: &'static str, reach: Reach, says: &'static str) -> Invariant {
    Invariant { id, name, says, reach }
}

const ALL: [Invariant; 44] = {
    use Reach::{Api, Nowhere, Virtual};
    [
        row(
            "S1",
            "single-attach",
            Api,
            "a volume without multi-attach is attached to at most one node, and no attach is asked for while another node has or may have it",
        ),
        row(
            "S2",
            "single-writer",
            Virtual,
            "the file system of a ReadWriteOnce volume is held for writing by containers of at most one node",
        ),
        row("S3", "rwop-one-pod", Virtual, "a ReadWriteOncePod volume is published for at most one pod of the cluster"),
        row(
            "S4",
            "mounted-implies-attached",
            Virtual,
            "nothing is detached where it is mounted, unless the node is unhealthy for 6 minutes, tainted out-of-service or its object gone",
        ),
        row("S5", "no-unstage-while-published", Virtual, "no NodeUnstageVolume while the volume is published on that node"),
        row("S6", "publish-after-stage", Virtual, "NodePublishVolume only if a NodeStageVolume succeeded after the last try to unstage"),
        row(
            "S7",
            "stage-unstage-apart",
            Virtual,
            "NodeStageVolume and NodeUnstageVolume of one volume on one node never work at the same time",
        ),
        row(
            "S8",
            "container-sees-its-volume",
            Virtual,
            "a container starts only if each of its volumes is a mount of the volume that is meant",
        ),
        row("S9", "no-unmount-under-container", Virtual, "no volume of a pod is unmounted while a container of the pod runs"),
        row(
            "S10",
            "delete-only-released",
            Virtual,
            "DeleteVolume only for what is attached and mounted nowhere and whose PersistentVolume is Released, of policy Delete, its claim gone",
        ),
        row(
            "S11",
            "pv-bound-once",
            Api,
            "a PersistentVolume has at most one Bound claim, the one its claimRef names, and the claimRef's uid changes only by being cleared",
        ),
        row(
            "S12",
            "retain-kept",
            Api,
            "a volume of policy Retain is never deleted by its driver, and a Bound claim never changes its volume",
        ),
        row(
            "S13",
            "claim-outlives-pods",
            Api,
            "a claim vanishes only when no scheduled pod refers to it; an ephemeral one when its pod has shut down",
        ),
        row("S14", "in-use-reported", Virtual, "a volume that is mounted, or being mounted, is in its node's volumesInUse"),
        row(
            "S15",
            "mount-after-handshake",
            Virtual,
            "a volume is staged only after it was in volumesAttached while it was in volumesInUse",
        ),
        row(
            "S16",
            "detach-after-report",
            Api,
            "volumesAttached holds only what is attached, and a detach begins only after the volume left it",
        ),
        row(
            "S17",
            "csi-order",
            Virtual,
            "create, attach, stage, publish, and the way back: each call only in the state that the CSI specification asks for",
        ),
        row(
            "S18",
            "csi-idempotent",
            Virtual,
            "a call that is repeated gives the same result, and no component has two calls for one volume under way",
        ),
        row(
            "S19",
            "attachment-is-true",
            Virtual,
            "a VolumeAttachment says attached only after ControllerPublishVolume succeeded, and goes only after ControllerUnpublishVolume did",
        ),
        row("S20", "no-leak", Virtual, "what a driver made has an owner in Kubernetes, is being made, or was deleted"),
        row(
            "S21",
            "clean-at-rest",
            Virtual,
            "at rest no mount, staged volume, vol_data.json, device or directory is left of pods that are gone",
        ),
        row("S22", "content-kept", Virtual, "the kubelet never removes the content of a volume"),
        row(
            "S23",
            "volume-limit",
            Api,
            "no node has more volumes than its limit, and the scheduler binds none beyond what the CSINode allows",
        ),
        row("S24", "node-affinity", Api, "each pod's node fits the nodeAffinity of the pod's PersistentVolumes"),
        row("S25", "capacity-is-real", Virtual, "a claim never shows more capacity than its file system has"),
        row(
            "S26",
            "copy-is-exact",
            Virtual,
            "a restored or cloned volume has its source's content at the moment of the cut, and no snapshot is used before it is ready",
        ),
        row("S27", "fs-group", Virtual, "a container starts only if its volume's files have the pod's fsGroup"),
        row("S28", "selinux-context", Nowhere("no world here has SELinux labels"), "a volume has one SELinux context on a node"),
        row(
            "S29",
            "finalizers-kept",
            Api,
            "an object with finalizers is never removed, and each finalizer goes only when its condition holds",
        ),
        row("S30", "no-stale-detach", Api, "no detach begins for a volume that a pod on that node has been wanting for a while"),
        row("L1", "pod-runs", Api, "a pod that can be scheduled, with claims that are or can be bound, runs within 10 minutes"),
        row("L2", "pod-goes", Api, "a deleted pod is gone within 5 minutes and its grace"),
        row("L3", "volume-detaches", Api, "a volume without a pod on its node is detached within 10 minutes"),
        row("L4", "node-gone-frees", Api, "10 minutes after a Node object was deleted its VolumeAttachments are gone"),
        row("L5", "deletion-ends", Api, "a deleted claim is gone within 15 minutes, and so is a released volume of policy Delete"),
        row("L6", "reselects-node", Api, "a claim whose selected node cannot serve it loses that node within 15 minutes"),
        row("L7", "expansion-ends", Api, "a claim that asks for more has it, or is told that it cannot, within 15 minutes"),
        row("L8", "snapshot-ends", Api, "the making and the deletion of a snapshot end within 20 minutes"),
        row("L9", "retries-soon", Virtual, "a kubelet tries again within 2 minutes 2 seconds after a failed call"),
        row("L10", "in-use-converges", Virtual, "what is not on a node leaves its volumesInUse within 5 minutes and 10 seconds"),
        row(
            "L11",
            "restart-is-invisible",
            Nowhere("it compares two runs; one run cannot show it"),
            "a restart of any component ends in the same state as none",
        ),
        row("L12", "no-hot-loop", Api, "no object of a volume is written more than 10 times in a minute"),
        row(
            "L13",
            "unmounts-without-driver",
            Virtual,
            "the volumes of a pod that is being deleted are unmounted within 10 minutes, whatever becomes of the driver's own pod",
        ),
        row("L14", "io-resumes", Virtual, "I/O on a network file system hangs for at most 30 seconds"),
    ]
};

/// All names, in the order of the specification.
pub const NAMES: [&str; ALL.len()] = {
    let mut names = [""; ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = ALL[at].name;
        at += 1;
    }
    names
};

/// All invariants, in the order of the specification.
pub fn all() -> &'static [Invariant] {
    &ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_the_order_of_the_rules() {
        let rules = [
            Rule::S1,
            Rule::S2,
            Rule::S3,
            Rule::S4,
            Rule::S5,
            Rule::S6,
            Rule::S7,
            Rule::S8,
            Rule::S9,
            Rule::S10,
            Rule::S11,
            Rule::S12,
            Rule::S13,
            Rule::S14,
            Rule::S15,
            Rule::S16,
            Rule::S17,
            Rule::S18,
            Rule::S19,
            Rule::S20,
            Rule::S21,
            Rule::S22,
            Rule::S23,
            Rule::S24,
            Rule::S25,
            Rule::S26,
            Rule::S27,
            Rule::S28,
            Rule::S29,
            Rule::S30,
            Rule::L1,
            Rule::L2,
            Rule::L3,
            Rule::L4,
            Rule::L5,
            Rule::L6,
            Rule::L7,
            Rule::L8,
            Rule::L9,
            Rule::L10,
            Rule::L11,
            Rule::L12,
            Rule::L13,
            Rule::L14,
        ];
        assert_eq!(rules.len(), ALL.len());
        for (number, rule) in rules.into_iter().enumerate() {
            assert_eq!((rule as usize, format!("{rule:?}").as_str()), (number, rule.row().id));
        }
    }

    #[test]
    fn names_are_kebab_case_and_differ() {
        let mut names = NAMES.to_vec();
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
