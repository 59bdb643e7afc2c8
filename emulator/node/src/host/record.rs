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
fn lock(places: &Places, name: &str) -> Result<Option<File>, NodeError> {
    let path = places.node(name).join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(NodeError::file("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(NodeError::file("locking", &path)(error)),
    }
}

/// Whose a node is.
pub(super) enum Held {
    /// The node runs.
    Running(Process),
    /// Nobody has it; it is the caller's as long as the file is open.
    Ours(File),
}

/// Finds the node or takes its lock; waits for a node that sets itself up to say who it is. The lock that shows that nobody is
/// there is kept, not tried and taken again: a process that another thread forks meanwhile has a copy of it until it executes.
pub(super) fn take(places: &Places, name: &str) -> Result<Held, NodeError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Some(process) = find(places, name) {
            return Ok(Held::Running(process));
        }
        if let Some(lock) = lock(places, name)? {
            return Ok(Held::Ours(lock));
        }
        if Instant::now() >= deadline {
            return Err(NodeError::Runs(name.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// As [`find`]; waits for a node that sets itself up to say who it is.
pub(super) fn find_starting(places: &Places, name: &str) -> Option<Process> {
    // No directory to have a lock in: nobody is there.
    match take(places, name) {
        Ok(Held::Running(process)) => Some(process),
        Ok(Held::Ours(_)) | Err(_) => None,
    }
}

/// The running process of a node, if it runs.
pub fn find(places: &Places, name: &str) -> Option<Process> {
    let json = std::fs::read(path(places, name)).ok()?;
    serde_json::from_slice::<Process>(&json).ok().filter(|record| record.is_alive())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A process that another thread forks has a copy of the lock until it executes.
    #[test]
    fn a_lock_is_taken_while_other_threads_start_processes() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path());
        std::fs::create_dir_all(places.node("n")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // With a hook it forks, which `Command` otherwise avoids.
                    let mut command = std::process::Command::new("true");
                    // SAFETY: the hook does nothing.
                    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, || Ok(())) };
                    assert!(command.status().unwrap().success());
                }
            });
            let taken = (0..200).all(|_| matches!(take(&places, "n"), Ok(Held::Ours(_))));
            done.store(true, Ordering::Relaxed);
            assert!(taken);
        });
    }
}
