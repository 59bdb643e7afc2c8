//! The table of pending operations (`nestedpendingoperations`, kubernetes-storage-path.md §3.4), quirks included.
//!
//! A key is a volume and a pod; an empty pod is a wildcard. The clock of a backoff is outside: [`Pending::failed`] says how
//! long to wait, the owner arms a timer and calls [`Pending::backoff_over`] when it fires.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first wait after a failure.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// No wait is longer: 2 m 2 s.
pub const MAX_BACKOFF: Duration = Duration::from_secs(122);

/// What an operation works on. An empty `volume` matches nothing (unlimited concurrency).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The unique volume name.
    pub volume: Arc<str>,
    /// The pod's uid; empty is a wildcard.
    pub pod: Arc<str>,
}

impl Key {
    /// An operation on a volume, whatever the pod.
    pub fn volume(volume: &Arc<str>) -> Self {
        Self { volume: volume.clone(), pod: "".into() }
    }

    /// An operation on one pod's use of a volume.
    pub fn pod(volume: &Arc<str>, pod: &Arc<str>) -> Self {
        Self { volume: volume.clone(), pod: pod.clone() }
    }

    fn matches(&self, other: &Self) -> bool {
        self.volume == other.volume && (self.pod.is_empty() || other.pod.is_empty() || self.pod == other.pod)
    }
}

/// The names of operations, as upstream logs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpName {
    VerifyControllerAttachedVolume,
    VolumeMount,
    VolumeUnmount,
    UnmountDevice,
    MapVolume,
    UnmapVolume,
    UnmapDevice,
    VolumeFsResize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Entry {
    key: Key,
    name: OpName,
    pending: bool,
    /// The wait after the last failure; zero before the first.
    backoff: Duration,
    /// The wait is not over.
    waiting: bool,
}

/// Why an operation may not start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("an operation on that volume is already executing")]
    AlreadyExists,
    #[error("no retries permitted until the backoff is over")]
    Backoff,
}

/// The table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pending {
    entries: Vec<Entry>,
}

