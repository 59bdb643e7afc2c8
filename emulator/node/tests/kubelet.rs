//! The kubelet against an API in memory and a CSI driver that binds directories: the way of a volume and of a pod, for real.
//! Needs root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use emulator_common::csi::server::{Identity, NodeService, serve};
use emulator_common::registration::v1::registration_server::{Registration, RegistrationServer};
use emulator_common::registration::v1::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use emulator_node::kubelet::{KubeletConfig, run};
use futures::StreamExt;
use model_common::csi::{Error, NodeCall, NodeCapability, NodeReply};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

const NODE: &str = "ip-10-0-1-10.ec2.internal";
const DRIVER: &str = "test.csi.example.com";
const POD: &str = "/api/v1/namespaces/default/pods/app";

/// Objects by their path; no rules at all. Just enough of an API for a kubelet.
#[derive(Clone)]
struct Api(Arc<Mutex<Objects>>);

struct Objects {
    by_path: BTreeMap<String, Value>,
    version: u64,
    changes: broadcast::Sender<(String, Value)>,
}

impl Api {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Objects { by_path: BTreeMap::new(), version: 1, changes: broadcast::channel(1024).0 })))
    }

    fn put(&self, path: &str, mut object: Value) -> Value {
        let mut objects = self.0.lock().unwrap();
        objects.version += 1;
        let version = objects.version;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = json!(version.to_string());
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{version}"));
        }
        let kind = if objects.by_path.insert(path.into(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let _ = objects.changes.send((path.into(), json!({"type": kind, "object": object})));
        object
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().by_path.get(path).cloned()
    }

    fn patch(&self, path: &str, patch: &Value) -> Option<Value> {
        let mut object = self.get(path)?;
        merge(&mut object, patch);
        Some(self.put(path, object))
    }

    fn remove(&self, path: &str) -> Option<Value> {
        let mut objects = self.0.lock().unwrap();
        let object = objects.by_path.remove(path)?;
        let _ = objects.changes.send((path.into(), json!({"type": "DELETED", "object": object})));
        Some(object)
    }

    fn list(&self, prefix: &str) -> Vec<Value> {
        let objects = self.0.lock().unwrap();
        objects.by_path.iter().filter(|(path, _)| in_collection(path, prefix)).map(|(_, object)| object.clone()).collect()
    }

    fn events(&self) -> Vec<String> {
        let mut events = self.list("/api/v1/namespaces/default/events");
        events.sort_by_key(|event| event["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse::<u64>().ok()));
        events.iter().map(|event| format!("{} {}", event["reason"].as_str().unwrap(), event["message"].as_str().unwrap())).collect()
    }
}

/// Whether an object's path belongs to a collection; `/api/v1/pods` holds the pods of all namespaces.
fn in_collection(path: &str, collection: &str) -> bool {
    let plural = collection.rsplit('/').next().unwrap();
    let (parent, _) = path.rsplit_once('/').unwrap();
    parent == collection
        || collection == format!("/api/v1/{plural}") && parent.starts_with("/api/v1/namespaces/") && parent.ends_with(&format!("/{plural}"))
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

async fn answer(State(api): State<Api>, method: Method, uri: Uri, RawQuery(query): RawQuery, body: Bytes) -> Response {
    let path = uri.path().trim_end_matches("/status").to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let collection = ["nodes", "pods", "csinodes", "leases", "events"].contains(&path.rsplit('/').next().unwrap());
    let found = match (method, collection) {
        (Method::GET, true) if query.as_deref().unwrap_or_default().contains("watch=true") => {
            let changes = api.0.lock().unwrap().changes.subscribe();
            let stream = tokio_stream::wrappers::BroadcastStream::new(changes).filter_map(move |change| {
                let line = change.ok().filter(|(changed, _)| in_collection(changed, &path)).map(|(_, event)| format!("{event}\n"));
                async move { line.map(Ok::<_, std::convert::Infallible>) }
            });
            return Body::from_stream(stream).into_response();
        }
        (Method::GET, true) => {
            Some(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": api.list(&path)}))
        }
        (Method::POST, true) => Some(api.put(&format!("{path}/{}", body["metadata"]["name"].as_str().unwrap()), body.clone())),
        (Method::PATCH, _) => api.patch(&path, &body),
        (Method::DELETE, _) => api.remove(&path),
        _ => api.get(&path),
    };
    match found {
        Some(object) => axum::Json(object).into_response(),
        None => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                "message": format!("{path} not found")});
            (StatusCode::NOT_FOUND, axum::Json(status)).into_response()
        }
    }
}

/// A driver whose volumes are directories, bound to where they are wanted.
struct Driver {
    volumes: PathBuf,
    calls: Mutex<Vec<&'static str>>,
    fail_stage: Mutex<bool>,
}

#[tonic::async_trait]
impl NodeService for Driver {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Error> {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let bind = |from: &Path, to: &str| {
            std::fs::create_dir_all(to).unwrap();
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        };
        let mut calls = self.calls.lock().unwrap();
        Ok(match call {
            NodeCall::NodeStageVolume { volume_id, staging_target_path, .. } => {
                calls.push("stage");
                if std::mem::take(&mut *self.fail_stage.lock().unwrap()) {
                    return Err(Error::new(model_common::csi::Code::Internal, "no such disk"));
                }
                let volume = self.volumes.join(volume_id);
                std::fs::create_dir_all(&volume).unwrap();
                bind(&volume, &staging_target_path);
                NodeReply::NodeStageVolume
            }
            NodeCall::NodePublishVolume { staging_target_path, target_path, .. } => {
                calls.push("publish");
                bind(Path::new(&staging_target_path), &target_path);
                NodeReply::NodePublishVolume
            }
            NodeCall::NodeUnpublishVolume { target_path, .. } => {
                calls.push("unpublish");
                umount2(target_path.as_str(), MntFlags::empty()).unwrap();
                std::fs::remove_dir(target_path).unwrap();
                NodeReply::NodeUnpublishVolume
            }
            NodeCall::NodeUnstageVolume { staging_target_path, .. } => {
                calls.push("unstage");
                umount2(staging_target_path.as_str(), MntFlags::empty()).unwrap();
                NodeReply::NodeUnstageVolume
            }
            NodeCall::NodeGetCapabilities => NodeReply::NodeGetCapabilities(vec![NodeCapability::StageUnstageVolume]),
            _ => NodeReply::NodeGetInfo {
                node_id: "i-1".into(),
                max_volumes_per_node: 26,
                accessible_topology: Some(BTreeMap::from([("topology.test/zone".into(), "us-east-1a".into())])),
            },
        })
    }
}

/// Undoes what a failed test leaves: mounts under the directory.
struct Mounts(PathBuf);

impl Drop for Mounts {
    fn drop(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for target in table.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(|target| Path::new(target).starts_with(&self.0))
        {
            let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

struct Bench {
    api: Api,
    driver: Arc<Driver>,
    config: KubeletConfig,
    stop: CancellationToken,
    kubelet: tokio::task::JoinHandle<()>,
    _mounts: Mounts,
    dir: tempfile::TempDir,
}

impl Bench {
    /// None without root.
    async fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: a kubelet needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let api = Api::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let kubeconfig = dir.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             users: [{{name: u, user: {{}}}}]\ncurrent-context: c\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        let driver = Arc::new(Driver { volumes: dir.path().join("volumes"), calls: Mutex::default(), fail_stage: Mutex::default() });
        let socket = dir.path().join("csi.sock");
        let identity = Identity { name: DRIVER.into(), version: "1".into(), controller: false, topology: true };
        let (service, at) = (driver.clone() as Arc<dyn NodeService>, socket.clone());
        tokio::spawn(async move { serve(&at, identity, None, Some(service), std::future::pending()).await });
        let config = KubeletConfig {
            node_name: NODE.into(),
            kubeconfig,
            kubelet_dir: dir.path().join("kubelet"),
            api_socket: dir.path().join("kubelet.sock"),
            provider_id: "aws:///us-east-1a/i-1".into(),
            zone: "us-east-1a".into(),
            region: "us-east-1".into(),
            instance_type: "m5.large".into(),
            internal_ip: "10.0.1.10".into(),
            labels: BTreeMap::new(),
            metadata: None,
            drivers: BTreeMap::from([(DRIVER.into(), socket)]),
            log_dir: dir.path().join("log"),
            container_helper: env!("CARGO_BIN_EXE_ebbtide-container").into(),
            eager: true,
            journal: None,
        };
        let stop = CancellationToken::new();
        let kubelet = spawn(&config, &stop);
        Some(Self { api, driver, config, stop, kubelet, _mounts: Mounts(dir.path().into()), dir })
    }

    /// The objects of a bound, attached volume and of a pod that uses it.
    fn volume_and_pod(&self, command: &str, more: &Value) {
        let node = format!("/api/v1/nodes/{NODE}");
        let attached = json!({"status": {"volumesAttached": [{"name": format!("kubernetes.io/csi/{DRIVER}^vol-1"), "devicePath": ""}]}});
        self.api.patch(&node, &attached).unwrap();
        let id = model_node::volume_manager::attachment_name("vol-1", DRIVER, NODE);
        self.api.put(
            &format!("/apis/storage.k8s.io/v1/volumeattachments/{id}"),
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": id},
                "spec": {"attacher": DRIVER, "nodeName": NODE, "source": {}}, "status": {"attached": true}}),
        );
        self.api.put(
            "/api/v1/persistentvolumes/pv",
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"}, "claimRef": {"uid": "claim-uid"}, "csi": {"driver": DRIVER, "volumeHandle": "vol-1", "fsType": "ext4"}}}),
        );
        self.api.put(
            "/api/v1/namespaces/default/persistentvolumeclaims/claim",
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim", "namespace": "default", "uid": "claim-uid"},
                "spec": {"volumeName": "pv"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}),
        );
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "default", "generation": 1},
            "spec": {"nodeName": NODE, "restartPolicy": "Always", "securityContext": {"fsGroup": 2000},
                "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", command],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "data", "mountPath": "/part", "subPath": "a/b"},
                                     {"name": "scratch", "mountPath": "/scratch"}]}],
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}, {"name": "scratch", "emptyDir": {}}]}});
        merge(&mut pod, more);
        self.api.put(POD, pod);
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..1500 {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; pod {:#?}; events {:#?}", self.api.get(POD).map(|pod| pod["status"].clone()), self.api.events());
    }

    async fn phase(&self, phase: &str) -> Value {
        let path = format!("pod {phase}");
        self.until(&path, || {
            self.api
                .get(POD)
                .filter(|pod| pod["status"]["phase"] == phase && (phase != "Running" || pod["status"]["conditions"][2]["status"] == "True"))
        })
        .await
    }

    async fn node(&self) -> Value {
        let path = format!("/api/v1/nodes/{NODE}");
        self.until("node ready", || self.api.get(&path).filter(|node| node["status"]["conditions"][3]["status"] == "True")).await
    }

    fn delete(&self, grace: u64) {
        self.api
            .patch(POD, &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}}))
            .unwrap();
    }

    fn calls(&self) -> String {
        std::mem::take(&mut *self.driver.calls.lock().unwrap()).join(" ")
    }

    async fn end(self) {
        self.stop.cancel();
        self.kubelet.await.unwrap();
    }
}

