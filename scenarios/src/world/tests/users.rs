//! What a user sees and meets.

use super::super::run;
use crate::language::parse;

fn plays(steps: &str) {
    let head = "apiVersion: ebbtide.dev/v1alpha1
kind: Scenario
metadata: {name: t}
spec:
  steps:
  - name: a
    try:
";
    let report = run(&parse("t", &format!("{head}{steps}")).unwrap(), 1);
    assert!(report.passed, "{}", report.to_text());
}

const CLAIM: &str = "
          apiVersion: storage.k8s.io/v1
          kind: StorageClass
          metadata: {name: ebs}
          provisioner: ebs.csi.aws.com
          volumeBindingMode: WaitForFirstConsumer
          allowVolumeExpansion: true
          ---
          apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {name: data, namespace: NAMESPACE}
          spec:
            accessModes: [ReadWriteOnce]
            storageClassName: ebs
            resources: {requests: {storage: 1Gi}}
";

#[test]
fn the_events_of_another_namespace() {
    let claim = CLAIM.replace("NAMESPACE", "team");
    plays(&format!(
        "    - apply:
        manifests: |
          apiVersion: v1
          kind: Namespace
          metadata: {{name: team}}
          ---{claim}
    - assert: {{events: [{{reason: WaitForFirstConsumer, object: PersistentVolumeClaim/data, namespace: team}}], within: 10s}}
    - delete: {{kind: PersistentVolumeClaim, name: data, namespace: team}}
"
    ));
}

/// As the user wrote it, not in bytes.
#[test]
fn a_claim_that_has_grown_shows_its_quantity() {
    let claim = CLAIM.replace("NAMESPACE", "default");
    plays(&format!(
        "    - apply:
        manifests: |{claim}
          ---
          apiVersion: v1
          kind: Pod
          metadata: {{name: app}}
          spec:
            containers: [{{name: app, image: busybox, command: [sleep, infinity], volumeMounts: [{{name: data, mountPath: /data}}]}}]
            volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
    - wait: {{for: {{kind: Pod, name: app, condition: Ready}}}}
    - apply:
        manifests: |
          apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {{name: data}}
          spec: {{resources: {{requests: {{storage: 2Gi}}}}}}
    - assert: {{resource: {{kind: PersistentVolumeClaim, metadata: {{name: data}}, status: {{capacity: {{storage: 2Gi}}}}}}, within: 5m}}
    - delete: {{kind: Pod, name: app}}
    - delete: {{kind: PersistentVolumeClaim, name: data}}
"
    ));
}

#[test]
fn a_users_call_to_aws_meets_faults_too() {
    plays(
        "    - fault: {actionId: \"aws:fis:inject-api-throttle-error\", operation: CreateVolume, count: 1}
    - aws: {command: ec2 create-volume, with: {AvailabilityZone: us-east-1a, Size: 1}, error: RequestLimitExceeded}
    - aws: {command: ec2 create-volume, with: {AvailabilityZone: us-east-1a, Size: 1}, capture: {volume: VolumeId}}
    - aws: {command: ec2 describe-volumes, with: {VolumeIds: [\"${volume}\"]}, expect: {Volumes: [{State: available}]}, within: 10s}
    - aws: {command: ec2 delete-volume, with: {VolumeId: \"${volume}\"}}
",
    );
}
