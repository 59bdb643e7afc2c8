//! The CSI sidecars of the Kubernetes project, unmodified, in the place of our controllers: client-go against our API, and the
//! built-in drivers' controller services behind it. `make test-sidecars` builds and runs them.

#[path = "sidecars/annotations.rs"]
mod annotations;
#[path = "sidecars/answers.rs"]
mod answers;
#[path = "exercises/mod.rs"]
mod exercises;
#[path = "sidecars/real.rs"]
mod real;
#[path = "sidecars/running.rs"]
mod running;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ebbtide_tests::{Ebbtide, POD, root, wait_for};
use serde_json::Value;

use real::RealEbs;
use running::{Sidecars, socket};

/// The controllers of ours in whose place the sidecars run.
const OFF: &str = "--controllers=-provisioner,-attacher,-resizer,-snapshotter,-snapshot-controller";

/// The exercises' pod with the claim that all tests here have.
fn pod() -> String {
    POD.replace("CLAIM", "claim")
}

/// Whether this machine can run these tests; says so when it cannot.
fn ready() -> bool {
    if !root() {
        return false;
    }
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    let all = ["csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter", "snapshot-controller", "csi-registrar"]
        .into_iter()
        .all(there);
    if !all {
        eprintln!("skipped: build the sidecars with scripts/setup sidecars");
    }
    all
}

fn json(ebbtide: &Ebbtide, args: &[&str]) -> Value {
    serde_json::from_str(&ebbtide.kubectl(&[&["get", "-o", "json", "--show-managed-fields"], args].concat())).expect("JSON from kubectl")
}

/// Who wrote to an object, by its managed fields.
fn writers(object: &Value) -> Vec<&str> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().filter_map(|entry| entry["manager"].as_str()).collect()
}

/// Creates class, claim and pod, waits for three lines, recreates the pod, and asserts that the first lines are the old ones.
fn survives_its_pod(ebbtide: &Ebbtide, class_and_claim: &str) {
    ebbtide.kubectl_with(&["apply", "-f", "-"], class_and_claim);
    ebbtide.kubectl_with(&["apply", "-f", "-"], &pod());
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=60s"]);
    let lines = || ebbtide.kubectl(&["exec", "app", "--", "cat", "/data/out.txt"]);
    wait_for("three lines", Duration::from_secs(20), || lines().lines().count() >= 3);
    let first = ebbtide.kubectl(&["exec", "app", "--", "head", "-n", "3", "/data/out.txt"]);
    ebbtide.kubectl(&["delete", "pod", "app", "--timeout=60s"]);
    ebbtide.kubectl_with(&["apply", "-f", "-"], &pod());
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=60s"]);
    assert_eq!(ebbtide.kubectl(&["exec", "app", "--", "head", "-n", "3", "/data/out.txt"]), first, "the data did not outlive the pod");
}

/// Deletes pods and claims; the volumes and their attachments go too.
fn all_goes(ebbtide: &Ebbtide) {
    ebbtide.kubectl(&["delete", "pod", "--all", "--timeout=60s"]);
    // Else the provisioner refuses to delete a volume that is still attached, and tries again later.
    wait_for("the attachments to go", Duration::from_secs(60), || ebbtide.kubectl(&["get", "volumeattachments", "-o", "name"]).is_empty());
    ebbtide.kubectl(&["delete", "pvc", "--all", "--timeout=60s"]);
    wait_for("the volumes to go", Duration::from_secs(60), || ebbtide.kubectl(&["get", "pv", "-o", "name"]).is_empty());
}