fn spawn(config: &KubeletConfig, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (config, stop) = (config.clone(), stop.clone());
    tokio::spawn(async move { run(config, stop).await.unwrap() })
}

/// One request on the kubelet's socket.
async fn ask(socket: &Path, path: &str) -> (u16, String) {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "kubelet").body(Body::empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(Body::new(response.into_body()), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_pod_gets_its_volume_writes_to_it_and_goes_in_order() {
    let Some(bench) = Bench::new().await else { return };
    let node = bench.node().await;
    assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "us-east-1a");
    let csi_node = bench
        .until("CSINode", || {
            bench.api.get(&format!("/apis/storage.k8s.io/v1/csinodes/{NODE}")).filter(|csi| csi["spec"]["drivers"][0].is_object())
        })
        .await;
    assert_eq!(
        csi_node["spec"]["drivers"][0],
        json!({"name": DRIVER, "nodeID": "i-1", "topologyKeys": ["topology.test/zone"], "allocatable": {"count": 26}})
    );
    bench.volume_and_pod(
        "trap 'exit 0' TERM; echo hello; echo one > /data/out; echo two > /part/f; touch /scratch/x; while :; do sleep 0.05; done",
        &json!({}),
    );
    let pod = bench.phase("Running").await;
    let status = &pod["status"]["containerStatuses"][0];
    assert!(status["ready"] == true && status["state"]["running"]["startedAt"].is_string() && status["restartCount"] == 0, "{status}");
    let kinds: Vec<_> =
        pod["status"]["conditions"].as_array().unwrap().iter().map(|condition| condition["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"]);
    let volume = bench.dir.path().join("volumes/vol-1");
    bench.until("written", || std::fs::read_to_string(volume.join("a/b/f")).ok()).await;
    assert_eq!(std::fs::read_to_string(volume.join("out")).unwrap(), "one\n");
    use std::os::unix::fs::MetadataExt;
    let root = std::fs::metadata(&volume).unwrap();
    assert!(root.gid() == 2000 && root.mode() & 0o2070 == 0o2070, "fsGroup");
    let in_use = bench.api.get(&format!("/api/v1/nodes/{NODE}")).unwrap()["status"]["volumesInUse"].clone();
    assert_eq!(in_use, json!([format!("kubernetes.io/csi/{DRIVER}^vol-1")]));
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let data = bench.config.kubelet_dir.join("pods").join(uid).join("volumes/kubernetes.io~csi/pv/vol_data.json");
    assert!(std::fs::read_to_string(data).unwrap().contains(r#""specVolID":"pv""#));
    let (code, log) = ask(&bench.config.api_socket, "/containerLogs/default/app/c?tailLines=1").await;
    assert_eq!((code, log.as_str()), (200, "hello\n"));
    assert_eq!(exec(&bench.config.api_socket, "command=sh&command=-c&command=cat+/data/out;exit+3&stdout=true").await, ("one\n".into(), 3));
    bench.delete(30);
    bench.until("pod gone", || bench.api.get(POD).is_none().then_some(())).await;
    bench.until("unstaged", || bench.driver.calls.lock().unwrap().contains(&"unstage").then_some(())).await;
    assert_eq!(bench.calls(), "stage publish unpublish unstage");
    bench
        .until("not in use", || (bench.api.get(&format!("/api/v1/nodes/{NODE}"))?["status"]["volumesInUse"] == json!([])).then_some(()))
        .await;
    assert!(!bench.config.kubelet_dir.join("pods").join(uid).exists());
    bench
        .until("events", || {
            let events = bench.api.events();
            let wanted = ["Pulled", "Created Container created", "Started Container started", "Killing Stopping container c"];
            wanted.iter().all(|wanted| events.iter().any(|event| event.starts_with(wanted))).then_some(())
        })
        .await;
    bench.end().await;
}

/// Runs a command through the exec endpoint: its output and exit code.
async fn exec(socket: &Path, query: &str) -> (String, i64) {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let mut request = format!("ws://kubelet/exec/default/app/c?{query}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let (mut output, mut code) = (String::new(), -1);
    while let Some(Ok(message)) = socket.next().await {
        let bytes = message.clone().into_data();
        match bytes.first() {
            Some(1) if message.is_binary() => output.push_str(std::str::from_utf8(&bytes[1..]).unwrap()),
            Some(3) if message.is_binary() => {
                let status: Value = serde_json::from_slice(&bytes[1..]).unwrap();
                code = status["details"]["causes"][0]["message"].as_str().map_or(0, |code| code.parse().unwrap_or(-2));
            }
            _ => {}
        }
    }
    let _ = socket.close(None).await;
    (output, code)
}

#[tokio::test]
async fn a_failed_stage_is_told_in_the_real_words_and_tried_again() {
    let Some(bench) = Bench::new().await else { return };
    bench.node().await;
    *bench.driver.fail_stage.lock().unwrap() = true;
    bench.volume_and_pod("exit 0", &json!({"spec": {"restartPolicy": "Never"}}));
    let pod = bench.phase("Succeeded").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let text = "FailedMount MountVolume.MountDevice failed for volume \"pv\" : rpc error: code = Internal desc = no such disk";
    bench.until("event", || bench.api.events().contains(&text.to_owned()).then_some(())).await;
    assert!(bench.calls().starts_with("stage stage publish"));
    bench.end().await;
}

#[tokio::test]
async fn a_restarted_kubelet_finds_its_mounts_and_undoes_those_of_pods_that_are_gone() {
    let Some(mut bench) = Bench::new().await else { return };
    bench.node().await;
    bench.volume_and_pod("while :; do sleep 0.05; done", &json!({}));
    bench.phase("Running").await;
    bench.stop.cancel();
    (&mut bench.kubelet).await.unwrap();
    assert_eq!(bench.calls(), "stage publish");
    bench.api.remove(POD);
    bench.stop = CancellationToken::new();
    bench.kubelet = spawn(&bench.config, &bench.stop);
    bench.until("unstaged", || bench.driver.calls.lock().unwrap().contains(&"unstage").then_some(())).await;
    assert_eq!(bench.calls(), "unpublish unstage");
    bench
        .until("pod directories gone", || std::fs::read_dir(bench.config.kubelet_dir.join("pods")).unwrap().next().is_none().then_some(()))
        .await;
    bench.end().await;
}

#[tokio::test]
async fn a_container_without_a_command_says_what_to_do() {
    let Some(bench) = Bench::new().await else { return };
    bench.node().await;
    bench.api.put(
        POD,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "default"},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "nginx"}]}}),
    );
    bench.until("event", || bench.api.events().iter().any(|event| event.contains("set `command` in container \"c\"")).then_some(())).await;
    let pod = bench.api.get(POD).unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "CreateContainerConfigError");
    bench.end().await;
}