impl Pending {
    /// Among the entries that match: a pending one wins, then the exact one, then the first.
    fn find(&self, key: &Key) -> Option<usize> {
        if key.volume.is_empty() {
            return None;
        }
        let mut found = None;
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| entry.key.matches(key)) {
            if entry.pending {
                return Some(index);
            }
            if found.is_none() || entry.key.pod == key.pod {
                found = Some(index);
            }
        }
        found
    }

    /// Starts an operation, or says why not. `Ok(Some(key))` names a backoff timer that has no meaning any more.
    pub fn run(&mut self, key: &Key, name: OpName) -> Result<Option<Key>, Refused> {
        let Some(index) = self.find(key) else {
            self.entries.push(Entry { key: key.clone(), name, pending: true, backoff: Duration::ZERO, waiting: false });
            return Ok(None);
        };
        let entry = &mut self.entries[index];
        if entry.pending {
            return Err(Refused::AlreadyExists);
        }
        let mut stale = None;
        if entry.waiting {
            if entry.name == name {
                return Err(Refused::Backoff);
            }
            entry.name = name;
            entry.backoff = Duration::ZERO;
            entry.waiting = false;
            stale = Some(entry.key.clone());
        }
        // Quirk Q1: after an expired backoff neither name nor duration change, even for a different operation.
        // Quirk Q2: the entry takes the new key, so (v, podA) may become (v, "").
        entry.pending = true;
        entry.key = key.clone();
        Ok(stale)
    }

    /// The operation ended well: the entry goes. Also for an operation that ends without a trace.
    pub fn succeeded(&mut self, key: &Key) {
        if let Some(index) = self.entries.iter().position(|entry| entry.key == *key) {
            self.entries.swap_remove(index);
        }
    }

    /// The operation failed. Returns how long no retry is permitted.
    pub fn failed(&mut self, key: &Key) -> Option<Duration> {
        let entry = self.entries.iter_mut().find(|entry| entry.key == *key)?;
        entry.backoff = if entry.backoff.is_zero() { FIRST_BACKOFF } else { (entry.backoff * 2).min(MAX_BACKOFF) };
        entry.pending = false;
        entry.waiting = true;
        Some(entry.backoff)
    }

    /// The timer of an entry fired.
    pub fn backoff_over(&mut self, key: &Key) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == *key && !entry.pending) {
            entry.waiting = false;
        }
    }

    /// An operation that matches is executing.
    pub fn is_pending(&self, key: &Key) -> bool {
        self.find(key).is_some_and(|index| self.entries[index].pending)
    }

    /// Whether nothing is executing or waiting. Entries whose backoff is over stay, as upstream.
    pub fn is_idle(&self) -> bool {
        self.entries.iter().all(|entry| !entry.pending && !entry.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pod: &str) -> Key {
        Key { volume: "v".into(), pod: pod.into() }
    }

    #[test]
    fn pods_run_side_by_side_and_the_wildcard_excludes_them() {
        let mut table = Pending::default();
        assert_eq!(table.run(&key("a"), OpName::VolumeUnmount), Ok(None));
        assert_eq!(table.run(&key("b"), OpName::VolumeUnmount), Ok(None));
        assert_eq!(table.run(&key(""), OpName::UnmountDevice), Err(Refused::AlreadyExists));
        table.succeeded(&key("a"));
        table.succeeded(&key("b"));
        assert_eq!(table.run(&key(""), OpName::UnmountDevice), Ok(None));
        assert_eq!(table.run(&key("a"), OpName::VolumeUnmount), Err(Refused::AlreadyExists));
    }

    #[test]
    fn backoff_doubles_up_to_two_minutes_and_two_seconds() {
        let mut table = Pending::default();
        let mut waits = Vec::new();
        for _ in 0..10 {
            table.run(&key(""), OpName::VolumeMount).unwrap();
            waits.push(table.failed(&key("")).unwrap().as_millis());
            assert_eq!(table.run(&key(""), OpName::VolumeMount), Err(Refused::Backoff));
            table.backoff_over(&key(""));
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 122_000, 122_000]);
    }

    #[test]
    fn another_operation_resets_a_running_backoff() {
        let mut table = Pending::default();
        table.run(&key(""), OpName::VolumeMount).unwrap();
        table.failed(&key("")).unwrap();
        assert_eq!(table.run(&key("a"), OpName::VolumeUnmount), Ok(Some(key(""))), "its timer is stale");
        assert_eq!(table.failed(&key("a")), Some(FIRST_BACKOFF));
    }

    #[test]
    fn quirk_q1_an_expired_backoff_is_inherited_under_the_old_name() {
        let mut table = Pending::default();
        for _ in 0..8 {
            table.run(&key(""), OpName::VolumeMount).unwrap();
            table.failed(&key("")).unwrap();
            table.backoff_over(&key(""));
        }
        table.run(&key("a"), OpName::VolumeUnmount).unwrap();
        assert_eq!(table.failed(&key("a")), Some(MAX_BACKOFF), "the first failure of the unmount waits 122 s");
        assert_eq!(
            table.run(&key("a"), OpName::VolumeUnmount),
            Ok(Some(key("a"))),
            "but under the name of the mount, so the next runs at once"
        );
    }

    #[test]
    fn the_end_of_one_backoff_ends_no_other() {
        let mut table = Pending::default();
        for pod in ["a", "b"] {
            table.run(&key(pod), OpName::VolumeMount).unwrap();
            table.failed(&key(pod)).unwrap();
        }
        table.backoff_over(&key("b"));
        assert_eq!(table.run(&key("a"), OpName::VolumeMount), Err(Refused::Backoff));
        assert_eq!(table.run(&key("b"), OpName::VolumeMount), Ok(None));
    }

    #[test]
    fn among_entries_that_wait_a_pods_own_counts_before_the_wildcard() {
        let mut table = Pending::default();
        for pod in ["a", "b"] {
            table.run(&key(pod), OpName::VolumeUnmount).unwrap();
            table.failed(&key(pod)).unwrap();
        }
        assert_eq!(table.run(&key(""), OpName::UnmountDevice), Ok(Some(key("a"))), "the first of them becomes the wildcard");
        table.failed(&key("")).unwrap();
        assert_eq!(table.run(&key("b"), OpName::VolumeUnmount), Err(Refused::Backoff));
    }

    #[test]
    fn it_is_idle_when_nothing_runs_or_waits() {
        let mut table = Pending::default();
        assert!(table.is_idle());
        table.run(&key(""), OpName::VolumeMount).unwrap();
        assert!(!table.is_idle(), "it runs");
        table.failed(&key("")).unwrap();
        assert!(!table.is_idle(), "it waits");
        table.backoff_over(&key(""));
        assert!(table.is_idle());
    }

    #[test]
    fn an_empty_volume_never_matches() {
        let mut table = Pending::default();
        let nothing = Key { volume: "".into(), pod: "".into() };
        assert_eq!(table.run(&nothing, OpName::VerifyControllerAttachedVolume), Ok(None));
        assert_eq!(table.run(&nothing, OpName::VerifyControllerAttachedVolume), Ok(None));
    }
}