#[test]
fn e03_ebs_dynamic_and_growth() {
    if !ready() {
        return;
    }
    let ebbtide = Ebbtide::up(&[OFF]);
    let mut sidecars = Sidecars::new(&ebbtide);
    sidecars.ebs(&socket(&ebbtide, "ebs"));
    survives_its_pod(
        &ebbtide,
        r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
allowVolumeExpansion: true
parameters: {csi.storage.k8s.io/fstype: xfs}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ebs-sc
  resources: {requests: {storage: 1Gi}}
"#,
    );
    let volume = &json(&ebbtide, &["pv"])["items"][0];
    let name = volume["metadata"]["name"].as_str().expect("a name");
    assert!(writers(volume).contains(&"csi-provisioner"), "{volume:#}");
    let events = ebbtide.kubectl(&["get", "events", "-o", r#"jsonpath={range .items[*]}{.reason}|{.source.component}{"\n"}{end}"#]);
    assert!(events.lines().any(|line| line.starts_with("ProvisioningSucceeded|ebs.csi.aws.com_0-csi-provisioner_")), "{events}");
    let attachments = json(&ebbtide, &["volumeattachments"]);
    let attachment = &attachments["items"][0];
    assert_eq!(attachments["items"].as_array().map(Vec::len), Some(1), "{attachments:#}");
    assert_eq!(attachment["spec"]["source"]["persistentVolumeName"], name);
    assert_eq!(attachment["spec"]["nodeName"], json(&ebbtide, &["pod", "app"])["spec"]["nodeName"]);
    assert_eq!(attachment["status"]["attached"], true, "{attachment:#}");
    assert_eq!(attachment["metadata"]["finalizers"][0], "external-attacher/ebs-csi-aws-com");
    assert!(writers(attachment).contains(&"csi-attacher"), "{attachment:#}");
    let handle = volume["spec"]["csi"]["volumeHandle"].as_str().expect("a volume id");
    let made = &ebbtide.aws(&["ec2", "describe-volumes", "--volume-ids", handle])["Volumes"][0];
    assert_eq!(made["State"], "in-use", "{made:#}");
    let tag = |key: &str| made["Tags"].as_array().into_iter().flatten().find(|tag| tag["Key"] == key).map(|tag| &tag["Value"]);
    assert_eq!(tag("CSIVolumeName"), Some(&volume["metadata"]["name"]));
    assert_eq!(tag("kubernetes.io/created-for/pvc/name"), Some(&"claim".into()));

    // It grows while the pod runs; the kubelet looks at the claim about once a minute.
    ebbtide.kubectl(&["patch", "pvc", "claim", "-p", r#"{"spec": {"resources": {"requests": {"storage": "2Gi"}}}}"#]);
    wait_for("the claim to have grown", Duration::from_secs(150), || {
        ebbtide.kubectl(&["get", "pvc", "claim", "-o", "jsonpath={.status.capacity.storage}"]) == "2Gi"
    });
    let grown = json(&ebbtide, &["pvc", "claim"]);
    assert!(writers(&grown).contains(&"csi-resizer"), "{grown:#}");
    assert_eq!(grown["status"]["conditions"], Value::Null, "{grown:#}");
    assert_eq!(ebbtide.aws(&["ec2", "describe-volumes", "--volume-ids", handle])["Volumes"][0]["Size"], 2);
    let kib = ebbtide.kubectl(&["exec", "app", "--", "sh", "-c", "df -k /data | tail -1 | awk '{print $2}'"]);
    assert!(kib.trim().parse::<u64>().expect("a number of KiB") > 1_900_000, "the file system did not grow: {kib}");

    all_goes(&ebbtide);
    let gone = ebbtide.aws_error(&["ec2", "describe-volumes", "--volume-ids", handle]);
    assert!(gone.contains("InvalidVolume.NotFound"), "{gone}");
    sidecars.are_content();
}

#[test]
fn f02_efs_dynamic() {
    if !ready() {
        return;
    }
    let ebbtide = Ebbtide::up(&[OFF]);
    let mut sidecars = Sidecars::new(&ebbtide);
    sidecars.efs();
    let id = ebbtide.aws(&["efs", "create-file-system", "--creation-token", "workshop"])["FileSystemId"]
        .as_str()
        .expect("a file system id")
        .to_owned();
    wait_for("the file system", Duration::from_secs(10), || {
        ebbtide.aws(&["efs", "describe-file-systems", "--file-system-id", &id])["FileSystems"][0]["LifeCycleState"] == "available"
    });
    for subnet in ebbtide.aws(&["ec2", "describe-subnets"])["Subnets"].as_array().expect("subnets") {
        let subnet = subnet["SubnetId"].as_str().expect("a subnet id");
        ebbtide.aws(&["efs", "create-mount-target", "--file-system-id", &id, "--subnet-id", subnet]);
    }
    wait_for("the mount targets", Duration::from_secs(10), || {
        let targets = ebbtide.aws(&["efs", "describe-mount-targets", "--file-system-id", &id]);
        targets["MountTargets"].as_array().is_some_and(|all| all.iter().all(|target| target["LifeCycleState"] == "available"))
    });
    survives_its_pod(
        &ebbtide,
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
metadata: {{name: claim}}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: efs-sc
  resources: {{requests: {{storage: 5Gi}}}}
"#
        ),
    );
    let volume = &json(&ebbtide, &["pv"])["items"][0];
    assert!(writers(volume).contains(&"csi-provisioner"), "{volume:#}");
    // attachRequired is false: nobody attaches.
    assert_eq!(ebbtide.kubectl(&["get", "volumeattachments", "-o", "name"]), "");
    let points = || ebbtide.aws(&["efs", "describe-access-points", "--file-system-id", &id])["AccessPoints"].clone();
    let point = points()[0].clone();
    let handle = format!("efs:{id}::{}", point["AccessPointId"].as_str().expect("an access point id"));
    assert_eq!(volume["spec"]["csi"]["volumeHandle"], handle, "{volume:#}");
    all_goes(&ebbtide);
    assert_eq!(points(), serde_json::json!([]));
    sidecars.are_content();
}

#[test]
fn a_snapshot_is_restored() {
    if !ready() {
        return;
    }
    let ebbtide = Ebbtide::up(&[OFF]);
    let mut sidecars = Sidecars::new(&ebbtide);
    sidecars.ebs(&socket(&ebbtide, "ebs"));
    sidecars.snapshots(&socket(&ebbtide, "ebs"));
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        &(r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: ebs-vsc}
driver: ebs.csi.aws.com
deletionPolicy: Delete
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], storageClassName: ebs-sc, resources: {requests: {storage: 1Gi}}}
---"#
            .to_owned()
            + &pod()),
    );
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=60s"]);
    ebbtide.kubectl(&["exec", "app", "--", "sh", "-c", "echo precious > /data/kept && sync"]);
    let restored = POD.replace("CLAIM", "restored").replace("name: app}", "name: reader}");
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        r#"
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: snap}
spec: {volumeSnapshotClassName: ebs-vsc, source: {persistentVolumeClaimName: claim}}
"#,
    );
    ebbtide.kubectl(&["wait", "--for=jsonpath={.status.readyToUse}=true", "volumesnapshot/snap", "--timeout=60s"]);
    let content = &json(&ebbtide, &["volumesnapshotcontents"])["items"][0];
    assert!(writers(content).contains(&"csi-snapshotter") && writers(content).contains(&"snapshot-controller"), "{content:#}");
    let id = content["status"]["snapshotHandle"].as_str().expect("a snapshot id");
    let made = &ebbtide.aws(&["ec2", "describe-snapshots", "--snapshot-ids", id])["Snapshots"][0];
    assert_eq!(made["State"], "completed", "{made:#}");
    // What is written later is not in the snapshot.
    ebbtide.kubectl(&["exec", "app", "--", "sh", "-c", "echo changed > /data/kept && sync"]);
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        &(r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: restored}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ebs-sc
  resources: {requests: {storage: 1Gi}}
  dataSource: {name: snap, kind: VolumeSnapshot, apiGroup: snapshot.storage.k8s.io}
