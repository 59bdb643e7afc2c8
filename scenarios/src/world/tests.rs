//! The library in virtual time.

mod disks;
mod nodes;
mod requests;
mod users;

use super::run;
use crate::Scenario;
use crate::language::{EngineName, parse};

/// Those of the library that are played in virtual time.
fn played() -> Vec<Scenario> {
    let all = crate::library().iter().map(|(name, _)| crate::load(name).unwrap());
    all.filter(|scenario| scenario.plays_in(EngineName::Sim)).collect()
}

#[test]
fn all_of_the_library_passes() {
    for scenario in played() {
        let report = run(&scenario, scenario.spec.seed);
        assert!(report.passed, "{}", report.to_text());
    }
}

#[test]
fn all_of_the_library_that_a_proposed_change_mends_passes_with_it() {
    let mended: Vec<Scenario> = played().into_iter().filter(|scenario| scenario.spec.expect.iter().any(|it| it.fix.is_some())).collect();
    assert!(!mended.is_empty());
    for mut scenario in mended {
        let today = scenario.expected().cloned();
        scenario.set_as_of("fixed".parse().unwrap());
        assert_ne!(scenario.expected().cloned(), today);
        let report = run(&scenario, scenario.spec.seed);
        assert!(report.passed, "as of fixed: {}", report.to_text());
    }
}

#[test]
fn one_seed_gives_one_digest() {
    for scenario in played() {
        let name = &scenario.metadata.name;
        let (first, second, other) = (run(&scenario, 7), run(&scenario, 7), run(&scenario, 8));
        assert_eq!(first.digest, second.digest, "{name}");
        assert_eq!(first.steps, second.steps, "{name}");
        assert_ne!(first.digest, other.digest, "{name}");
    }
}

#[test]
fn all_of_the_library_passes_with_other_seeds() {
    for scenario in played() {
        for seed in 100..102 {
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

#[test]
fn a_scenario_names_its_nodes() {
    let text = "apiVersion: ebbtide.dev/v1alpha1
kind: Scenario
metadata: {name: t}
spec:
  world: {nodes: [{name: n1, zone: us-east-1c}], latency: {cloud: [1ms, 2ms]}, instant: true}
  steps:
  - name: a
    try:
    - assert:
        resource: {kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: us-east-1c}}}
    - wait: {for: {kind: Node, name: n1, condition: Ready}, timeout: 1s}
    - aws: {command: ec2 describe-instances, expect: {Reservations: [{Instances: [{Placement: {AvailabilityZone: us-east-1c}}]}]}}
    - aws: {command: ec2 delete-volume, with: {VolumeId: vol-0123456789abcdef0}, error: InvalidVolume.NotFound}
    - aws: {command: efs describe-file-systems, with: {FileSystemId: fs-0123456789abcdef0}, error: FileSystemNotFound}
";
    let report = run(&parse("t", text).unwrap(), 1);
    assert!(report.passed, "{}", report.to_text());
}

/// The clean-up of E01 without its last step leaves the volume: the invariant sees it.
#[test]
fn a_forgotten_volume_is_a_leak() {
    let mut scenario = crate::load("e01").unwrap();
    let last = scenario.spec.steps.last_mut().unwrap();
    last.attempt.truncate(last.attempt.len() - 2);
    let report = run(&scenario, 1);
    let found: Vec<_> = report.violations.iter().map(|violation| violation.invariant.as_str()).collect();
    assert_eq!(found, ["no-leak"], "{}", report.to_text());
}
