//! From nothing to ready: both APIs answer, both nodes are Ready; and what that costs in memory.

use std::process::Command;
use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, program, wait_for};

use crate::{Kept, free_port};

pub fn run() {
    let dir = tempfile::tempdir().expect("a directory");
    let (aws, kube) = (free_port(), free_port());
    let started = Instant::now();
    let _up = Kept::start(Command::new(program()).args(["up", "--data-dir"]).arg(dir.path()).args([
        "--no-nodes",
        "--listen",
        &format!("127.0.0.1:{aws}"),
        "--kube-listen",
        &format!("127.0.0.1:{kube}"),
    ]));
    crate::wait_port(aws, Duration::from_secs(20));
    crate::wait_port(kube, Duration::from_secs(20));
    println!("both APIs answer after {:.3} s (first start of a data directory, no nodes)", started.elapsed().as_secs_f64());
    drop(_up);

    let started = Instant::now();
    let ebbtide = Ebbtide::up(&[]);
    println!("ready with two nodes after {:.3} s (`ebbtide up -d` returned: both nodes Ready)", started.elapsed().as_secs_f64());
    wait_for("two Ready nodes", Duration::from_secs(20), || {
        ebbtide.kubectl(&["get", "nodes", "--no-headers"]).lines().filter(|line| line.contains(" Ready ")).count() == 2
    });
    println!("memory (PSS of `up` and both nodes): {:.1} MiB", memory_mib(&ebbtide));
}

/// Proportional set size of every process of this ebbtide: pages that several share count once.
pub fn memory_mib(ebbtide: &Ebbtide) -> f64 {
    let dir = ebbtide.dir().to_string_lossy().into_owned();
    let mut kib = 0u64;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&cmdline).contains(&dir) {
            continue;
        }
        let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).and_then(|rest| rest.split_whitespace().next());
        kib += pss.and_then(|pss| pss.parse::<u64>().ok()).unwrap_or(0);
    }
    kib as f64 / 1024.0
}
