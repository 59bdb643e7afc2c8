//! Where state is kept. A [`Store`] holds named tables of key/value records and commits batches of changes atomically.
//!
//! The default is [`Sled`]. What its commit promises: it survives `kill -9` of the process, not a power cut: neither its log nor
//! sled 0.34 (core-and-simulation.md B10) waits for the disk's cache. One committer at a time commits a whole batch, so
//! concurrent writers share one write when their shell collects their changes into one [`Batch`].

use std::collections::BTreeMap;
use std::sync::Mutex;

mod log;
mod sled;

pub use self::sled::Sled;

/// One change of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub table: &'static str,
    pub key: Vec<u8>,
    /// None removes the record.
    pub value: Option<Vec<u8>>,
}

/// Changes that become durable together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch(pub Vec<Write>);

impl Batch {
    pub fn put(&mut self, table: &'static str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.0.push(Write { table, key: key.into(), value: Some(value.into()) });
    }

    pub fn remove(&mut self, table: &'static str, key: impl Into<Vec<u8>>) {
        self.0.push(Write { table, key: key.into(), value: None });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why the store failed. After such a failure nothing of the batch may be acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the state in {path}; is another ebbtide using it?")]
    Open {
        path: String,
        #[source]
        source: ::sled::Error,
    },
    #[error("cannot read the state")]
    Read(#[source] ::sled::Error),
    #[error("cannot save the state; is the disk full?")]
    Commit(#[source] ::sled::Error),
    #[error("the state was written by format {found}, this ebbtide reads format {expected}; use a newer ebbtide or another data directory")]
    Format { found: String, expected: u32 },
}

/// A record as stored: key and value.
pub type Record = (Vec<u8>, Vec<u8>);

/// A place for state.
pub trait Store: Send + Sync {
    /// All records of a table, by key.
    fn load(&self, table: &str) -> Result<Vec<Record>, StoreError>;
    /// Makes a batch durable and empties it. When it returns, the batch survives a kill of the process. After an error the
    /// batch is as it was, to be tried again.
    fn commit(&self, batch: &mut Batch) -> Result<(), StoreError>;
}

/// Table and key to value.
type Records = BTreeMap<(String, Vec<u8>), Vec<u8>>;

/// State that dies with the process: for tests and benchmarks.
#[derive(Default)]
pub struct Memory {
    records: Mutex<Records>,
}

impl Store for Memory {
    fn load(&self, table: &str) -> Result<Vec<Record>, StoreError> {
        let records = self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Ok(records.iter().filter(|((name, _), _)| name == table).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let mut records = self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for write in batch.0.drain(..) {
            let key = (write.table.to_owned(), write.key);
            match write.value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn exercise(store: &dyn Store) {
        let mut batch = Batch::default();
        batch.put("a", *b"1", *b"one");
        batch.put("ab", *b"1", *b"other table");
        batch.put("a", *b"2", *b"two");
        store.commit(&mut batch).unwrap();
        let mut batch = Batch::default();
        batch.remove("a", *b"1");
        store.commit(&mut batch).unwrap();
        assert_eq!(store.load("a").unwrap(), vec![(b"2".to_vec(), b"two".to_vec())]);
    }

    #[test]
    fn memory_keeps_tables_apart() {
        exercise(&Memory::default());
    }
}
