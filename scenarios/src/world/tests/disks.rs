//! What lies on the disks of virtual nodes, and what the invariants are told of it.

use std::time::Duration;

use super::super::kubelet::Mount;
use super::super::trouble::Actor;
use super::super::{Which, World, run};
use crate::language::{Scenario, parse};

fn scenario(spec: &str) -> Scenario {
    let head = "apiVersion: ebbtide.dev/v1alpha1\nkind: Scenario\nmetadata: {name: t}\nspec:\n";
    parse("t", &format!("{head}{spec}")).unwrap()
}

const POD: &str = "
    - apply:
        manifests: |
          apiVersion: storage.k8s.io/v1
          kind: StorageClass
          metadata: {name: ebs}
          provisioner: ebs.csi.aws.com
          volumeBindingMode: WaitForFirstConsumer
          ---
          apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {name: data}
          spec:
            accessModes: [ReadWriteOnce]
            storageClassName: ebs
            resources: {requests: {storage: 1Gi}}
          ---
          apiVersion: v1
          kind: Pod
          metadata: {name: app}
          spec:
            containers:
            - name: app
              image: busybox
              command: [sh, -c, \"while true; do echo $(date -u) >> /data/out.txt; sleep 1; done\"]
              volumeMounts: [{name: data, mountPath: /data}]
            volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
    - wait: {for: {kind: Pod, name: app, condition: Ready}}
";

/// The copying takes longer than the writer waits between two lines: the copy has what was there at the call all the same.
#[test]
fn a_snapshot_has_what_was_there_when_it_was_asked_for() {
    let report = run(
        &scenario(&format!(
            "  world: {{latency: {{device: [3s, 5s]}}}}
  steps:
  - name: a
    try:{POD}
    - sleep: 10s
    - apply:
        manifests: |
          apiVersion: snapshot.storage.k8s.io/v1
          kind: VolumeSnapshotClass
          metadata: {{name: ebs}}
          driver: ebs.csi.aws.com
          deletionPolicy: Delete
          ---
          apiVersion: snapshot.storage.k8s.io/v1
          kind: VolumeSnapshot
          metadata: {{name: snap}}
          spec: {{volumeSnapshotClassName: ebs, source: {{persistentVolumeClaimName: data}}}}
    - assert: {{resource: {{kind: VolumeSnapshot, metadata: {{name: snap}}, status: {{readyToUse: true}}}}, within: 10m}}
    - apply:
        manifests: |
          apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {{name: again}}
          spec:
            accessModes: [ReadWriteOnce]
            storageClassName: ebs
            resources: {{requests: {{storage: 2Gi}}}}
            dataSource: {{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: snap}}
          ---
          apiVersion: v1
          kind: Pod
          metadata: {{name: reader}}
          spec:
            containers: [{{name: app, image: busybox, command: [sleep, infinity], volumeMounts: [{{name: data, mountPath: /data}}]}}]
            volumes: [{{name: data, persistentVolumeClaim: {{claimName: again}}}}]
    - wait: {{for: {{kind: Pod, name: reader, condition: Ready}}, timeout: 5m}}
    - delete: {{kind: Pod, name: reader}}
    - delete: {{kind: Pod, name: app}}
    - delete: {{kind: PersistentVolumeClaim, name: again}}
    - delete: {{kind: VolumeSnapshot, name: snap}}
    - delete: {{kind: PersistentVolumeClaim, name: data}}
"
        )),
        3,
    );
    assert!(report.passed, "{}", report.to_text());
}

/// A directory that outlives its pod is seen.
#[test]
fn what_a_kubelet_forgets_is_seen_at_rest() {
    let scenario = scenario(&format!("  steps:\n  - name: a\n    try:{POD}    - delete: {{kind: Pod, name: app}}\n"));
    let mut world = World::new(&scenario, 1, Vec::new(), false).unwrap();
    let uid = model_node::volume_manager::PodUid::from("a-pod-that-never-was");
    world.make_pod_dir(0, &uid);
    world.watch.end(world.clock.now());
    let found: Vec<_> = world.watch.take().into_iter().map(|found| found.invariant).collect();
    assert_eq!(found, ["clean-at-rest"]);
    world.watch_orphans(0);
    world.advance(Duration::from_secs(3));
    assert!(world.nodes[0].pod_dirs.is_empty(), "housekeeping takes it away");
}

/// A pod goes while its volume is being mounted for it: nobody waits for that, and what the call mounts is unmounted all the same.
#[test]
fn a_mount_that_ends_after_its_pod_is_undone() {
    let pod = POD.replace("    - wait: {for: {kind: Pod, name: app, condition: Ready}}\n", "");
    let steps = "
    - fault: {actionId: 'local:rpc', call: NodePublishVolume, count: 1, delay: 10s}
    - assert: {resource: {kind: VolumeAttachment, status: {attached: true}}, within: 30s}
    - sleep: 2s
    - delete: {kind: Pod, name: app}
    - sleep: 1s
    - fault: {actionId: 'local:clear'}
    - delete: {kind: PersistentVolumeClaim, name: data}
    - sleep: 20m
";
    let report = run(&scenario(&format!("  steps:\n  - name: a\n    try:{pod}{steps}")), 1);
    assert!(report.passed, "{}", report.to_text());
}

/// A call that the EBS driver refuses because it still works on an earlier one is a try all the same.
#[test]
fn a_call_that_a_busy_driver_refuses_is_a_try() {
    let steps = "
    - fault: {actionId: 'local:rpc', call: NodeUnpublishVolume, count: 1, delay: 200s}
    - delete: {kind: Pod, name: app, timeout: 0s}
    - sleep: 40s
    - fault: {actionId: 'local:clear'}
    - sleep: 10m
    - delete: {kind: PersistentVolumeClaim, name: data}
    - sleep: 20m
";
    let report = run(&scenario(&format!("  steps:\n  - name: a\n    try:{POD}{steps}")), 1);
    assert!(report.passed, "{}", report.to_text());
}

const CLEAN: &str = "    - delete: {kind: Pod, name: app}
    - delete: {kind: PersistentVolumeClaim, name: data}
    - sleep: 20m
";

/// Found by the search (seed 706): the rule is used up by the call that it delays, and the delay is still a fault. After it all must
/// go on.
#[test]
fn what_a_fault_delays_is_no_calm() {
    let pod = POD.replace("    - wait: {for: {kind: Pod, name: app, condition: Ready}}\n", "");
    for call in ["NodePublishVolume", "ControllerPublishVolume"] {
        let fault = format!("    - fault: {{actionId: 'local:rpc', call: {call}, count: 1, delay: 20m}}\n");
        let steps = format!("{pod}    - sleep: 21m\n    - wait: {{for: {{kind: Pod, name: app, condition: Ready}}, timeout: 3m}}\n{CLEAN}");
        let report = run(&scenario(&format!("  steps:\n  - name: a\n    try:\n{fault}{}", steps.trim_start_matches('\n'))), 1);
        assert!(report.passed, "{call}: {}", report.to_text());
    }
}

/// The tunnel of a TLS mount lives in the driver's pod, and the next pod's watchdog starts it again.
#[test]
fn io_waits_while_the_efs_driver_is_away() {
    let mut world = World::new(&scenario("  steps:\n  - {name: a, try: [{sleep: 1s}]}\n"), 1, Vec::new(), false).unwrap();
    let mount = Mount { tree: "fs-1".into(), root: "/".into(), read_only: false };
    world.nodes[0].mounts.insert("/var/lib/kubelet/pods/x/mount".into(), mount);
    let driver = Actor::Plugin(0, Which::Efs);
    world.stop(driver);
    world.faults_changed();
    world.advance(Duration::from_secs(60));
    assert!(world.nodes[0].io_hangs);
    world.start_actor(driver);
    world.faults_changed();
    world.advance(Duration::from_secs(2));
    assert!(!world.nodes[0].io_hangs);
    assert_eq!(world.watch.take().len(), 0, "nothing has to go on while the driver is away");
    world.io(0, true);
    world.advance(Duration::from_secs(31));
    world.watch.pass(world.clock.now());
    let found: Vec<_> = world.watch.take().into_iter().map(|found| found.invariant).collect();
    assert_eq!(found, ["io-resumes"]);
}
