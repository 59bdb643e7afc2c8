//! Which process a node is: written by the node itself, read by a later `up`, `down` or `node exec`.

use std::path::PathBuf;

use emulator_common::places::Places;
use serde::{Deserialize, Serialize};

use super::NodeError;

/// A process for good: its pid, and when it started, since the kernel gives pids to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// In the PID namespace of the host.
    pub pid: i32,
    /// Clock ticks since boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
}

impl Record {
    /// The process that has this pid now; none for one that is gone or a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&stat)
    }

    /// Reads a line of /proc/PID/stat.
    pub fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(' ')?;
        // The name in parentheses may hold spaces and parentheses: the fields start after the last one.
        let fields: Vec<&str> = rest.rsplit_once(')')?.1.split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        Some(Self { pid: pid.parse().ok()?, start_time: fields.get(19)?.parse().ok()? })
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

fn path(places: &Places, name: &str) -> PathBuf {
    places.node(name).join("process.json")
}

pub(super) fn write(places: &Places, name: &str, record: Record) -> Result<(), NodeError> {
    let path = path(places, name);
    let part = path.with_extension("part");
    let json = serde_json::to_vec(&record).map_err(|error| NodeError::Config(error.to_string()))?;
    std::fs::write(&part, json).map_err(NodeError::file("writing", &part))?;
    // Whole or not at all: a reader never sees half a record.
    std::fs::rename(&part, &path).map_err(NodeError::file("writing", &path))
}

/// The running process of a node, if it runs.
pub fn find(places: &Places, name: &str) -> Option<Record> {
    let json = std::fs::read(path(places, name)).ok()?;
    serde_json::from_slice::<Record>(&json).ok().filter(|record| record.is_alive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(Record::parse(&format!("17 (a) b) {fields}")), Some(Record { pid: 17, start_time: 4242 }));
        assert_eq!(Record::parse(&format!("17 (x) {}", fields.replacen('S', "Z", 1))), None);
        assert_eq!(Record::parse("nonsense"), None);
        let this = Record::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(this.is_alive() && !Record { start_time: 1, ..this }.is_alive());
    }
}
