//! `ebbtide run --live`: incidents on real devices, and what is left of a run that passes, fails or is interrupted: nothing.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, program, root, text, wait_for};
use serde_json::{Value, json};

/// An ebbtide with the nodes that the library wants.
fn up(directory: &tempfile::TempDir) -> Ebbtide {
    let world = Command::new(program()).args(["run", "--world"]).output().expect("ebbtide run --world");
    assert!(world.status.success(), "{}", text(&world));
    let file = directory.path().join("world.yaml");
    std::fs::write(&file, world.stdout).expect("writing the world");
    Ebbtide::up(&["--world", file.to_str().expect("UTF-8")])
}

fn reports(output: &Output) -> Vec<Value> {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

/// What users see of storage, and of trouble; the nodes have power.
fn assert_clean(ebbtide: &Ebbtide) {
    let objects = ebbtide.kubectl(&["get", "pods,pvc,pv,volumeattachments,storageclasses,statefulsets", "-A", "-o", "name"]);
    assert_eq!(objects, "", "objects are left");
    assert_eq!(ebbtide.aws(&["ec2", "describe-volumes"])["Volumes"], json!([]));
    assert_eq!(ebbtide.aws(&["efs", "describe-file-systems"])["FileSystems"], json!([]));
    let faults = ebbtide.ebbtide(&["fault", "ls", "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&faults.stdout).expect("JSON"), json!([]));
    let nodes = ebbtide.ebbtide(&["node", "ls", "-o", "json"]);
    let nodes: Vec<Value> = serde_json::from_slice(&nodes.stdout).expect("JSON");
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node["off"] == false && !node["pid"].is_null()), "{nodes:?}");
}

#[test]
fn incidents_pass_and_leave_nothing() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let ebbtide = up(&directory);
    // Power that is cut while a volume is detached, calls of a driver that fail, an API of AWS that refuses, none of these.
    let names = ["i12-device-name-used-again", "i26-unstage-fails-after-unmount", "ebs22-answers-lost", "efs06-access-denied"];
    let run = ebbtide.ebbtide(&[&["run"], &names[..], &["--live", "-o", "json"]].concat());
    let reports = reports(&run);
    for (report, name) in reports.iter().zip(names) {
        assert_eq!((&report["scenario"], &report["engine"]), (&json!(name), &json!("live")));
        assert_eq!(report["passed"], true, "{report:#}");
        assert!(report["virtualSeconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{report}");
    }
    assert!(reports.len() == names.len() && run.status.success(), "{}", text(&run));
    assert_clean(&ebbtide);
}

fn scenario(directory: &tempfile::TempDir, name: &str, steps: &str) -> PathBuf {
    let file = directory.path().join(format!("{name}.yaml"));
    let head = format!(
        "apiVersion: ebbtide.dev/v1alpha1\nkind: Scenario\nmetadata: {{name: {name}}}\nspec:\n  \
         world: {{nodes: [{{name: n1, zone: us-east-1a}}]}}\n  steps:\n"
    );
    std::fs::write(&file, head + steps).expect("writing a scenario");
    file
}

/// A StatefulSet whose claims and volumes are kept, a volume by hand, faults, and a mark on a node.
const MAKES_MUCH: &str = r#"
  - name: much is made
    try:
    - aws: {command: ec2 create-volume, with: {Size: 1, AvailabilityZone: us-east-1a}}
    - fault: {actionId: "local:rpc", call: NodeStageVolume, delay: 1s}
    - fault: {actionId: "aws:fis:inject-api-throttle-error", operation: DeleteSnapshot}
    - apply:
        manifests: |
          apiVersion: v1
          kind: Node
          metadata: {name: n1, labels: {colour: blue}}
          ---
          apiVersion: storage.k8s.io/v1
          kind: StorageClass
          metadata: {name: kept}
          provisioner: ebs.csi.aws.com
          reclaimPolicy: Retain
          volumeBindingMode: WaitForFirstConsumer
          ---
          apiVersion: apps/v1
          kind: StatefulSet
          metadata: {name: db}
          spec:
            serviceName: db
            selector: {matchLabels: {app: db}}
            template:
              metadata: {labels: {app: db}}
              spec:
                nodeSelector: {kubernetes.io/hostname: n1}
                terminationGracePeriodSeconds: 1
                containers: [{name: app, image: busybox, command: [sleep, infinity], volumeMounts: [{name: data, mountPath: /data}]}]
            volumeClaimTemplates:
            - metadata: {name: data}
              spec: {accessModes: [ReadWriteOnce], storageClassName: kept, resources: {requests: {storage: 1Gi}}}
    - wait: {for: {kind: Pod, name: db-0, condition: Ready}}
"#;

fn assert_unmarked(ebbtide: &Ebbtide) {
    assert_eq!(ebbtide.kubectl(&["get", "nodes", "-l", "colour", "-o", "name"]), "", "the label is left");
}

#[test]
fn a_run_that_fails_is_taken_down_and_the_next_one_passes() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let ebbtide = up(&directory);
    let fails = scenario(&directory, "fails", &format!("{MAKES_MUCH}    - assert: {{absent: {{kind: Pod, name: db-0}}}}\n"));
    let passes = scenario(&directory, "passes", &format!("{MAKES_MUCH}{TAKES_DOWN}"));
    let files = [fails, passes].map(|file| file.to_str().expect("UTF-8").to_owned());
    let run = ebbtide.ebbtide(&["run", &files[0], &files[1], "--live", "-o", "json"]);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run));
    let reports = reports(&run);
    assert_eq!((&reports[0]["passed"], &reports[0]["left"]), (&json!(false), &Value::Null), "{:#}", reports[0]);
    assert_eq!(reports[1]["passed"], true, "{:#}", reports[1]);
    assert_clean(&ebbtide);
}

