//! Unmodified kubectl against the Kubernetes API: every verb of the workshop, and what kubectl prints (kube-api.md).

use std::time::Duration;

use ebbtide_tests::{Ebbtide, text, wait_for};

#[test]
fn verbs_without_nodes() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    let kubectl = |args: &[&str]| ebbtide.kubectl(args);
    assert!(kubectl(&["version"]).contains("Server Version: v1.36"), "{}", kubectl(&["version"]));

    // create (protobuf), get, label, annotate, patch of three types, apply, diff, delete.
    kubectl(&["create", "namespace", "team"]);
    kubectl(&["create", "configmap", "settings", "-n", "team", "--from-literal=a=1"]);
    kubectl(&["create", "secret", "generic", "keys", "-n", "team", "--from-literal=k=v"]);
    assert_eq!(kubectl(&["get", "cm", "settings", "-n", "team", "-o", "jsonpath={.data.a}"]), "1");
    kubectl(&["label", "cm", "settings", "-n", "team", "tier=db"]);
    kubectl(&["annotate", "cm", "settings", "-n", "team", "note=hello"]);
    assert!(kubectl(&["get", "cm", "-n", "team", "-l", "tier in (db, web)", "-o", "name"]).contains("configmap/settings"));
    kubectl(&["patch", "cm", "settings", "-n", "team", "-p", r#"{"data":{"b":"2"}}"#]);
    kubectl(&["patch", "cm", "settings", "-n", "team", "--type=merge", "-p", r#"{"data":{"a":null}}"#]);
    kubectl(&["patch", "cm", "settings", "-n", "team", "--type=json", "-p", r#"[{"op":"add","path":"/data/c","value":"3"}]"#]);
    assert_eq!(kubectl(&["get", "cm", "settings", "-n", "team", "-o", "jsonpath={.data}"]), r#"{"b":"2","c":"3"}"#);
    let missing = text(&ebbtide.try_kubectl(&["get", "pod", "nosuch"]));
    assert!(missing.contains(r#"Error from server (NotFound): pods "nosuch" not found"#), "{missing}");
    let exists = text(&ebbtide.try_kubectl(&["create", "configmap", "settings", "-n", "team"]));
    assert!(exists.contains(r#"configmaps "settings" already exists"#), "{exists}");
    let kind = text(&ebbtide.try_kubectl(&["get", "nosuchkind"]));
    assert!(kind.contains(r#"the server doesn't have a resource type "nosuchkind""#), "{kind}");

    // A class, a claim and a volume as the workshop prints them.
    let manifests = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: efs-sc}
provisioner: efs.csi.aws.com
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: efs-pv}
spec:
  capacity: {storage: 5Gi}
  volumeMode: Filesystem
  accessModes: [ReadWriteOnce]
  storageClassName: efs-sc
  persistentVolumeReclaimPolicy: Retain
  csi: {driver: efs.csi.aws.com, volumeHandle: fs-0123456789abcdef0}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: efs-claim}
spec: {accessModes: [ReadWriteOnce], storageClassName: efs-sc, resources: {requests: {storage: 5Gi}}}
"#;
    ebbtide.kubectl_with(&["apply", "-f", "-"], manifests);
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Bound", "pvc/efs-claim", "--timeout=20s"]);
    let words = |args: &[&str]| kubectl(args).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&["get", "sc", "--no-headers"])[..5], ["efs-sc", "efs.csi.aws.com", "Delete", "Immediate", "false"]);
    assert_eq!(
        words(&["get", "pv", "--no-headers"])[..8],
        ["efs-pv", "5Gi", "RWO", "Retain", "Bound", "default/efs-claim", "efs-sc", "<unset>"]
    );
    assert_eq!(words(&["get", "pvc", "--no-headers"])[..7], ["efs-claim", "Bound", "efs-pv", "5Gi", "RWO", "efs-sc", "<unset>"]);
    let described = kubectl(&["describe", "pvc", "efs-claim"]);
    assert!(described.contains("Status:        Bound") && described.contains("kubernetes.io/pvc-protection"), "{described}");
    assert!(ebbtide.kubectl_with(&["apply", "-f", "-"], manifests).contains("persistentvolumeclaim/efs-claim unchanged"));
    let shrunk = text(&ebbtide.try_kubectl(&["patch", "pvc", "efs-claim", "-p", r#"{"spec":{"storageClassName":"other"}}"#]));
    assert!(shrunk.contains("spec is immutable after creation except resources.requests"), "{shrunk}");

    // Strict validation by the server, server-side apply, explain, api-resources.
    let mut apply = ebbtide.command("sh");
    apply.args(["-c", "echo '{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dat: {}}' | kubectl apply -f -"]);
    let unknown = text(&apply.output().expect("kubectl"));
    assert!(unknown.contains(r#"unknown field "dat""#), "{unknown}");
    ebbtide.kubectl_with(&["apply", "--server-side", "-f", "-"], "{apiVersion: v1, kind: ConfigMap, metadata: {name: ssa}, data: {a: b}}");
    assert!(kubectl(&["explain", "pod.spec.volumes"]).contains("persistentVolumeClaim"));
    assert!(kubectl(&["api-resources"]).contains("persistentvolumeclaims"));

    // Reclaim policy Retain: the volume stays, Released.
    kubectl(&["delete", "pvc", "efs-claim", "--timeout=20s"]);
    kubectl(&["wait", "--for=jsonpath={.status.phase}=Released", "pv/efs-pv", "--timeout=20s"]);
    kubectl(&["delete", "pv", "efs-pv", "--timeout=20s"]);
    kubectl(&["delete", "namespace", "team", "--timeout=20s"]);
    assert!(text(&ebbtide.try_kubectl(&["get", "cm", "settings", "-n", "team"])).contains("NotFound"));
}

#[test]
fn an_unschedulable_pod_says_why() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    ebbtide.kubectl_with(
        &["apply", "-f", "-"],
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i, command: [sleep, '1']}]}}",
    );
    wait_for("the scheduler's event", Duration::from_secs(10), || {
        ebbtide.kubectl(&["events", "--for", "pod/p"]).contains("no nodes available to schedule pods")
    });
    assert_eq!(ebbtide.kubectl(&["get", "pod", "p", "-o", "jsonpath={.status.phase}"]), "Pending");
    ebbtide.kubectl(&["delete", "pod", "p", "--timeout=10s"]);
}

#[test]
fn a_stranger_is_refused() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    let refused = text(&ebbtide.try_kubectl(&["--token=wrong", "get", "pods"]));
    assert!(refused.contains("Unauthorized") || refused.contains("must be logged in"), "{refused}");
    use std::os::unix::fs::PermissionsExt;
    let kubeconfig = ebbtide.info["kubeconfig"].as_str().expect("a path").to_owned();
    assert_eq!(std::fs::metadata(kubeconfig).expect("the kubeconfig").permissions().mode() & 0o777, 0o600);
}

#[test]
fn state_survives_kill_9() {
    let mut ebbtide = Ebbtide::up(&["--no-nodes"]);
    ebbtide.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]);
    let version = ebbtide.kubectl(&["get", "cm", "kept", "-o", "jsonpath={.metadata.resourceVersion}"]);
    let volume = ebbtide.aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1a"]);
    ebbtide.kill();
    ebbtide.start();
    assert_eq!(ebbtide.kubectl(&["get", "cm", "kept", "-o", "jsonpath={.metadata.resourceVersion}"]), version);
    let id = volume["VolumeId"].as_str().expect("an id");
    assert_eq!(ebbtide.aws(&["ec2", "describe-volumes", "--volume-ids", id])["Volumes"][0]["State"], "available");
    ebbtide.aws(&["ec2", "delete-volume", "--volume-id", id]);
}
