//! StatefulSet, Deployment, DaemonSet and Job with plain kubectl on real volumes.

use std::time::Duration;

use ebbtide_tests::{Ebbtide, root, text, wait_for};

const SETS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: busybox, command: [sh, -c, "hostname >> /data/log; exec sleep 3600"], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: sc, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: one}
spec: {accessModes: [ReadWriteOnce], storageClassName: sc, resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: busybox, command: [sh, -c, "hostname >> /data/log; exec sleep 3600"], volumeMounts: [{name: data, mountPath: /data}]}
      volumes: [{name: data, persistentVolumeClaim: {claimName: one}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: busybox, command: [sh, -c, "hostname > /host/$(hostname); exec sleep 3600"], volumeMounts: [{name: host, mountPath: /host}]}
      volumes: [{name: host, hostPath: {path: HOST, type: DirectoryOrCreate}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: fill}
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: busybox, command: [sh, -c, "hostname >> /host/filled"], volumeMounts: [{name: host, mountPath: /host}]}
      volumes: [{name: host, hostPath: {path: HOST, type: DirectoryOrCreate}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: ill}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox, command: ["false"]}]
"#;

#[test]
fn workloads() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let kubectl = |args: &[&str]| ebbtide.kubectl(args);
    let field = |what: &str, path: &str| kubectl(&["get", what, "-o", &format!("jsonpath={path}")]);
    let log = |pod: &str| kubectl(&["exec", pod, "--", "cat", "/data/log"]);
    let rolled = |what: &str| kubectl(&["rollout", "status", what, "--timeout=60s"]);
    let host = tempfile::tempdir().expect("a temporary directory");
    let path = host.path().to_str().expect("a path in UTF-8");
    ebbtide.kubectl_with(&["apply", "-f", "-"], &SETS.replace("HOST", path));

    // A StatefulSet: names and claims in order, and the data is the identity's.
    rolled("statefulset/web");
    assert_eq!(kubectl(&["get", "statefulset", "web", "--no-headers"]).split_whitespace().nth(1), Some("2/2"));
    assert_eq!((log("web-0"), log("web-1")), ("web-0\n".to_owned(), "web-1\n".to_owned()));
    assert!(log("web-0") == "web-0\n" && kubectl(&["get", "pvc", "-o", "name"]).contains("data-web-1"));
    let before = field("pod/web-1", "{.metadata.uid}");
    kubectl(&["delete", "pod", "web-1"]);
    wait_for("web-1 to come back", Duration::from_secs(60), || {
        let output = ebbtide.try_kubectl(&["get", "pod", "web-1", "-o", "jsonpath={.metadata.uid}"]);
        output.status.success() && text(&output).trim() != before
    });
    kubectl(&["wait", "--for=condition=Ready", "pod/web-1", "--timeout=60s"]);
    assert_eq!(log("web-1"), "web-1\nweb-1\n");
    kubectl(&["rollout", "restart", "statefulset/web"]);
    rolled("statefulset/web");
    assert_eq!(log("web-0"), "web-0\nweb-0\n");
    let revision = field("statefulset/web", "{.status.updateRevision}");
    assert_eq!(field("pod/web-1", r"{.metadata.labels.controller-revision-hash}"), revision);
    assert!(kubectl(&["rollout", "history", "statefulset/web"]).contains('2'));
    kubectl(&["scale", "statefulset/web", "--replicas=3"]);
    rolled("statefulset/web");
    kubectl(&["scale", "statefulset/web", "--replicas=1"]);
    wait_for("web-1 and web-2 to go", Duration::from_secs(60), || {
        let pods = kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
        pods.trim() == "pod/web-0"
    });
    assert_eq!(kubectl(&["get", "pvc", "-l", "app=web", "-o", "name"]).lines().count(), 3, "claims stay");
    let events = kubectl(&["get", "events", "--field-selector", "involvedObject.name=web", "-o", "jsonpath={.items[*].message}"]);
    assert!(events.contains("Create Claim data-web-0 Pod web-0 in StatefulSet web success"), "{events}");
    assert!(events.contains("Delete Pod web-2 in StatefulSet web successful"), "{events}");
    let forbidden = ebbtide.try_kubectl(&["patch", "statefulset", "web", "--type=merge", "-p", r#"{"spec": {"serviceName": "other"}}"#]);
    assert!(text(&forbidden).contains("updates to statefulset spec for fields other than 'replicas'"), "{}", text(&forbidden));

    // A Deployment that gives its volume to the next pod.
    rolled("deployment/app");
    let pod = || kubectl(&["get", "pods", "-l", "app=app", "-o", "jsonpath={.items[*].metadata.name}"]);
    let first = pod();
    kubectl(&["rollout", "restart", "deployment/app"]);
    rolled("deployment/app");
    let second = pod();
    assert_ne!(first, second);
    assert_eq!(log(&second), format!("{first}\n{second}\n"));
    let sets = kubectl(&["get", "replicasets", "-l", "app=app", "--no-headers"]);
    assert_eq!(sets.lines().count(), 2, "{sets}");
    kubectl(&["wait", "--for=condition=Available", "deployment/app", "--timeout=20s"]);

    // A DaemonSet: one pod a node.
    rolled("daemonset/each");
    let nodes = kubectl(&["get", "pods", "-l", "app=each", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    let mut nodes: Vec<&str> = nodes.split(' ').collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ebbtide.nodes());
    let daemons = kubectl(&["get", "pods", "-l", "app=each", "-o", "jsonpath={.items[*].metadata.name}"]);
    wait_for("what the daemons write", Duration::from_secs(20), || daemons.split(' ').all(|pod| host.path().join(pod).exists()));

    // Jobs: one that writes and is complete, one that fails.
    kubectl(&["wait", "--for=condition=Complete", "job/fill", "--timeout=60s"]);
    let filled = std::fs::read_to_string(host.path().join("filled")).expect("what the job wrote");
    assert!(filled.lines().count() == 3 && filled.lines().all(|line| line.starts_with("fill-")), "{filled}");
    assert!(kubectl(&["get", "job", "fill", "--no-headers"]).contains("Complete   3/3"));
    kubectl(&["wait", "--for=condition=Failed", "job/ill", "--timeout=60s"]);
    assert_eq!(field("job/ill", r#"{.status.conditions[?(@.type=="Failed")].reason}"#), "BackoffLimitExceeded");
    kubectl(&["delete", "job", "fill", "ill"]);
    wait_for("the jobs' pods to go", Duration::from_secs(60), || {
        kubectl(&["get", "pods", "-l", "batch.kubernetes.io/job-name", "-o", "name"]).is_empty()
    });

    // What owns goes with what it owns, at once or last, or leaves it.
    kubectl(&["delete", "deployment", "app", "--cascade=foreground", "--timeout=60s"]);
    assert!(kubectl(&["get", "replicasets,pods", "-l", "app=app", "-o", "name"]).is_empty());
    kubectl(&["delete", "statefulset", "web", "--cascade=orphan"]);
    assert_eq!(kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).trim(), "pod/web-0");
    kubectl(&["delete", "daemonset", "each"]);
    kubectl(&["delete", "pod,pvc", "--all", "--timeout=60s"]);
    wait_for("the volumes to go", Duration::from_secs(60), || kubectl(&["get", "pv", "-o", "name"]).is_empty());
    ebbtide.down();
}
