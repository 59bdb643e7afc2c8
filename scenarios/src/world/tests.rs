//! The library in virtual time.

use super::run;
use crate::language::parse;

#[test]
fn every_exercise_passes() {
    for (name, _) in crate::library() {
        let scenario = crate::load(name).unwrap();
        let report = run(&scenario, scenario.spec.seed);
        assert!(report.passed, "{}", report.to_text());
    }
}

#[test]
fn one_seed_gives_one_digest() {
    for (name, _) in crate::library() {
        let scenario = crate::load(name).unwrap();
        let (first, second, other) = (run(&scenario, 7), run(&scenario, 7), run(&scenario, 8));
        assert_eq!(first.digest, second.digest, "{name}");
        assert_eq!(first.steps, second.steps, "{name}");
        assert_ne!(first.digest, other.digest, "{name}");
    }
}

#[test]
fn every_exercise_passes_with_many_seeds() {
    for (name, _) in crate::library() {
        let scenario = crate::load(name).unwrap();
        for seed in 100..110 {
            let report = run(&scenario, seed);
            assert!(report.passed, "{}", report.to_text());
        }
    }
}

#[test]
fn a_pod_that_needs_real_devices_says_so() {
    let text = "apiVersion: ebbtide.dev/v1alpha1
kind: Scenario
metadata: {name: t}
spec:
  steps:
  - name: a
    try:
    - apply:
        manifests: |
          apiVersion: v1
          kind: Pod
          metadata: {name: p}
          spec: {containers: [{name: c, image: i, command: [mysqld]}]}
    - wait: {for: {kind: Pod, name: p, condition: Ready}, timeout: 20s}
";
    let report = run(&parse("t", text).unwrap(), 1);
    assert!(!report.passed);
    assert!(report.to_text().contains("`mysqld` runs only with --live"), "{}", report.to_text());
}
