//! What was there at an earlier version, read back from the watch log: pages of one list show one state (kube-api.md §3).

use std::collections::BTreeMap;

use crate::object::{Key, Object};
use crate::write::ApiError;

use super::Store;

impl Store {
    /// The objects of a kind in all namespaces from a key on, in order, as they were at a version; 410 when the changes since then
    /// are no longer all kept.
    pub fn range_at(&self, from: Key, version: u64) -> Result<impl Iterator<Item = (Key, &Object)>, ApiError> {
        let kind = from.kind.clone();
        // The first change of an object after that version tells what it was at it.
        let mut changed: BTreeMap<Key, Option<&Object>> = BTreeMap::new();
        for entry in self.since(version)? {
            let key = entry.change.object().key();
            if key.kind == kind && key >= from {
                changed.entry(key).or_insert(entry.previous.as_ref());
            }
        }
        let still: Vec<(Key, &Object)> =
            self.range_from(from).filter(|(key, _)| !changed.contains_key(key)).map(|(key, object)| (key.clone(), object)).collect();
        let mut all: BTreeMap<Key, &Object> = changed.into_iter().filter_map(|(key, object)| Some((key, object?))).collect();
        all.extend(still);
        Ok(all.into_iter())
    }
}