---"#
            .to_owned()
            + &restored),
    );
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/reader", "--timeout=60s"]);
    assert_eq!(ebbtide.kubectl(&["exec", "reader", "--", "cat", "/data/kept"]), "precious\n");
    ebbtide.kubectl(&["delete", "volumesnapshot", "snap", "--timeout=60s"]);
    wait_for("the content to go", Duration::from_secs(30), || ebbtide.kubectl(&["get", "volumesnapshotcontents", "-o", "name"]).is_empty());
    let gone = ebbtide.aws_error(&["ec2", "describe-snapshots", "--snapshot-ids", id]);
    assert!(gone.contains("InvalidSnapshot.NotFound"), "{gone}");
    all_goes(&ebbtide);
    sidecars.are_content();
}

#[test]
fn a_standby_takes_over_when_its_leader_dies() {
    if !ready() {
        return;
    }
    let ebbtide = Ebbtide::up(&[OFF]);
    let mut sidecars = Sidecars::new(&ebbtide);
    let socket = socket(&ebbtide, "ebs");
    let holder = || ebbtide.kubectl(&["get", "lease", "-n", "kube-system", "ebs-csi-aws-com", "-o", "jsonpath={.spec.holderIdentity}"]);
    let first = sidecars.start("csi-provisioner", &socket, &[]);
    wait_for("a leader", Duration::from_secs(20), || sidecars.log(first).contains("became leader"));
    assert_eq!(holder(), "0-csi-provisioner");
    let standby = sidecars.start("csi-provisioner", &socket, &[]);
    wait_for("the standby to see the leader", Duration::from_secs(20), || {
        sidecars.log(standby).contains(r#""New leader detected" leader="0-csi-provisioner""#)
    });
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
"#,
    );
    let claim = |name: &str| {
        ebbtide.kubectl_with(
            &["apply", "-f", "-"],
            &format!(
                r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: ebs-sc, resources: {{requests: {{storage: 1Gi}}}}}}
"#
            ),
        );
        ebbtide.kubectl(&["wait", "--for=jsonpath={.status.phase}=Bound", "pvc", name, "--timeout=60s"]);
    };
    claim("one");
    sidecars.kill(first);
    claim("two");
    assert_eq!(holder(), "1-csi-provisioner");
    let transitions = ebbtide.kubectl(&["get", "lease", "-n", "kube-system", "ebs-csi-aws-com", "-o", "jsonpath={.spec.leaseTransitions}"]);
    assert_eq!(transitions, "1");
    let complaints = sidecars.complaints();
    assert!(complaints.is_empty(), "the sidecars complain:\n{}", complaints.join("\n"));
    all_goes(&ebbtide);
}

