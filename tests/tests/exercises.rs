//! The workshop's four exercises as the workshop's users do them: by hand, with kubectl and the aws CLI (users.md §2).

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

#[test]
fn e01_ebs_static() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let volume = ebbtide.aws(&["ec2", "create-volume", "--size", "10", "--availability-zone", "us-east-1a", "--volume-type", "gp3"]);
    let id = volume["VolumeId"].as_str().expect("a volume id").to_owned();
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        &format!(
            r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: test-pv}}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {{storage: 10Gi}}
  csi: {{driver: ebs.csi.aws.com, fsType: ext4, volumeHandle: {id}}}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{{key: topology.kubernetes.io/zone, operator: In, values: [us-east-1a]}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: ebs-claim}}
spec:
  storageClassName: ""
  volumeName: test-pv
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 10Gi}}}}
"#
        ),
    );
    survives_its_pod(&ebbtide, "ebs-claim");
    let pv = ebbtide.kubectl(&["get", "pv", "test-pv", "--no-headers"]);
    let cells: Vec<&str> = pv.split_whitespace().collect();
    assert_eq!(&cells[..6], ["test-pv", "10Gi", "RWO", "Retain", "Bound", "default/ebs-claim"], "{pv}");
    let shown = ebbtide.aws(&["ec2", "describe-volumes", "--volume-ids", &id]);
    assert_eq!(shown["Volumes"][0]["State"], "in-use");
    assert_eq!(shown["Volumes"][0]["Attachments"][0]["State"], "attached");

    delete_pod_and_claim(&ebbtide, "ebs-claim");
    ebbtide.kubectl(&["delete", "pv", "test-pv", "--timeout=60s"]);
    wait_for("the volume to be detached", Duration::from_secs(30), || {
        ebbtide.aws(&["ec2", "describe-volumes", "--volume-ids", &id])["Volumes"][0]["State"] == "available"
    });
    ebbtide.aws(&["ec2", "delete-volume", "--volume-id", &id]);
    let gone = ebbtide.aws_error(&["ec2", "describe-volumes", "--volume-ids", &id]);
    assert!(gone.contains("InvalidVolume.NotFound") && gone.contains(&id), "{gone}");
}

#[test]
fn e03_ebs_dynamic() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    // The class comes last, as in the workshop: the claim waits for it.
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ebs-claim}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ebs-sc
  resources: {requests: {storage: 10Gi}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
"#,
    );
    survives_its_pod(&ebbtide, "ebs-claim");
    let handle = ebbtide.kubectl(&["get", "pv", "-o", "jsonpath={.items[0].spec.csi.volumeHandle}"]);
    let pv = ebbtide.kubectl(&["get", "pv", "-o", "jsonpath={.items[0].metadata.name}"]);
    let node = ebbtide.kubectl(&["get", "pod", "app", "-o", "jsonpath={.spec.nodeName}"]);
    let zone = ebbtide.kubectl(&["get", "node", &node, "-o", r"jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}"]);
    let volume = &ebbtide.aws(&["ec2", "describe-volumes", "--volume-ids", &handle])["Volumes"][0];
    assert_eq!(volume["VolumeType"], "gp3");
    assert_eq!(volume["AvailabilityZone"], zone.as_str());
    let tag = |key: &str| {
        volume["Tags"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|tag| tag["Key"] == key)
            .map(|tag| tag["Value"].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(tag("CSIVolumeName").as_deref(), Some(pv.as_str()));
    assert_eq!(tag("ebs.csi.aws.com/cluster").as_deref(), Some("true"));
    assert_eq!(tag("kubernetes.io/created-for/pvc/name").as_deref(), Some("ebs-claim"));
    assert_eq!(tag("kubernetes.io/created-for/pvc/namespace").as_deref(), Some("default"));

    // The class goes before the claim, and the volume is deleted all the same.
    ebbtide.kubectl(&["delete", "storageclass", "ebs-sc"]);
    delete_pod_and_claim(&ebbtide, "ebs-claim");
    wait_for("the volume to be deleted", Duration::from_secs(30), || {
        ebbtide.aws(&["ec2", "describe-volumes", "--filters", &format!("Name=tag:CSIVolumeName,Values={pv}")])["Volumes"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    assert_eq!(ebbtide.kubectl(&["get", "pv", "-o", "name"]), "");
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
