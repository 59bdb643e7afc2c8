//! Which process a node is: written by the node itself, read by a later `up`, `down` or `node exec`.
//!
//! Before there is a record there is a lock: taken by the starter, inherited by the node, held as long as one of its processes
//! lives. A node whose starter was killed while it sets itself up is found by that.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use emulator_common::places::Places;
use emulator_common::process::Process;

use super::NodeError;

fn path(places: &Places, name: &str) -> PathBuf {
    places.node(name).join("process.json")
}

pub(super) fn write(places: &Places, name: &str, record: Process) -> Result<(), NodeError> {
    let path = path(places, name);
    let part = path.with_extension("part");
    let json = serde_json::to_vec(&record).map_err(|error| NodeError::Config(error.to_string()))?;
    std::fs::write(&part, json).map_err(NodeError::file("writing", &part))?;
    // Whole or not at all: a reader never sees half a record.
    std::fs::rename(&part, &path).map_err(NodeError::file("writing", &path))
}

/// How long a node may take to set itself up.
pub(super) const START_LIMIT: Duration = Duration::from_secs(15);

/// Takes a node's lock; none: the node runs, or sets itself up.
pub(super) fn lock(places: &Places, name: &str) -> Result<Option<File>, NodeError> {
    let path = places.node(name).join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(NodeError::file("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(NodeError::file("locking", &path)(error)),
    }
}

/// As [`find`]; waits for a node that sets itself up to say who it is.
pub(super) fn find_starting(places: &Places, name: &str) -> Option<Process> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(process) = find(places, name) {
            return Some(process);
        }
        // A lock that can be taken, or no directory to have one in: nobody is there.
        if !matches!(lock(places, name), Ok(None)) || Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The running process of a node, if it runs.
pub fn find(places: &Places, name: &str) -> Option<Process> {
    let json = std::fs::read(path(places, name)).ok()?;
    serde_json::from_slice::<Process>(&json).ok().filter(|record| record.is_alive())
}
