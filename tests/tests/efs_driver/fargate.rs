//! F12: Fargate. The node there mounts EFS by itself and no driver is installed, so there is nobody who makes volumes.

use std::time::Duration;

use ebbtide_tests::{Ebbtide, POD, wait_for};

use super::running::file_system;

/// A pod that goes to the Fargate node.
fn pod(name: &str, claim: &str) -> String {
    POD.replace("CLAIM", claim)
        .replace("name: app}\nspec:", &format!("name: {name}}}\nspec:\n  nodeSelector: {{eks.amazonaws.com/compute-type: fargate}}"))
}

pub fn static_volumes_only(ebbtide: &Ebbtide) {
    let node = &ebbtide.nodes()[0];
    ebbtide.kubectl(&["label", "node", node, "eks.amazonaws.com/compute-type=fargate"]);
    let fs = file_system(ebbtide, 2, None);
    let claim = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{storageClassName: efs-sc, {more} \
             accessModes: [ReadWriteMany], resources: {{requests: {{storage: 5Gi}}}}}}\n---\n"
        )
    };
    let class = format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: efs-sc}}\nprovisioner: efs.csi.aws.com\n\
         parameters: {{provisioningMode: efs-ap, fileSystemId: {fs}, directoryPerms: \"700\"}}\n---\n"
    );
    let volume = format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: static}}\nspec: {{storageClassName: efs-sc, accessModes: [ReadWriteMany], \
         capacity: {{storage: 5Gi}}, persistentVolumeReclaimPolicy: Retain, csi: {{driver: efs.csi.aws.com, volumeHandle: {fs}}}}}\n---\n"
    );
    let objects = [class, volume, claim("static", "volumeName: static,"), claim("dynamic", "")].concat();
    ebbtide.kubectl_with(&["apply", "-f", "-"], &objects);
    ebbtide.kubectl_with(&["apply", "-f", "-"], &pod("dynamic", "dynamic"));
    ebbtide.kubectl_with(&["apply", "-f", "-"], &pod("static", "static"));
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/static", "--timeout=60s"]);
    assert_eq!(ebbtide.kubectl(&["get", "pod", "static", "-o", "jsonpath={.spec.nodeName}"]), *node);
    wait_for("a line", Duration::from_secs(20), || ebbtide.dir().join("efs").join(&fs).join("out.txt").exists());
    let events = || ebbtide.kubectl(&["events", "--for", "pvc/dynamic"]);
    wait_for("the claim's event", Duration::from_secs(20), || {
        events().contains("Waiting for a volume to be created either by the external provisioner 'efs.csi.aws.com' or manually")
    });
    assert_eq!(ebbtide.kubectl(&["get", "pvc", "dynamic", "-o", "jsonpath={.status.phase}"]), "Pending");
    assert_eq!(ebbtide.kubectl(&["get", "pod", "dynamic", "-o", "jsonpath={.status.phase}"]), "Pending");
    for kind in ["pod", "pvc"] {
        ebbtide.kubectl(&["delete", kind, "static", "dynamic", "--timeout=60s"]);
    }
}
