//! State in an embedded database, with a log in front of it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sled::{Db, Error};

use super::log::{self, Changes, Log};
use super::{Batch, Record, Store, StoreError};

/// The format of the records. A change that old records do not survive raises it. 1 had no log; the rest is the same.
const FORMAT: u32 = 2;
const WITHOUT_LOG: &[u8] = b"1";
/// A log that is longer is handed to the thread.
const LOG_BYTES: u64 = 4 << 20;
/// Between attempts of the thread when the database fails.
const RETRY: Duration = Duration::from_secs(1);
/// How long a database that is locked is waited for.
const LOCKED: Duration = Duration::from_secs(2);

/// State in an embedded database in one directory.
pub struct Sled {
    path: PathBuf,
    db: Db,
    open: Mutex<Open>,
    /// None only while this is dropped.
    full: Option<Sender<Full>>,
    /// Logs that were handed over and are not applied.
    behind: Arc<AtomicUsize>,
    applier: Option<JoinHandle<()>>,
}

/// What was committed since the last hand-over.
struct Open {
    log: Log,
    changes: Changes,
}

/// A log that is to be applied.
struct Full {
    number: u64,
    changes: Changes,
    /// Told when it is in the database, or why it is not.
    done: Option<Sender<Result<(), Error>>>,
}

impl Sled {
    /// Opens or creates the database, and applies the logs that the last process left.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.display().to_string(), source };
        let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(16 << 20);
        let deadline = Instant::now() + LOCKED;
        let db = loop {
            match config.open() {
                // A process that is being started has a copy of a lock that we let go, until it runs its program.
                Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => break opened.map_err(failed)?,
            }
        };
        match db.get("format").map_err(StoreError::Read)? {
            Some(found) if *found == *FORMAT.to_string().as_bytes() => {}
            Some(found) if *found != *WITHOUT_LOG => {
                return Err(StoreError::Format { found: String::from_utf8_lossy(&found).into_owned(), expected: FORMAT });
            }
            Some(_) | None => {
                db.insert("format", FORMAT.to_string().as_bytes()).map_err(StoreError::Commit)?;
                db.flush().map_err(StoreError::Commit)?;
            }
        }
        let numbers = log::numbers(path).map_err(|error| failed(error.into()))?;
        for number in &numbers {
            let changes = log::read(path, *number).map_err(|error| failed(error.into()))?;
            apply(&db, path, *number, &changes).map_err(StoreError::Commit)?;
        }
        let log = Log::create(path, numbers.last().map_or(0, |last| last + 1)).map_err(|error| failed(error.into()))?;
        let (full, queue) = channel();
        let behind = Arc::new(AtomicUsize::new(0));
        let applier = {
            let (db, path, behind) = (db.clone(), path.to_owned(), behind.clone());
            std::thread::Builder::new().name("store".to_owned()).spawn(move || apply_all(&db, &path, &queue, &behind))
        };
        let applier = Some(applier.map_err(|error| failed(error.into()))?);
        let open = Mutex::new(Open { log, changes: Changes::new() });
        Ok(Self { path: path.to_owned(), db, open, full: Some(full), behind, applier })
    }

    /// Tables share one tree: `<table>\0<key>`.
    fn full_key(table: &str, key: &[u8]) -> Vec<u8> {
        let mut full = Vec::with_capacity(table.len() + 1 + key.len());
        full.extend_from_slice(table.as_bytes());
        full.push(0);
        full.extend_from_slice(key);
        full
    }

    /// Hands the log to the thread and begins another.
    fn hand_over(&self, open: &mut Open, done: Option<Sender<Result<(), Error>>>) -> Result<(), Error> {
        let next = Log::create(&self.path, open.log.number() + 1)?;
        let log = std::mem::replace(&mut open.log, next);
        let full = Full { number: log.number(), changes: std::mem::take(&mut open.changes), done };
        self.behind.fetch_add(1, Ordering::Relaxed);
        if let Some(queue) = &self.full {
            // A send fails only when the thread panicked; the log is kept for the next start.
            let _ = queue.send(full);
        }
        Ok(())
    }
}

impl Store for Sled {
    fn load(&self, table: &str) -> Result<Vec<Record>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, applied) = channel();
        self.hand_over(&mut open, Some(done)).map_err(StoreError::Read)?;
        let ended = || Err(std::io::Error::other("the store's thread ended").into());
        applied.recv().unwrap_or_else(|_| ended()).map_err(StoreError::Read)?;
        let prefix = Self::full_key(table, b"");
        self.db
            .scan_prefix(&prefix)
            .map(|record| record.map(|(key, value)| (key[prefix.len()..].to_vec(), value.to_vec())).map_err(StoreError::Read))
            .collect()
    }

    fn commit(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let keys: Vec<_> = batch.0.iter().map(|write| Self::full_key(write.table, &write.key)).collect();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = keys.iter().map(Vec::as_slice).zip(batch.0.iter().map(|write| write.value.as_deref()));
        open.log.append(frame).map_err(|error| StoreError::Commit(error.into()))?;
        open.changes.extend(keys.into_iter().zip(batch.0.drain(..).map(|write| write.value)));
        // While the thread is behind, the log grows.
        if open.log.length() > LOG_BYTES
            && self.behind.load(Ordering::Relaxed) == 0
            && let Err(error) = self.hand_over(&mut open, None)
        {
            // What was committed is in the log, so it is saved all the same.
            tracing::warn!(%error, "cannot begin another log; going on with this one");
        }
        Ok(())
    }
}

