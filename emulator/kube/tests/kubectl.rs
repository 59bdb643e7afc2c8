//! The API as unmodified kubectl meets it. Without kubectl in PATH these tests print `skipped: no kubectl`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use emulator_kube::{Config, Running};

struct Cluster {
    dir: tempfile::TempDir,
    running: Option<Running>,
    runtime: tokio::runtime::Runtime,
}

/// All controllers are off: these tests are about the API alone.
const CONTROLLERS: [&str; 12] = [
    "pv-binder",
    "provisioner",
    "attachdetach",
    "attacher",
    "resizer",
    "pvc-protection",
    "pv-protection",
    "ephemeral-volume",
    "volume-expand",
    "node-lifecycle",
    "pod-gc",
    "scheduler",
];

async fn serve(data: PathBuf) -> Running {
    emulator_kube::start(Config {
        listener: std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
        places: emulator_common::places::Places::new(data),
        drivers: BTreeMap::new(),
        controllers_off: CONTROLLERS.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>(),
        journal: false,
    })
    .await
    .unwrap()
}

impl Cluster {
    /// None without kubectl.
    fn start() -> Option<Self> {
        let found = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("kubectl").is_file()));
        if !found {
            println!("skipped: no kubectl");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = runtime.block_on(serve(dir.path().join("data")));
        Some(Self { dir, running: Some(running), runtime })
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Runs kubectl and returns whether it succeeded and what it printed, stdout first.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let running = self.running.as_ref().unwrap();
        let output = Command::new("kubectl")
            .args(arguments)
            .env("KUBECONFIG", &running.kubeconfig)
            .env("HOME", self.dir.path())
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(success, "kubectl {arguments:?}: {text}");
        text
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let (success, text) = self.run(arguments);
        assert!(!success, "kubectl {arguments:?}: {text}");
        text
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: &Path = &self.dir.path().join(name);
        std::fs::write(path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.stop());
        }
    }
}

const EXERCISE: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ebs-claim}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ebs-sc
  resources: {requests: {storage: 4Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  containers:
  - name: app
    image: centos
    command: ["/bin/sh"]
    args: ["-c", "while true; do echo $(date -u) >> /data/out.txt; sleep 5; done"]
    volumeMounts: [{name: persistent-storage, mountPath: /data}]
  volumes: [{name: persistent-storage, persistentVolumeClaim: {claimName: ebs-claim}}]
"#;

#[test]
fn an_exercise_is_applied_shown_changed_and_deleted() {
    let Some(cluster) = Cluster::start() else { return };
    let file = cluster.file("a.yaml", EXERCISE);
    let created = cluster.ok(&["apply", "-f", &file]);
    assert_eq!(created, "storageclass.storage.k8s.io/ebs-sc created\npersistentvolumeclaim/ebs-claim created\npod/app created\n");
    assert!(cluster.ok(&["apply", "-f", &file]).lines().all(|line| line.ends_with(" unchanged")));

    let table = cluster.ok(&["get", "pod,pvc,sc", "-o", "wide"]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(words.iter().any(|row| row.starts_with(&["pod/app", "0/1", "Pending", "0"])), "{table}");
    assert!(words.iter().any(|row| row.starts_with(&["persistentvolumeclaim/ebs-claim", "Pending", "ebs-sc", "<unset>"])), "{table}");
    assert!(words.iter().any(|row| row.starts_with(&["NAME", "PROVISIONER", "RECLAIMPOLICY", "VOLUMEBINDINGMODE"])), "{table}");
    let described = cluster.ok(&["describe", "pvc", "ebs-claim"]);
    assert!(described.contains("Used By:       app") && described.contains("[kubernetes.io/pvc-protection]"), "{described}");

    let changed = cluster.file("b.yaml", &EXERCISE.replace("sleep 5", "sleep 6"));
    let refused = cluster.fails(&["apply", "-f", &changed]);
    assert!(refused.contains("The Pod \"app\" is invalid: spec: Forbidden: pod updates may not change fields other than"), "{refused}");
    let image = cluster.file("c.yaml", &EXERCISE.replace("image: centos", "image: centos:8"));
    assert!(cluster.fails(&["diff", "-f", &image]).contains("+    image: centos:8"));
    assert!(cluster.ok(&["apply", "-f", &image]).contains("pod/app configured"));
    assert!(cluster.ok(&["apply", "--server-side", "--force-conflicts", "-f", &image]).contains("pod/app serverside-applied"));

    cluster.ok(&["wait", "--for=jsonpath={.status.phase}=Pending", "pod/app", "--timeout=10s"]);
    cluster.ok(&["label", "pod", "app", "tier=x"]);
    cluster.ok(&["annotate", "pvc", "ebs-claim", "a.b/c=d"]);
    assert!(cluster.ok(&["get", "pods", "-l", "tier in (x)", "-o", "name"]).contains("pod/app"));
    assert_eq!(cluster.ok(&["delete", "pod", "app"]), "pod \"app\" deleted from default namespace\n");
    cluster.ok(&["delete", "pvc", "ebs-claim", "--wait=false"]);
    assert!(cluster.ok(&["get", "pvc"]).contains("Terminating"));
    cluster.ok(&[
        "patch",
        "pvc",
        "ebs-claim",
        "-p",
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["kubernetes.io/pvc-protection"]}}"#,
    ]);
    assert_eq!(cluster.ok(&["get", "pvc"]), "No resources found in default namespace.\n");
}

#[test]
fn errors_are_those_of_the_real_server() {
    let Some(cluster) = Cluster::start() else { return };
    assert_eq!(cluster.fails(&["get", "pod", "nosuch"]), "Error from server (NotFound): pods \"nosuch\" not found\n");
    assert_eq!(cluster.fails(&["get", "nosuchkind"]), "error: the server doesn't have a resource type \"nosuchkind\"\n");
    cluster.ok(&["create", "configmap", "c1", "--from-literal=a=1"]);
    let again = cluster.fails(&["create", "configmap", "c1", "--from-literal=a=1"]);
    assert_eq!(again, "error: failed to create configmap: configmaps \"c1\" already exists\n");
    let typo = cluster.file("typo.yaml", &EXERCISE.replace("command:", "comand:"));
    let refused = cluster.fails(&["apply", "-f", &typo]);
    let text = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[0].comand\"";
    assert!(refused.contains(text), "{refused}");
    let bad = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: bad2}\nspec: {accessModes: [ReadWriteOnce]}\n";
    let refused = cluster.fails(&["apply", "-f", &cluster.file("bad.yaml", bad)]);
    assert_eq!(refused, "The PersistentVolumeClaim \"bad2\" is invalid: spec.resources[storage]: Required value\n");
    let unknown = "apiVersion: x.io/v1\nkind: Thing\nmetadata: {name: t}\n";
    let refused = cluster.fails(&["apply", "-f", &cluster.file("unknown.yaml", unknown)]);
    assert!(refused.contains("no matches for kind \"Thing\" in version \"x.io/v1\""), "{refused}");
    let refused = cluster.fails(&["get", "pods", "--field-selector", "spec.foo=1"]);
    assert!(refused.contains("field label not supported: spec.foo"), "{refused}");
    let refused = cluster.fails(&["--token=wrong", "get", "pods"]);
    assert!(refused.contains("Unauthorized") || refused.contains("logged in"), "{refused}");
}

