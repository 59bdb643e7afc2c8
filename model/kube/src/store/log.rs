//! The watch log: the last changes, in the order of their versions (kube-api.md §3).

use std::collections::VecDeque;

use crate::object::{Change, Object};
use crate::write::ApiError;

/// One change with what was there before: a watch with a selector shows an object that stops matching as deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub version: u64,
    pub change: Change,
    pub previous: Option<Object>,
}

/// How many changes are kept. A watcher that is further behind lists again.
pub const KEPT: usize = 10_000;

/// The last changes.
#[derive(Debug, Clone, Default)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// Versions after this one are all here.
    floor: u64,
}

impl Log {
    /// An empty log that starts after a version: what a restart leaves.
    pub fn starting_at(version: u64) -> Self {
        Self { entries: VecDeque::new(), floor: version }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        while self.entries.len() > KEPT {
            if let Some(dropped) = self.entries.pop_front() {
                self.floor = dropped.version;
            }
        }
    }

    /// The changes after a version; 410 when some of them are no longer kept.
    pub fn since(&self, version: u64) -> Result<impl Iterator<Item = &Entry>, ApiError> {
        if version < self.floor {
            return Err(ApiError::expired(format!("too old resource version: {version} ({})", self.floor)));
        }
        let start = self.entries.partition_point(|entry| entry.version <= version);
        Ok(self.entries.range(start..))
    }
}
