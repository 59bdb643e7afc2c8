//! Which process a node is: written by the node itself, read by a later `up`, `down` or `node exec`.

use std::path::PathBuf;

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

/// The running process of a node, if it runs.
pub fn find(places: &Places, name: &str) -> Option<Process> {
    let json = std::fs::read(path(places, name)).ok()?;
    serde_json::from_slice::<Process>(&json).ok().filter(|record| record.is_alive())
}