#[test]
fn what_else_kubectl_does() {
    let Some(cluster) = Cluster::start() else { return };
    assert!(cluster.ok(&["version"]).contains("Server Version: v1.36"));
    assert!(cluster.ok(&["api-resources"]).lines().any(|line| line.starts_with("persistentvolumeclaims ")));
    assert_eq!(cluster.ok(&["auth", "can-i", "create", "pods"]), "yes\n");
    assert!(cluster.ok(&["explain", "pvc.spec.accessModes"]).contains("FIELD: accessModes <[]string>"));
    cluster.ok(&["create", "namespace", "n1"]);
    cluster.ok(&["create", "secret", "generic", "s", "--from-literal=p=q", "-n", "n1"]);
    assert!(cluster.ok(&["get", "secret", "s", "-n", "n1", "-o", "jsonpath={.data.p}"]).contains("cQ=="));
    cluster.ok(&["delete", "namespace", "n1", "--timeout=10s"]);
    cluster.ok(&["create", "deployment", "d", "--image=x"]);
    assert_eq!(cluster.ok(&["scale", "deployment", "d", "--replicas=3"]), "deployment.apps/d scaled\n");
    assert!(cluster.ok(&["get", "deployment", "d"]).contains("0/3"));
    assert!(cluster.ok(&["create", "configmap", "dry", "--dry-run=server"]).contains("configmap/dry created (server dry run)"));
    assert!(cluster.fails(&["get", "configmap", "dry"]).contains("NotFound"));
    for index in 0..7 {
        cluster.ok(&["create", "configmap", &format!("m{index}")]);
    }
    let listed = cluster.ok(&["get", "configmaps", "--chunk-size=3", "-o", "name"]);
    assert_eq!(listed.lines().filter(|line| line.starts_with("configmap/m")).count(), 7, "{listed}");
    cluster.ok(&["patch", "configmap", "m0", "--type=json", "-p", r#"[{"op":"add","path":"/data","value":{"a":"1"}}]"#]);
    cluster.ok(&["patch", "configmap", "m0", "--type=merge", "-p", r#"{"data":{"a":"2"}}"#]);
    assert_eq!(cluster.ok(&["get", "configmap", "m0", "-o", "jsonpath={.data.a}"]), "2");
}

#[test]
fn custom_kinds_come_and_go_with_their_definition() {
    let Some(cluster) = Cluster::start() else { return };
    let definition = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: volumesnapshots.snapshot.storage.k8s.io}
spec:
  group: snapshot.storage.k8s.io
  names: {kind: VolumeSnapshot, plural: volumesnapshots, singular: volumesnapshot, shortNames: [vs], listKind: VolumeSnapshotList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: ReadyToUse, type: boolean, jsonPath: .status.readyToUse}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;
    let snapshot = "apiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: s}\nspec: {source: {persistentVolumeClaimName: c}}\n";
    cluster.ok(&["apply", "-f", &cluster.file("crd.yaml", definition)]);
    cluster.ok(&["wait", "--for=condition=Established", "crd/volumesnapshots.snapshot.storage.k8s.io", "--timeout=10s"]);
    let file = cluster.file("vs.yaml", snapshot);
    assert_eq!(cluster.ok(&["apply", "-f", &file]), "volumesnapshot.snapshot.storage.k8s.io/s created\n");
    cluster.ok(&["patch", "vs", "s", "--type=merge", "--subresource=status", "-p", r#"{"status":{"readyToUse":true}}"#]);
    let table = cluster.ok(&["get", "vs"]);
    assert_eq!(table.split_whitespace().collect::<Vec<_>>(), ["NAME", "READYTOUSE", "s", "true"]);
    cluster.file("vs.yaml", &snapshot.replace(": c}", ": d}"));
    assert_eq!(cluster.ok(&["apply", "-f", &file]), "volumesnapshot.snapshot.storage.k8s.io/s configured\n");
    cluster.ok(&["delete", "crd", "volumesnapshots.snapshot.storage.k8s.io", "--timeout=10s"]);
    assert!(cluster.fails(&["get", "--raw", "/apis/snapshot.storage.k8s.io/v1/volumesnapshots"]).contains("NotFound"));
}

#[test]
fn a_restart_keeps_objects_and_credentials() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.ok(&["create", "configmap", "kept"]);
    let before = std::fs::read_to_string(cluster.data().join("kube/token")).unwrap();
    let uid = cluster.ok(&["get", "configmap", "kept", "-o", "jsonpath={.metadata.uid}"]);
    cluster.runtime.block_on(cluster.running.take().unwrap().stop());
    // The writer thread ends with the last handle, and with it the lock on the state.
    cluster.running = Some(cluster.runtime.block_on(serve(cluster.data())));
    assert_eq!(cluster.ok(&["get", "configmap", "kept", "-o", "jsonpath={.metadata.uid}"]), uid);
    assert_eq!(std::fs::read_to_string(cluster.data().join("kube/token")).unwrap(), before);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(cluster.data().join("kube/kubeconfig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A kubelet that answers logs with a line and runs no command but echoes what `exec` sends.
fn fake_kubelet() -> axum::Router {
    use axum::extract::ws::{CloseFrame, Message, WebSocketUpgrade};
    use axum::routing::get;
    let logs = get(|uri: axum::http::Uri| async move { format!("{uri}\n") });
    let exec = get(|upgrade: WebSocketUpgrade| async move {
        upgrade.protocols(["v5.channel.k8s.io"]).on_upgrade(|mut socket| async move {
            let mut said = b"\x01".to_vec();
            while let Some(Ok(Message::Binary(bytes))) = socket.recv().await {
                match *bytes {
                    [0xff, 0] => break,
                    [0, ref input @ ..] => said.extend_from_slice(input),
                    _ => {}
                }
            }
            let status = r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
            socket.send(Message::Binary(said.into())).await.unwrap();
            socket.send(Message::Binary([b"\x03", status.as_bytes()].concat().into())).await.unwrap();
            socket.send(Message::Close(Some(CloseFrame { code: 1000, reason: "".into() }))).await.unwrap();
        })
    });
    axum::Router::new().route("/containerLogs/{namespace}/{pod}/{container}", logs).route("/exec/{namespace}/{pod}/{container}", exec)
}

#[test]
fn logs_and_exec_reach_the_kubelet() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.ok(&["apply", "-f", &cluster.file("a.yaml", EXERCISE)]);
    let refused = cluster.fails(&["logs", "app"]);
    assert!(refused.contains("pod app does not have a host assigned"), "{refused}");
    let api = &cluster.running.as_ref().unwrap().api;
    let pod = model_kube::object::Key::new(model_kube::object::Kind::Pod, "default", "app");
    let bind = model_kube::write::Write::Bind { pod, uid: None, node: "n1".into() };
    cluster.runtime.block_on(api.write(bind)).unwrap();
    let down = cluster.fails(&["logs", "app"]);
    assert!(down.starts_with("Error from server: error dialing backend: dial unix "), "{down}");

    let socket = emulator_common::places::Places::new(cluster.data()).kubelet_socket("n1");
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            // The run directory lies outside the tempdir.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
    let _gone = Gone(emulator_common::places::Places::new(cluster.data()).run().to_owned());
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = {
        let _inside = cluster.runtime.enter();
        tokio::net::UnixListener::bind(&socket).unwrap()
    };
    cluster.runtime.spawn(async move { axum::serve(listener, fake_kubelet()).await.unwrap() });

    assert_eq!(cluster.ok(&["logs", "app", "--tail=3"]), "/containerLogs/default/app/app?container=app&tailLines=3\n");
    let running = cluster.running.as_ref().unwrap();
    let mut child = Command::new("kubectl")
        .args(["exec", "-i", "app", "--", "cat"])
        .env("KUBECONFIG", &running.kubeconfig)
        .env("HOME", cluster.dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through and back").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through and back", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3));
}