impl Drop for Sled {
    /// What is still in a log is applied by the next start.
    fn drop(&mut self) {
        self.full = None;
        if let Some(applier) = self.applier.take() {
            // A panic of the thread was told; the logs are kept.
            let _ = applier.join();
        }
    }
}

/// Makes a log's changes the database's own and removes the log. Doing it twice changes nothing.
fn apply(db: &Db, path: &Path, number: u64, changes: &Changes) -> Result<(), Error> {
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.insert(key.as_slice(), value.as_slice()),
            None => batch.remove(key.as_slice()),
        }
    }
    db.apply_batch(batch)?;
    db.flush()?;
    log::remove(path, number)?;
    Ok(())
}

/// The thread: applies logs in their order until the store is dropped.
fn apply_all(db: &Db, path: &Path, queue: &Receiver<Full>, behind: &AtomicUsize) {
    let mut waiting = VecDeque::new();
    loop {
        let Some(full) = waiting.front_mut() else {
            let Ok(full) = queue.recv() else { return };
            waiting.push_back(full);
            continue;
        };
        let Full { number, changes, done } = full;
        let applied = apply(db, path, *number, changes);
        if let Some(done) = done.take() {
            // Who waited may have gone away.
            let _ = done.send(applied.clone());
        }
        match applied {
            Ok(()) => {
                waiting.pop_front();
                behind.fetch_sub(1, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::error!(%error, "cannot apply the log to the database; trying again");
                match queue.recv_timeout(RETRY) {
                    Ok(full) => waiting.push_back(full),
                    Err(RecvTimeoutError::Timeout) => {}
                    // The logs are kept for the next start.
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::exercise;

    fn all(store: &Sled) -> Vec<Record> {
        store.load("a").unwrap()
    }

    #[test]
    fn it_keeps_what_was_committed() {
        let dir = tempfile::tempdir().unwrap();
        exercise(&Sled::open(dir.path()).unwrap());
        let again = Sled::open(dir.path()).unwrap();
        assert_eq!(all(&again), vec![(b"2".to_vec(), b"two".to_vec())]);
    }

    /// As after `kill -9`: the files are what they are at any moment, and nobody closed anything.
    #[test]
    fn a_copy_of_its_files_at_any_time_has_all_commits() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sled::open(dir.path()).unwrap();
        let put = |n: u32| {
            let mut batch = Batch::default();
            batch.put("a", n.to_be_bytes(), vec![b'x'; 1000]);
            batch.remove("a", (n / 2).to_be_bytes());
            store.commit(&mut batch).unwrap();
        };
        let expected = |n: u32| (n / 2 + 1..=n).map(|n| (n.to_be_bytes().to_vec(), vec![b'x'; 1000])).collect::<Vec<_>>();
        for n in 1..=100 {
            put(n);
        }
        // Only in the log: the database has nothing yet.
        let copy = tempfile::tempdir().unwrap();
        for number in log::numbers(dir.path()).unwrap() {
            std::fs::copy(dir.path().join(format!("log.{number}")), copy.path().join(format!("log.{number}"))).unwrap();
        }
        assert_eq!(all(&Sled::open(copy.path()).unwrap()), expected(100));
        // So many that logs were handed over meanwhile.
        for n in 101..=20_000 {
            put(n);
        }
        assert_eq!(all(&store), expected(20_000));
        assert!(log::numbers(dir.path()).unwrap()[0] > 1, "no log was handed over");
        drop(store);
        assert_eq!(all(&Sled::open(dir.path()).unwrap()), expected(20_000));
    }

    #[test]
    fn a_database_without_a_log_is_taken_over_and_a_newer_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Sled::open(dir.path()).unwrap());
        let format = |value: &[u8]| {
            let db = sled::open(dir.path()).unwrap();
            db.insert("format", value).unwrap();
            db.flush().unwrap();
        };
        format(WITHOUT_LOG);
        drop(Sled::open(dir.path()).unwrap());
        assert_eq!(*sled::open(dir.path()).unwrap().get("format").unwrap().unwrap(), *FORMAT.to_string().as_bytes());
        format(b"9");
        assert!(matches!(Sled::open(dir.path()), Err(StoreError::Format { .. })));
    }
}
