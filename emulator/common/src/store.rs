//! Where state is kept. A [`Store`] holds named tables of key/value records and commits batches of changes atomically.
//!
//! The default is [`Sled`]. What its commit promises: it survives `kill -9` of the process, not a power cut, since sled 0.34
//! flushes with `sync_file_range` (core-and-simulation.md B10). One committer at a time commits a whole batch, so
//! concurrent writers share one flush when their shell collects their changes into one [`Batch`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

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
        source: sled::Error,
    },
    #[error("cannot read the state")]
    Read(#[source] sled::Error),
    #[error("cannot save the state; is the disk full?")]
    Commit(#[source] sled::Error),
    #[error("the state was written by format {found}, this ebbtide reads format {expected}; use a newer ebbtide or another data directory")]
    Format { found: String, expected: u32 },
}

/// A record as stored: key and value.
pub type Record = (Vec<u8>, Vec<u8>);

/// A place for state.
pub trait Store: Send + Sync {
    /// All records of a table, by key.
    fn load(&self, table: &str) -> Result<Vec<Record>, StoreError>;
    /// Makes a batch durable. When it returns, the batch survives a kill of the process.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;
}

/// The format of the records. A change that old records do not survive raises it.
const FORMAT: u32 = 1;

/// State in an embedded database in one directory.
pub struct Sled {
    db: sled::Db,
}

impl Sled {
    /// Opens or creates the database.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = sled::Config::new()
            .path(path)
            .flush_every_ms(None)
            .cache_capacity(16 << 20)
            .open()
            .map_err(|source| StoreError::Open { path: path.display().to_string(), source })?;
        match db.get("format").map_err(StoreError::Read)? {
            Some(found) if *found != *FORMAT.to_string().as_bytes() => {
                return Err(StoreError::Format { found: String::from_utf8_lossy(&found).into_owned(), expected: FORMAT });
            }
            Some(_) => {}
            None => {
                db.insert("format", FORMAT.to_string().as_bytes()).map_err(StoreError::Commit)?;
                db.flush().map_err(StoreError::Commit)?;
            }
        }
        Ok(Self { db })
    }

    /// Tables share one tree, so that one `apply_batch` is atomic over all of them: `<table>\0<key>`.
    fn full_key(table: &str, key: &[u8]) -> Vec<u8> {
        let mut full = Vec::with_capacity(table.len() + 1 + key.len());
        full.extend_from_slice(table.as_bytes());
        full.push(0);
        full.extend_from_slice(key);
        full
    }
}

impl Store for Sled {
    fn load(&self, table: &str) -> Result<Vec<Record>, StoreError> {
        let prefix = Self::full_key(table, b"");
        self.db
            .scan_prefix(&prefix)
            .map(|record| record.map(|(key, value)| (key[prefix.len()..].to_vec(), value.to_vec())).map_err(StoreError::Read))
            .collect()
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut changes = sled::Batch::default();
        for write in batch.0 {
            let key = Self::full_key(write.table, &write.key);
            match write.value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        self.db.apply_batch(changes).map_err(StoreError::Commit)?;
        self.db.flush().map_err(StoreError::Commit)?;
        Ok(())
    }
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

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut records = self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for write in batch.0 {
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

    fn exercise(store: &dyn Store) {
        let mut batch = Batch::default();
        batch.put("a", *b"1", *b"one");
        batch.put("ab", *b"1", *b"other table");
        batch.put("a", *b"2", *b"two");
        store.commit(batch).unwrap();
        let mut batch = Batch::default();
        batch.remove("a", *b"1");
        store.commit(batch).unwrap();
        assert_eq!(store.load("a").unwrap(), vec![(b"2".to_vec(), b"two".to_vec())]);
    }

    #[test]
    fn memory_keeps_tables_apart() {
        exercise(&Memory::default());
    }

    #[test]
    fn sled_keeps_what_was_committed() {
        let dir = tempfile::tempdir().unwrap();
        exercise(&Sled::open(dir.path()).unwrap());
        let again = Sled::open(dir.path()).unwrap();
        assert_eq!(again.load("a").unwrap(), vec![(b"2".to_vec(), b"two".to_vec())]);
    }
}
