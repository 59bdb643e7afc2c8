//! The exercises E08–E10 and E12: snapshots, clones and changes by a VolumeAttributesClass.

use super::stack::{Exercise, LIMIT};

const SNAPSHOT_CLASS: &str = "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotClass\nmetadata: {name: NS-vsc}\ndriver: ebs.csi.aws.com\ndeletionPolicy: Delete\n";

const RESTORED: &str = "dataSource: {name: ebs-volume-snapshot, kind: VolumeSnapshot, apiGroup: snapshot.storage.k8s.io}";

fn usable(x: &Exercise<'_>) {
    let timeout = format!("--timeout={}s", LIMIT.as_secs());
    x.kubectl(&["wait", "--for=jsonpath={.status.readyToUse}=true", "volumesnapshot/ebs-volume-snapshot", &timeout]);
}

/// Deletes the snapshot with its content.
fn snapshot_goes(x: &Exercise<'_>, id: &str) {
    let content = x.field("volumesnapshot", "ebs-volume-snapshot", "{.status.boundVolumeSnapshotContentName}");
    x.delete("volumesnapshot", "ebs-volume-snapshot");
    x.eventually("the content to go", || !x.kubectl(&["get", "volumesnapshotcontents", "-o", "name"]).contains(&content));
    let gone = x.ebbtide.aws_error(&["ec2", "describe-snapshots", "--snapshot-ids", id]);
    assert!(gone.contains("InvalidSnapshot.NotFound"), "{gone}");
}

/// A snapshot of a claim, restored when the claim is gone.
pub fn e08(x: &Exercise<'_>) {
    x.class("");
    x.claim("ebs-claim", "4Gi", "");
    x.pod("app", "ebs-claim", "");
    x.ready("app");
    let first = x.first_lines("app");
    x.sh("app", "sync");
    x.apply(SNAPSHOT_CLASS);
    x.apply(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: ebs-volume-snapshot}\n\
         spec: {volumeSnapshotClassName: NS-vsc, source: {persistentVolumeClaimName: ebs-claim}}\n",
    );
    usable(x);
    let described = x.kubectl(&["describe", "volumesnapshot", "ebs-volume-snapshot"]);
    assert!(described.lines().any(|line| line.trim().starts_with("Ready To Use:") && line.ends_with("true")), "{described}");
    assert!(described.lines().any(|line| line.trim().starts_with("Restore Size:") && line.ends_with("4Gi")), "{described}");
    let content = x.field("volumesnapshot", "ebs-volume-snapshot", "{.status.boundVolumeSnapshotContentName}");
    let id = x.field("volumesnapshotcontent", &content, "{.status.snapshotHandle}");
    // What is written later is not in the snapshot.
    x.sh("app", "echo changed > /data/later && sync");
    x.clean_up();
    x.claim("ebs-snapshot-restored-claim", "4Gi", RESTORED);
    x.pod("app", "ebs-snapshot-restored-claim", "");
    x.ready("app");
    assert_eq!(x.first_lines("app"), first);
    assert_eq!(x.sh("app", "ls /data/later 2>/dev/null || echo none"), "none\n");
    x.clean_up();
    snapshot_goes(x, &id);
}

/// A snapshot that was made by hand.
pub fn e09(x: &Exercise<'_>) {
    x.class("");
    x.claim("ebs-claim", "4Gi", "");
    x.pod("app", "ebs-claim", "");
    x.ready("app");
    x.sh("app", "echo precious > /data/kept && sync");
    let made = x.aws(&["ec2", "create-snapshot", "--volume-id", &x.volume_of("ebs-claim")]);
    let id = made["SnapshotId"].as_str().expect("a snapshot id");
    x.aws(&["ec2", "wait", "snapshot-completed", "--snapshot-ids", id]);
    x.apply(SNAPSHOT_CLASS);
    x.apply(&format!(
        "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshotContent\nmetadata: {{name: NS-imported}}\nspec:\n  \
         volumeSnapshotRef: {{kind: VolumeSnapshot, name: ebs-volume-snapshot, namespace: NS}}\n  source: {{snapshotHandle: {id}}}\n  \
         driver: ebs.csi.aws.com\n  deletionPolicy: Delete\n  volumeSnapshotClassName: NS-vsc\n---\n\
         apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {{name: ebs-volume-snapshot}}\n\
         spec: {{volumeSnapshotClassName: NS-vsc, source: {{volumeSnapshotContentName: NS-imported}}}}\n"
    ));
    usable(x);
    assert_eq!(x.field("volumesnapshot", "ebs-volume-snapshot", "{.status.boundVolumeSnapshotContentName}"), "e09-imported");
    let uid = x.field("volumesnapshot", "ebs-volume-snapshot", "{.metadata.uid}");
    assert_eq!(x.field("volumesnapshotcontent", "e09-imported", "{.spec.volumeSnapshotRef.uid}"), uid);
    x.claim("restored", "4Gi", RESTORED);
    x.pod("reader", "restored", "");
    x.ready("reader");
    assert_eq!(x.sh("reader", "cat /data/kept"), "precious\n");
    x.clean_up();
    snapshot_goes(x, id);
}

