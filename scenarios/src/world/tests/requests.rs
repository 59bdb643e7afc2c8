//! What the drivers' requests meet on their way to AWS.

use super::super::run_tape;
use crate::language::parse;

/// A request that is late meets the other rules as well: each had its count, and what it does happens.
#[test]
fn a_request_that_is_late_is_refused_or_loses_its_answer_all_the_same() {
    let scenario = parse(
        "t",
        r#"
apiVersion: ebbtide.dev/v1alpha1
kind: Scenario
metadata: {name: t}
spec:
  world: {nodes: [{name: n1, zone: us-east-1a}]}
  steps:
  - name: a
    try:
    - fault: {actionId: "local:api:latency", operation: CreateVolume, delay: 5s, count: 2}
    - fault: {actionId: "local:api:lost-response", operation: CreateVolume, count: 1}
    - fault: {actionId: "aws:fis:inject-api-throttle-error", operation: CreateVolume, count: 1}
    - apply:
        manifests: |
          apiVersion: storage.k8s.io/v1
          kind: StorageClass
          metadata: {name: ebs}
          provisioner: ebs.csi.aws.com
          volumeBindingMode: Immediate
          ---
          apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {name: data}
          spec:
            accessModes: [ReadWriteOnce]
            storageClassName: ebs
            resources: {requests: {storage: 1Gi}}
    - wait: {for: {kind: PersistentVolumeClaim, name: data, phase: Bound}, timeout: 5m}
    - aws: {command: ec2 describe-volumes, expect: {Volumes: [{State: available}]}}
    - delete: {kind: PersistentVolumeClaim, name: data}
    - delete: {kind: StorageClass, name: ebs}
"#,
    )
    .unwrap();
    let (report, story) = run_tape(&scenario, 0, Vec::new(), true);
    assert!(report.passed, "{}", report.to_text());
    let creates: Vec<_> = story.iter().filter(|told| told.lane == "ec2" && told.what.starts_with("CreateVolume")).collect();
    let [refused, lost, .., ok] = &creates[..] else { panic!("{creates:#?}") };
    assert!(refused.what.contains("RequestLimitExceeded"), "{refused:?}");
    assert!(lost.what.contains("EOF"), "{lost:?}");
    assert!(ok.what.ends_with(": ok"), "{ok:?}");
    assert!(refused.at >= 5_000_000 && lost.at >= refused.at + 5_000_000, "{refused:?} {lost:?}: both were to be late by 5 s");
}
