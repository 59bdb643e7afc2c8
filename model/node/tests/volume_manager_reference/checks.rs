//! What no action may do, and what a node at rest must have.

use std::collections::BTreeSet;
use std::time::Duration;

use model_common::csi::NodeCall;
use model_node::pending::Key;
use model_node::volume_manager::{Action, Timer};

use crate::Kubelet;
use crate::outside::{Mount, Outside, name, number};
use crate::wishes::{VOLUMES, Wishes};

/// The operations that begin with this action; of others it cannot be said where they begin.
fn begins(key: &Key, action: &Action) -> bool {
    match action {
        Action::ReadNode | Action::ReadAttachment { .. } | Action::MountRefs { .. } => true,
        Action::ReadVolData { .. } => !key.pod.is_empty(),
        _ => false,
    }
}

impl Kubelet {
    /// What an action needs when it is asked for.
    pub fn check(&mut self, wishes: &Wishes, key: &Key, action: &Action) {
        if key.volume.is_empty() {
            return;
        }
        let volume = number(&key.volume);
        if begins(key, action) {
            assert!(!self.timers.contains(&Timer::Backoff(key.clone())), "{key:?} begins before its backoff is over");
        }
        match action {
            Action::ReadNode | Action::ReadAttachment { .. } => {
                assert!(wishes.wanted_by(volume).next().is_some(), "nobody wants volume {volume}");
                assert!(self.outside.in_use.contains(&key.volume), "volume {volume} is not in volumesInUse when its attachment is read");
            }
            Action::ReadVolData { .. } if key.pod.is_empty() => drop(self.staged.remove(&volume)),
            Action::ReadVolData { .. } => {
                assert!(self.ready, "an unmount before all pods are known");
                assert!(!wishes.wants(number(&key.pod), volume), "{} wants volume {volume}, and it is unmounted", key.pod);
            }
            Action::MountRefs { .. } => {
                assert!(self.ready, "an unmount before all pods are known");
                assert_eq!(wishes.wanted_by(volume).next(), None, "volume {volume} is wanted, and its device is unmounted");
            }
            Action::Csi { call, .. } => self.check_call(volume, call),
            _ => {}
        }
    }

    fn check_call(&mut self, volume: usize, call: &NodeCall) {
        match call {
            NodeCall::NodeStageVolume { .. } => {
                assert!(VOLUMES[volume].attached, "the driver stages nothing");
                assert!(self.outside.in_use.contains(&name(volume)), "volume {volume} is staged, and not in volumesInUse");
                assert!(self.outside.devices.contains(&volume), "volume {volume} is staged, and not attached");
                assert!(!self.staged.contains(&volume), "volume {volume} is staged twice");
                self.lost_stages.remove(&volume);
            }
            NodeCall::NodePublishVolume { .. } => {
                assert!(!VOLUMES[volume].attached || self.outside.staged.contains(&volume), "volume {volume} is published before staged");
                let mount = Outside::mount_of(call).expect("it names a mount");
                let others = self.outside.mounts(volume).any(|other| other != mount && !self.lost_mounts.contains(&other));
                assert!(!VOLUMES[volume].single || !others, "volume {volume} is for one pod, and published to two");
                self.lost_mounts.remove(&mount);
            }
            NodeCall::NodeUnstageVolume { .. } => {
                let mounts: Vec<Mount> = self.outside.mounts(volume).filter(|mount| !self.lost_mounts.contains(mount)).collect();
                assert!(mounts.is_empty(), "volume {volume} is unstaged while published to {mounts:?}");
                assert!(!self.outside.refused.contains(&volume), "volume {volume} is unstaged though it is mounted elsewhere");
            }
            _ => {}
        }
    }

    /// 500 ms, doubled with each failure, at most 2 m 2 s (§3.4).
    pub fn check_wait(&mut self, timer: &Timer, wait: Duration) {
        let Timer::Backoff(key) = timer else {
            assert_eq!(wait, Duration::from_millis(100));
            return;
        };
        let waits = self.waits.entry(key.volume.clone()).or_default();
        let (first, last) = (Duration::from_millis(500), Duration::from_secs(122));
        assert!(wait == first || waits.iter().any(|before| (*before * 2).min(last) == wait), "{wait:?} after {waits:?}");
        waits.insert(wait);
    }

    /// Left alone, the node has what the pods want, and nothing else.
    pub fn check_rest(&self, wishes: &Wishes) {
        let outside = &self.outside;
        for (volume, kind) in VOLUMES.iter().enumerate() {
            let mounts: BTreeSet<Mount> = outside.mounts(volume).filter(|mount| !self.lost_mounts.contains(mount)).collect();
            let wanted: BTreeSet<Mount> = wishes.wanted_by(volume).map(|pod| (pod, volume)).collect();
            if kind.single && !wanted.is_empty() {
                assert!(mounts.len() == 1 && mounts.is_subset(&wanted), "volume {volume} is for one of {wanted:?}: {mounts:?}");
            } else {
                assert_eq!(mounts, wanted, "volume {volume}");
            }
            if kind.attached {
                let used = !wanted.is_empty();
                let staged = outside.staged.contains(&volume);
                assert!(staged == used || staged && self.lost_stages.contains(&volume), "volume {volume}: staged {staged}, used {used}");
                assert_eq!(outside.in_use.contains(&name(volume)), used, "volume {volume} in volumesInUse");
                if used {
                    let sizes = (outside.grown[volume], outside.claimed[volume]);
                    assert_eq!(sizes, (wishes.size[volume], wishes.size[volume]), "GiB of volume {volume} and in its claim");
                }
            }
        }
        let waits = |pods: &BTreeSet<usize>| pods.iter().any(|volume| VOLUMES[*volume].single);
        assert!(self.machine.settled() || wishes.pods.values().filter(|volumes| waits(volumes)).count() > 1, "{:?}", self.machine);
    }
}
