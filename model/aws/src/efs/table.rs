//! Records by dense keys (so in the order of creation), found by id, remembered when they change.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Dirty, LoadError};

/// The key of a record: 1, 2, 3 …, never used again.
pub type Key = u64;

/// A `LifeCycleState` as EFS shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LifeCycle {
    Creating,
    Available,
    Updating,
    Deleting,
    Error,
}

impl LifeCycle {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::Updating => "updating",
            Self::Deleting => "deleting",
            Self::Error => "error",
        }
    }
}

/// A record of a [`Table`].
pub trait Row: Serialize + DeserializeOwned {
    /// Its name in the store.
    const TABLE: &'static str;
    fn id(&self) -> &str;
}

#[derive(Debug, Clone)]
pub struct Table<R> {
    rows: BTreeMap<Key, R>,
    by_id: BTreeMap<String, Key>,
    dirty: BTreeSet<Key>,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), by_id: BTreeMap::new(), dirty: BTreeSet::new() }
    }
}

impl<R: Row> Table<R> {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Key, &R)> {
        self.rows.iter().map(|(key, row)| (*key, row))
    }

    /// The records after a key, in order.
    pub fn after(&self, key: Key) -> impl Iterator<Item = (Key, &R)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.rows.range((Excluded(key), Unbounded)).map(|(key, row)| (*key, row))
    }

    pub fn get(&self, key: Key) -> Option<&R> {
        self.rows.get(&key)
    }

    pub fn key(&self, id: &str) -> Option<Key> {
        self.by_id.get(id).copied()
    }

    /// For a change: the record counts as changed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut R> {
        let row = self.rows.get_mut(&key)?;
        self.dirty.insert(key);
        Some(row)
    }

    pub fn insert(&mut self, key: Key, row: R) {
        self.dirty.insert(key);
        self.restore(key, row);
    }

    /// As [`Table::insert`], for a record that is saved already.
    pub fn restore(&mut self, key: Key, row: R) {
        self.by_id.insert(row.id().to_owned(), key);
        self.rows.insert(key, row);
    }

    /// A record by its key in the store.
    pub fn stored(&self, key: &str) -> Option<&R> {
        self.get(Key::from_str_radix(key, 16).ok()?)
    }

    pub fn remove(&mut self, key: Key) -> Option<R> {
        let row = self.rows.remove(&key)?;
        self.by_id.remove(row.id());
        self.dirty.insert(key);
        Some(row)
    }

    pub fn take_dirty(&mut self, out: &mut Vec<Dirty>) {
        for key in std::mem::take(&mut self.dirty) {
            // The records have only string keys and finite numbers: they always have a JSON form.
            let value = self.rows.get(&key).and_then(|row| serde_json::to_vec(row).ok());
            out.push(Dirty { table: R::TABLE, key: format!("{key:016x}"), value });
        }
    }
}

/// A saved record.
pub fn parse<R: Row>(key: &str, value: &[u8]) -> Result<(Key, R), LoadError> {
    let error = |message: String| LoadError { table: R::TABLE.to_owned(), key: key.to_owned(), message };
    let number = Key::from_str_radix(key, 16).map_err(|e| error(e.to_string()))?;
    Ok((number, serde_json::from_slice(value).map_err(|e| error(e.to_string()))?))
}