/// A claim made of another one, both in use.
pub fn e10(x: &Exercise<'_>) {
    x.class("parameters: {encrypted: \"true\"}");
    x.claim("ebs-claim", "4Gi", "");
    x.pod("app", "ebs-claim", "");
    x.ready("app");
    x.sh("app", "echo original > /data/kept && sync");
    x.claim("ebs-clone-claim", "4Gi", "dataSource: {name: ebs-claim, kind: PersistentVolumeClaim}");
    x.pod("clone-app", "ebs-clone-claim", "");
    x.ready("clone-app");
    assert_eq!(x.sh("clone-app", "cat /data/kept"), "original\n");
    x.sh("clone-app", "echo changed > /data/kept && sync");
    assert_eq!(x.sh("app", "cat /data/kept"), "original\n");
    let copy = x.describe_volume(&x.volume_of("ebs-clone-claim"));
    assert_eq!((&copy["Encrypted"], &copy["Size"]), (&true.into(), &4.into()), "{copy:#}");
    assert_ne!(copy["VolumeId"], x.volume_of("ebs-claim").as_str());
    x.clean_up();
}

/// Another type by a VolumeAttributesClass.
pub fn e12(x: &Exercise<'_>) {
    x.class("");
    x.claim("ebs-claim", "4Gi", "");
    x.pod("app", "ebs-claim", "");
    x.ready("app");
    let id = x.volume_of("ebs-claim");
    x.apply(
        "apiVersion: storage.k8s.io/v1\nkind: VolumeAttributesClass\nmetadata: {name: NS-io2}\ndriverName: ebs.csi.aws.com\n\
         parameters: {type: io2, iops: \"3000\", tagSpecification_1: \"location=Seattle\"}\n",
    );
    x.kubectl(&["patch", "pvc", "ebs-claim", "--patch", r#"{"spec": {"volumeAttributesClassName": "e12-io2"}}"#]);
    x.until("ebs-claim", "{.status.currentVolumeAttributesClassName}=e12-io2");
    let shown = x.kubectl(&["get", "pvc", "ebs-claim"]);
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows[0].contains(&"VOLUMEATTRIBUTESCLASS") && rows[1].contains(&"e12-io2"), "{shown}");
    let volume = x.describe_volume(&id);
    assert_eq!((&volume["VolumeType"], &volume["Iops"]), (&"io2".into(), &3000.into()), "{volume:#}");
    let tags = volume["Tags"].as_array().cloned().unwrap_or_default();
    assert!(tags.iter().any(|tag| tag["Key"] == "location" && tag["Value"] == "Seattle"), "{volume:#}");
    // Four changes in a day, and this was the first.
    for iops in ["2901", "2902", "2903"] {
        x.aws(&["ec2", "modify-volume", "--volume-id", &id, "--iops", iops]);
        x.eventually("the change", || {
            x.aws(&["ec2", "describe-volumes-modifications", "--volume-ids", &id])["VolumesModifications"][0]["ModificationState"]
                == "completed"
        });
    }
    let refused = x.ebbtide.aws_error(&["ec2", "modify-volume", "--volume-id", &id, "--iops", "1000"]);
    assert!(refused.contains("VolumeModificationRateExceeded"), "{refused}");
    assert_eq!(x.first_lines("app").lines().count(), 3);
    x.clean_up();
}