/// What is said of the exercise whose volume lies in another zone than its pod.
const MISTAKES: [&str; 1] = ["InvalidVolume.ZoneMismatch"];

/// The sidecars of a stack with snapshots.
fn sidecars_for_all<'a>(ebbtide: &'a Ebbtide, socket: &Path) -> Sidecars<'a> {
    let mut sidecars = Sidecars::new(ebbtide);
    sidecars.expected.extend(MISTAKES);
    sidecars.ebs(socket);
    sidecars.snapshots(socket);
    sidecars
}

/// Our API, the real sidecars, the built-in driver.
#[test]
fn exercises_with_the_real_sidecars() {
    if !ready() {
        return;
    }
    let ebbtide = exercises::stack::up(&[OFF]);
    let mut sidecars = sidecars_for_all(&ebbtide, &socket(&ebbtide, "ebs"));
    exercises::all::all(&ebbtide);
    sidecars.are_content();
}

/// Our API, the real sidecars, the real driver. It has nothing to complain about, and no answer of EC2 makes it try again.
#[test]
fn exercises_with_the_real_driver() {
    if !ready() {
        return;
    }
    let Some(binary) = real::given() else { return };
    let ebbtide = exercises::stack::up(&[OFF, "--drivers=-ebs.csi.aws.com"]);
    let driver = RealEbs::start(&ebbtide, &binary);
    let mut sidecars = sidecars_for_all(&ebbtide, &driver.socket);
    exercises::all::all(&ebbtide);
    sidecars.are_content();
    let answers = driver.answers(&MISTAKES);
    eprintln!("requests of the driver: {:?}\nerrors it asked for: {:?}", answers.actions, answers.asked);
    assert!(answers.complaints.is_empty(), "the driver complains:\n{}", answers.complaints.join("\n"));
    // Else nothing was logged.
    assert!(answers.actions.contains_key("AttachVolume"), "the driver's log shows no request");
}

/// E13: volume-modifier-for-k8s carries annotations of claims to the real driver, by calls of its own beside CSI's.
#[test]
fn e13_annotations_with_the_real_driver() {
    if !ready() {
        return;
    }
    let Some(binary) = real::given() else { return };
    let modifier = Command::new("volume-modifier").arg("--version").output().is_ok_and(|output| output.status.success());
    if !modifier {
        eprintln!("skipped: build volume-modifier with scripts/setup sidecars");
        return;
    }
    let ebbtide = exercises::stack::up(&[OFF, "--drivers=-ebs.csi.aws.com"]);
    let driver = RealEbs::start(&ebbtide, &binary);
    let mut sidecars = Sidecars::new(&ebbtide);
    sidecars.ebs(&driver.socket);
    sidecars.modifier(&driver.socket);
    annotations::e13(&exercises::stack::Exercise::new(&ebbtide, "e13"));
    sidecars.are_content();
    let answers = driver.answers(&MISTAKES);
    assert!(answers.complaints.is_empty(), "the driver complains:\n{}", answers.complaints.join("\n"));
    assert!(answers.actions.contains_key("ModifyVolume"), "the driver's log shows no change");
}
