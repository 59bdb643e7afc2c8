//! From nothing to ready: both APIs answer, both nodes are Ready; and what that costs in memory.

use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, wait_for};

use crate::load::{self, ec2};

pub fn run() {
    let started = Instant::now();
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    load::all(crate::port(&ebbtide), vec![ec2("Action=DescribeRegions&Version=2016-11-15")]);
    let took = started.elapsed().as_secs_f64();
    assert_eq!(ebbtide.kubectl(&["get", "--raw", "/readyz"]).trim(), "ok");
    println!("both APIs answer after {took:.3} s (`ebbtide up -d --no-nodes` on a new data directory, and a first call)");
    drop(ebbtide);

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