/// What node-driver-registrar is beside a driver: it tells of the driver and hears how the kubelet took it.
struct Registrar {
    info: PluginInfo,
    heard: tokio::sync::mpsc::UnboundedSender<RegistrationStatus>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: tonic::Request<InfoRequest>) -> Result<tonic::Response<PluginInfo>, tonic::Status> {
        Ok(tonic::Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        status: tonic::Request<RegistrationStatus>,
    ) -> Result<tonic::Response<RegistrationStatusResponse>, tonic::Status> {
        self.heard.send(status.into_inner()).unwrap();
        Ok(tonic::Response::new(RegistrationStatusResponse {}))
    }
}

#[tokio::test]
async fn a_driver_registers_itself_and_leaves_with_its_socket() {
    let Some(bench) = Bench::new().await else { return };
    let registry = bench.config.kubelet_dir.join("plugins_registry");
    std::fs::create_dir_all(&registry).unwrap();
    let (endpoint, service) = (bench.dir.path().join("other.sock"), bench.driver.clone() as Arc<dyn NodeService>);
    let identity = Identity { name: "other.example.com".into(), version: "1".into(), controller: false, topology: true };
    let at = endpoint.clone();
    tokio::spawn(async move { serve(&at, identity, None, Some(service), std::future::pending()).await });
    let register = |name: &str, version: &str| {
        let (heard, said) = tokio::sync::mpsc::unbounded_channel();
        let info = PluginInfo {
            r#type: "CSIPlugin".into(),
            name: name.into(),
            endpoint: endpoint.display().to_string(),
            supported_versions: vec![version.into()],
        };
        let socket = registry.join(format!("{name}-reg.sock"));
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let service = RegistrationServer::new(Registrar { info, heard });
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (socket, said)
    };
    let names = || {
        let csi_node = bench.api.get(&format!("/apis/storage.k8s.io/v1/csinodes/{NODE}")).unwrap_or_default();
        let drivers = csi_node["spec"]["drivers"].as_array().cloned().unwrap_or_default();
        drivers.iter().map(|driver| driver["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let (socket, mut said) = register("other.example.com", "1.0.0");
    assert_eq!(said.recv().await.unwrap(), RegistrationStatus { plugin_registered: true, error: String::new() });
    assert!(names().contains(&"other.example.com".to_owned()), "it was told before it was so: {:?}", names());
    let (_, mut said) = register("newer.example.com", "2.0.0");
    let refused = said.recv().await.unwrap();
    assert!(!refused.plugin_registered && refused.error.contains("are supported"), "{refused:?}");
    std::fs::remove_file(socket).unwrap();
    bench.until("the driver to leave", || (names() == [DRIVER]).then_some(())).await;
    bench.end().await;
}
