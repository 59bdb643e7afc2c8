//! All exercises on one stack, at the same time, as a cluster's users do them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use ebbtide_tests::Ebbtide;

use super::stack::Exercise;
use super::{bodies, copies};

type Body = fn(&Exercise<'_>);

const ALL: [(&str, Body); 13] = [
    ("e01", bodies::e01),
    ("e02", bodies::e02),
    ("e03", bodies::e03),
    ("e04", bodies::e04),
    ("e05", bodies::e05),
    ("e06", bodies::e06),
    ("e07", bodies::e07),
    ("e08", copies::e08),
    ("e09", copies::e09),
    ("e10", copies::e10),
    ("e11", bodies::e11),
    ("e12", copies::e12),
    ("e14", bodies::e14),
];

/// Does the exercises, or those that `EBBTIDE_TEST_EXERCISES=e03,e07` names.
pub fn all(ebbtide: &Ebbtide) {
    let only = std::env::var("EBBTIDE_TEST_EXERCISES").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only.split(',').any(|one| one == name));
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (name, body) in ALL.into_iter().filter(|(name, _)| wanted(name)) {
            if ebbtide.image().is_some() && ["e05", "e14"].contains(&name) {
                eprintln!("skipped: {name}: it wants nodes in two zones, or two in one; this cluster has one node");
                continue;
            }
            let run = move || {
                let started = Instant::now();
                // The others go on; the panic's message was printed.
                let result = catch_unwind(AssertUnwindSafe(|| body(&Exercise::new(ebbtide, name))));
                eprintln!("{name}: {} in {:.1} s", if result.is_ok() { "passed" } else { "FAILED" }, started.elapsed().as_secs_f64());
                result.is_err().then_some(name)
            };
            running.push(std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run).expect("a thread"));
        }
        running.into_iter().filter_map(|thread| thread.join().expect("panics are caught")).collect()
    });
    if only.is_none_or(|only| only.contains("e13")) {
        // Its annotations are read by volume-modifier-for-k8s, which calls the driver by a protocol of its own beside CSI.
        eprintln!("skipped: e13: its sidecar speaks to the real driver only (sidecars.rs, e13_annotations_with_the_real_driver)");
    }
    assert!(failed.is_empty(), "these exercises failed: {}", failed.join(", "));
}