/// What undoes [`MAKES_MUCH`] by hand.
const TAKES_DOWN: &str = r#"
  - name: and taken down
    try:
    - fault: {actionId: "local:clear"}
    - assert: {resource: {kind: PersistentVolumeClaim, metadata: {name: data-db-0}}, capture: {pv: spec/volumeName}}
    - assert: {resource: {kind: PersistentVolume, metadata: {name: "${pv}"}}, capture: {volume: spec/csi/volumeHandle}}
    - delete: {kind: StatefulSet, name: db}
    - wait: {for: {kind: Pod, name: db-0, deleted: true}}
    - delete: {kind: PersistentVolumeClaim, name: data-db-0}
    - assert: {resource: {kind: PersistentVolume, metadata: {name: "${pv}"}, status: {phase: Released}}, within: 1m}
    - aws: {command: ec2 describe-volumes, with: {VolumeIds: ["${volume}"]}, expect: {Volumes: [{State: available}]}, within: 1m}
    - delete: {kind: PersistentVolume, name: "${pv}"}
    - delete: {kind: StorageClass, name: kept}
    - aws: {command: ec2 delete-volume, with: {VolumeId: "${volume}"}}
    - aws: {command: ec2 describe-volumes, capture: {other: Volumes/0/VolumeId}}
    - aws: {command: ec2 delete-volume, with: {VolumeId: "${other}"}}
"#;

#[test]
fn ctrl_c_takes_down_what_a_run_made() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let ebbtide = up(&directory);
    let waits = "    - fault: {actionId: \"aws:ec2:stop-instances\", node: n1}\n    - print: it waits\n    - sleep: 1h\n";
    let file = scenario(&directory, "waits", &format!("{MAKES_MUCH}{waits}"));
    let mut run = ebbtide.command(program().to_str().expect("UTF-8"));
    run.args(["run", file.to_str().expect("UTF-8"), "--live", "--data-dir"]).arg(ebbtide.dir());
    let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ebbtide run");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let said: Vec<String> = lines.by_ref().take_while(|line| !line.contains("it waits")).collect();
    assert!(child.try_wait().expect("its state").is_none(), "it ended: {said:?}");
    let interrupted = Instant::now();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let rest: Vec<String> = lines.collect();
    let status = child.wait().expect("its end");
    assert_eq!(status.code(), Some(130), "{said:?} {rest:?}");
    let rest = rest.join("\n");
    for part in ["taking down StatefulSet db", "taking down PersistentVolumeClaim data-db-0", "changing back Node", "interrupted in"] {
        assert!(rest.contains(part), "{part} in {rest}");
    }
    assert!(!rest.contains("LEFT BEHIND"), "{rest}");
    // It did not wait for the hour.
    assert!(interrupted.elapsed() < Duration::from_secs(600));
    assert_unmarked(&ebbtide);
    assert_clean(&ebbtide);
    wait_for("the nodes", Duration::from_secs(60), || {
        !ebbtide.kubectl(&["get", "nodes", "-o", r"jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"]).contains("Unknown")
    });
}
