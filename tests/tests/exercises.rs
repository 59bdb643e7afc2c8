//! The workshop's exercises as its users do them: by hand, with kubectl and the aws CLI (users.md §2).

#[path = "exercises/mod.rs"]
mod exercises;

use std::time::Duration;

use ebbtide_tests::{Ebbtide, POD, root, wait_for};

/// Waits for the pod's lines, recreates the pod, and asserts that the first lines are the old ones. Returns them.
fn survives_its_pod(ebbtide: &Ebbtide, claim: &str) -> String {
    let pod = POD.replace("CLAIM", claim);
    ebbtide.kubectl_with(&["apply", "-f", "-"], &pod);
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=60s"]);
    let lines = || ebbtide.kubectl(&["exec", "app", "--", "cat", "/data/out.txt"]);
    wait_for("three lines", Duration::from_secs(20), || lines().lines().count() >= 3);
    let first = ebbtide.kubectl(&["exec", "app", "--", "head", "-n", "3", "/data/out.txt"]);
    ebbtide.kubectl(&["delete", "pod", "app", "--timeout=60s"]);
    ebbtide.kubectl_with(&["apply", "-f", "-"], &pod);
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=60s"]);
    assert_eq!(ebbtide.kubectl(&["exec", "app", "--", "head", "-n", "3", "/data/out.txt"]), first, "the data did not outlive the pod");
    first
}

fn delete_pod_and_claim(ebbtide: &Ebbtide, claim: &str) {
    ebbtide.kubectl(&["delete", "pod", "app", "--timeout=60s"]);
    ebbtide.kubectl(&["delete", "pvc", claim, "--timeout=60s"]);
}

/// The exercises of EBS with our own controllers and driver. sidecars.rs has the other stacks.
#[test]
fn ebs() {
    if !root() {
        return;
    }
    let ebbtide = exercises::stack::up(&[]);
    exercises::all::all(&ebbtide);
}

/// A file system with a mount target in every zone of the nodes; its id.
fn file_system(ebbtide: &Ebbtide) -> String {
    let fs = ebbtide.aws(&["efs", "create-file-system", "--creation-token", "workshop", "--encrypted"]);
    let id = fs["FileSystemId"].as_str().expect("a file system id").to_owned();
    wait_for("the file system", Duration::from_secs(10), || {
        ebbtide.aws(&["efs", "describe-file-systems", "--file-system-id", &id])["FileSystems"][0]["LifeCycleState"] == "available"
    });
    let subnets = ebbtide.aws(&["ec2", "describe-subnets"]);
    for subnet in subnets["Subnets"].as_array().expect("subnets") {
        let subnet = subnet["SubnetId"].as_str().expect("a subnet id");
        let target = ebbtide.aws(&["efs", "create-mount-target", "--file-system-id", &id, "--subnet-id", subnet]);
        assert!(target["MountTargetId"].as_str().is_some_and(|id| id.starts_with("fsmt-")), "{target}");
    }
    wait_for("the mount targets", Duration::from_secs(10), || {
        let targets = ebbtide.aws(&["efs", "describe-mount-targets", "--file-system-id", &id]);
        targets["MountTargets"].as_array().is_some_and(|all| all.iter().all(|target| target["LifeCycleState"] == "available"))
    });
    id
}

#[test]
fn f01_efs_static() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let id = file_system(&ebbtide);
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        &format!(
            r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: efs-sc}}
provisioner: efs.csi.aws.com
---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: efs-pv}}
spec:
  capacity: {{storage: 5Gi}}
  volumeMode: Filesystem
  accessModes: [ReadWriteOnce]
  storageClassName: efs-sc
  persistentVolumeReclaimPolicy: Retain
  csi: {{driver: efs.csi.aws.com, volumeHandle: {id}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: efs-claim}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: efs-sc
  resources: {{requests: {{storage: 5Gi}}}}
"#
        ),
    );
    survives_its_pod(&ebbtide, "efs-claim");
    let df = ebbtide.kubectl(&["exec", "app", "--", "df", "-h", "/data"]);
    assert!(df.contains("8.0E"), "{df}");
    delete_pod_and_claim(&ebbtide, "efs-claim");
    ebbtide.kubectl(&["delete", "pv", "efs-pv", "--timeout=60s"]);
    // Retain: the data is still there.
    let data = std::fs::read_to_string(ebbtide.dir().join("efs").join(&id).join("out.txt")).expect("the file outlives its volume");
    assert!(data.lines().count() >= 3);
}

#[test]
fn f02_efs_dynamic() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let id = file_system(&ebbtide);
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        &format!(
            r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: efs-sc}}
provisioner: efs.csi.aws.com
parameters: {{provisioningMode: efs-ap, fileSystemId: {id}, directoryPerms: "700"}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: efs-claim}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: efs-sc
  resources: {{requests: {{storage: 5Gi}}}}
"#
        ),
    );
    survives_its_pod(&ebbtide, "efs-claim");
    let points = ebbtide.aws(&["efs", "describe-access-points", "--file-system-id", &id]);
    let point = &points["AccessPoints"][0];
    assert_eq!(point["PosixUser"]["Uid"], 50000, "{point}");
    assert_eq!(point["PosixUser"]["Gid"], 50000);
    assert_eq!(point["RootDirectory"]["CreationInfo"]["Permissions"], "700");
    assert!(point["RootDirectory"]["Path"].as_str().is_some_and(|path| path.starts_with("/pvc-")), "{point}");
    let owner = ebbtide.kubectl(&["exec", "app", "--", "stat", "-c", "%u:%g", "/data/out.txt"]);
    assert_eq!(owner.trim(), "50000:50000");

    // A second pod on the other node sees the same file at once.
    let here = ebbtide.kubectl(&["get", "pod", "app", "-o", "jsonpath={.spec.nodeName}"]);
    let there = ebbtide.nodes().into_iter().find(|node| *node != here).expect("a second node");
    let reader = POD
        .replace("CLAIM", "efs-claim")
        .replace("name: app}\nspec:", &format!("name: reader}}\nspec:\n  nodeName: {there}"))
        .replace("while true; do echo $(date -u) >> /data/out.txt; sleep 0.3; done", "sleep 600");
    ebbtide.kubectl_with(&["apply", "-f", "-"], &reader);
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/reader", "--timeout=60s"]);
    ebbtide.kubectl(&["exec", "app", "--", "sh", "-c", "echo hello > /data/greeting"]);
    assert_eq!(ebbtide.kubectl(&["exec", "reader", "--", "cat", "/data/greeting"]), "hello\n");

    ebbtide.kubectl(&["delete", "pod", "reader", "--timeout=60s"]);
    delete_pod_and_claim(&ebbtide, "efs-claim");
    wait_for("the access point to be deleted", Duration::from_secs(30), || {
        ebbtide.aws(&["efs", "describe-access-points", "--file-system-id", &id])["AccessPoints"].as_array().is_some_and(Vec::is_empty)
    });
}
