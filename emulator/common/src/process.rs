//! Processes that ebbtide started: named by pid *and* start time, so that a pid the kernel gave to somebody else is never touched.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// One process, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// In the PID namespace of whoever wrote it.
    pub pid: i32,
    /// Ticks since boot (field 22 of /proc/PID/stat).
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now; none for one that is gone or a zombie.
    pub fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// This process; none where /proc is not mounted.
    pub fn this() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// Reads a line of /proc/PID/stat.
    pub fn parse(stat: &str) -> Option<Self> {
        let (pid, rest) = stat.split_once(' ')?;
        // The name in parentheses may hold spaces and parentheses: the fields start after the last one.
        let fields: Vec<&str> = rest.rsplit_once(')')?.1.split_whitespace().collect();
        // The first thread of a process that ends is a zombie already while others still hold its files and locks.
        let threads: u32 = fields.get(17)?.parse().ok()?;
        if fields.first() == Some(&"Z") && threads <= 1 {
            return None;
        }
        Some(Self { pid: pid.parse().ok()?, start_time: fields.get(19)?.parse().ok()? })
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    pub fn signal(self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid)) {
            // It may end between the look and the signal; then there is nothing to do.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits until it is gone, at most so long.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_its_successor() {
        let this = Process::this().unwrap();
        assert!(this.is_alive());
        assert!(!Process { start_time: this.start_time + 1, ..this }.is_alive());
    }

    #[test]
    fn a_name_may_hold_parentheses_and_a_zombie_is_gone() {
        let fields = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(Process::parse(&format!("17 (a) b) {fields}")), Some(Process { pid: 17, start_time: 4242 }));
        assert_eq!(Process::parse(&format!("17 (x) {}", fields.replacen('S', "Z", 1))), None);
        let ending = fields.replacen('S', "Z", 1).replace("20 0 1 0", "20 0 3 0");
        assert!(Process::parse(&format!("17 (x) {ending}")).is_some(), "two threads of it are still ending");
        assert_eq!(Process::parse("nonsense"), None);
    }

    #[test]
    fn a_child_that_ended_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        process.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(process.wait_gone(Duration::from_secs(5)));
    }
}
