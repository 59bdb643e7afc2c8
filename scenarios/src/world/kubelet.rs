//! The nodes: each a kubelet machine, a table of devices, a table of mounts and its containers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::CSIDriver;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use model_aws::ec2::InstanceType;
use model_aws::world;
use model_kube::events::{self, EventRecord, EventType, Recorder};
use model_kube::object::{Change, Key, Kind, Object};
use model_kube::write::{ApiError, Patch, Propagation, Subresource, Write};
use model_node::driver::{ebs, efs};
use model_node::kubelet::{Effect, Input, Kubelet};
use model_node::pod::{Phase, PodEffect, PodSpec};
use model_node::volume_manager::{self as volumes, Config, Layout, PodUid, PodVolume, VolData, VolumeName};
use serde_json::{Value, json};

use super::clock::Part;
use super::files::Tree;
use super::programs::Program;
use super::{Event, Timer, World};
use crate::invariants::Seen;
use crate::language::WorldNode;

/// Where the kubelets' leases are.
const LEASES: &str = "kube-node-lease";

/// How often a kubelet renews its lease: a quarter of its 40 s.
const BEAT: Duration = Duration::from_secs(10);

/// What a client meets that cannot reach the API server.
pub(super) const UNREACHABLE: &str = "Get \"https://10.100.0.1:443\": dial tcp 10.100.0.1:443: i/o timeout";

/// A volume's block device.
pub(super) struct Device {
    pub bytes: u64,
}

/// What is mounted at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The id of the volume or file system.
    pub tree: String,
    /// Where in it the mount's root lies.
    pub root: String,
    pub read_only: bool,
}

/// A running container.
pub(super) struct Process {
    pub attempt: u32,
    pub program: Program,
    /// Where volumes appear: path in the container and what is there.
    pub mounts: Vec<(String, Mount)>,
    /// The container's own file system.
    pub own: Tree,
}

pub(super) struct Node {
    pub info: world::Node,
    pub machine: Kubelet,
    pub layout: Layout,
    /// By volume id.
    pub devices: BTreeMap<String, Device>,
    /// By path.
    pub mounts: BTreeMap<String, Mount>,
    /// How many mounts lie below the one at a path.
    pub stacked: BTreeMap<String, u32>,
    /// Trees and directories that are bound for the subPaths of a pod's PersistentVolume.
    pub sub_paths: BTreeMap<(PodUid, String), Vec<(String, String)>>,
    /// `vol_data.json` by the directory that holds it.
    pub data: BTreeMap<String, VolData>,
    pub containers: BTreeMap<(PodUid, String), Process>,
    pub started: BTreeMap<(PodUid, String), Time>,
    pub pods: BTreeMap<PodUid, Arc<core::Pod>>,
    /// Whether its kubelet runs.
    pub up: bool,
    pub power: bool,
    /// It and the API server do not reach each other.
    pub cut: bool,
    /// The watch events it misses meanwhile.
    pub missed: Vec<Change>,
    /// Its kubelet has seen its pods since it began.
    listed: bool,
    recorder: Recorder,
}

impl Node {
    pub(super) fn new(mut info: world::Node, given: Option<&WorldNode>) -> Self {
        if let Some(given) = given {
            info.name.clone_from(&given.name);
            info.labels.insert("kubernetes.io/hostname".into(), given.name.clone());
        }
        let layout = Layout { root: "/var/lib/kubelet".into() };
        let config = Config { node: info.name.clone(), layout: layout.clone(), eager: true };
        Self {
            info,
            machine: Kubelet::new(config),
            layout,
            devices: BTreeMap::new(),
            mounts: BTreeMap::new(),
            stacked: BTreeMap::new(),
            sub_paths: BTreeMap::new(),
            data: BTreeMap::new(),
            containers: BTreeMap::new(),
            started: BTreeMap::new(),
            pods: BTreeMap::new(),
            up: true,
            power: true,
            cut: false,
            missed: Vec::new(),
            listed: false,
            recorder: Recorder::default(),
        }
    }

    /// Mounts of EBS volumes: volume id and path.
    pub(super) fn ebs_mounts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.mounts.iter().filter(|(_, mount)| mount.tree.starts_with("vol-")).map(|(path, mount)| (mount.tree.as_str(), path.as_str()))
    }

    /// The mounts that the pods' directories show (§3.8).
    fn found(&self) -> Vec<volumes::Found> {
        let pods = format!("{}/pods/", self.layout.root);
        let of_pods = self.data.iter().filter_map(|(directory, data)| {
            let (pod, rest) = directory.strip_prefix(&pods)?.split_once('/')?;
            let pv = rest.strip_prefix("volumes/kubernetes.io~csi/")?;
            Some(volumes::Found { pod: pod.into(), pv: pv.to_owned(), block: false, data: Some(data.clone()) })
        });
        of_pods.collect()
    }

    pub(super) fn key(&self) -> Key {
        Key::new(Kind::Node, "", &self.info.name)
    }
}

/// Where to find the nodes by their names, and by their instances' ids.
pub(super) fn numbers(nodes: &[Node]) -> BTreeMap<String, usize> {
    let both = |(number, node): (usize, &Node)| [(node.info.name.clone(), number), (node.info.instance_id.clone(), number)];
    nodes.iter().enumerate().flat_map(both).collect()
}

/// The node whose kubelet's watches show an object: its own Node, and the pods that are bound to it.
pub(super) fn seen_by(object: &Object) -> Option<&str> {
    match object {
        Object::Node(node) => node.metadata.name.as_deref(),
        Object::Pod(pod) => pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()),
        _ => None,
    }
}

/// A merge patch of a status.
pub(super) fn status_patch(key: Key, status: Value) -> Write {
    Write::Patch { key, patch: Patch::Merge(json!({ "status": status })), subresource: Subresource::Status }
}

impl World {
    /// A node registers itself and its drivers, and its kubelet begins.
    pub(super) fn boot_node(&mut self, number: usize) -> Result<(), ApiError> {
        let node = &self.nodes[number];
        let (name, info, key) = (node.info.name.clone(), node.info.clone(), node.key());
        let mut labels = info.labels.clone();
        labels.insert("topology.ebs.csi.aws.com/zone".into(), info.zone.clone());
        let json = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "spec": {"providerID": info.provider_id},
        });
        let object = Object::from_json(&Kind::Node, json).map_err(ApiError::internal)?;
        let made = self.commit(&Write::Create { object })?;
        let now = self.timestamp();
        let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": Time(now), "lastTransitionTime": Time(now)});
        let capacity = json!({"cpu": "2", "memory": "8Gi", "pods": "110", "ephemeral-storage": "20Gi"});
        self.commit(&status_patch(
            key,
            json!({
                "capacity": capacity, "allocatable": capacity,
                "addresses": [{"type": "InternalIP", "address": info.private_ip}, {"type": "Hostname", "address": name}],
                "conditions": [
                    condition("MemoryPressure", "False", "KubeletHasSufficientMemory"), condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                    condition("PIDPressure", "False", "KubeletHasSufficientPID"), condition("Ready", "True", "KubeletReady"),
                ],
            }),
        ))?;
        // The root volume and the first network interface take two of the type's limit.
        let most = InstanceType::find(&info.instance_type).map_or(25, |kind| kind.ebs_limit.saturating_sub(2));
        let json = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
            "metadata": {"name": name, "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": made.uid()}]},
            "spec": {"drivers": [
                {"name": ebs::DRIVER, "nodeID": info.instance_id, "allocatable": {"count": most},
                 "topologyKeys": ["kubernetes.io/os", "topology.ebs.csi.aws.com/zone", "topology.kubernetes.io/zone"]},
                {"name": efs::DRIVER, "nodeID": info.instance_id, "topologyKeys": ["topology.kubernetes.io/zone"]},
            ]},
        });
        let object = Object::from_json(&Kind::CSINode, json).map_err(ApiError::internal)?;
        self.commit(&Write::Create { object })?;
        self.beat(number);
        let info = &self.nodes[number].info;
        let seen = Seen::Node { name: &info.name, instance: &info.instance_id, zone: &info.zone, volume_limit: most as usize };
        self.watch.see(self.clock.now(), &seen);
        self.boot_kubelet(number);
        Ok(())
    }

    /// A kubelet begins: what the disk shows, the pods of its node, and what still runs of them.
    pub(super) fn boot_kubelet(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let config = Config { node: node.info.name.clone(), layout: node.layout.clone(), eager: true };
        node.machine = Kubelet::new(config);
        node.up = true;
        node.listed = false;
        node.pods.clear();
        node.missed.clear();
        let found = node.found();
        self.watch.see(self.clock.now(), &Seen::KubeletStarted { node: &self.nodes[number].info.name });
        self.kubelet(number, &Input::Booted(found));
        if !self.nodes[number].cut {
            self.list_pods(number);
        }
    }

    /// A kubelet's informers list what is there.
    fn list_pods(&mut self, number: usize) {
        self.nodes[number].listed = true;
        let name = self.nodes[number].info.name.clone();
        let pods: Vec<Arc<core::Pod>> = self.store.pods_on(&name).cloned().collect();
        // What runs of pods that are gone from the API is killed, as at every kubelet's start (HandlePodCleanups).
        let known: BTreeSet<_> = pods.iter().map(|pod| PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default())).collect();
        let orphans: Vec<_> = self.nodes[number].containers.keys().filter(|(uid, _)| !known.contains(uid)).cloned().collect();
        for (uid, container) in orphans {
            self.end_container(number, &uid, &container);
        }
        for pod in pods {
            self.node_sees(number, &Change::Added(Object::Pod(pod)));
        }
        if let Some(node) = self.store.get::<core::Node>("", &name).cloned() {
            self.node_sees(number, &Change::Modified(Object::Node(node)));
        }
        self.kubelet(number, &Input::Synced);
    }

    /// A kubelet ended; containers and drivers go on.
    pub(super) fn kubelet_died(&mut self, number: usize) {
        self.nodes[number].up = false;
        self.delivered.retain(|(watcher, _), _| *watcher != super::Watcher::Node(number));
        self.forget_calls(number);
        self.see_node(number, |node| Seen::KubeletStopped { node });
    }

    /// All that was in the machine's memory is gone.
    pub(super) fn lose_power(&mut self, number: usize) {
        let running: Vec<_> = self.nodes[number].containers.keys().cloned().collect();
        for (uid, container) in running {
            self.end_container(number, &uid, &container);
        }
        self.nodes[number].mounts.clear();
        self.nodes[number].stacked.clear();
        self.nodes[number].sub_paths.clear();
        self.see_node(number, |node| Seen::PowerLost { node });
    }

    /// A container's process is no more.
    pub(super) fn end_container(&mut self, number: usize, pod: &PodUid, container: &str) -> bool {
        let ended = self.nodes[number].containers.remove(&(pod.clone(), container.to_owned())).is_some();
        if ended {
            self.see_node(number, |node| Seen::Ended { node, pod, container });
        }
        ended
    }

    /// After a partition: what was to be read or written and could not be.
    pub(super) fn catch_up(&mut self, number: usize) {
        if self.nodes[number].up && !self.nodes[number].listed {
            self.list_pods(number);
        }
        let pods: Vec<_> = self.nodes[number].pods.keys().cloned().collect();
        pods.iter().for_each(|pod| self.write_status(number, pod));
    }

    /// The kubelet's sign of life.
    pub(super) fn beat(&mut self, number: usize) {
        let name = self.nodes[number].info.name.clone();
        let time = Some(MicroTime(self.timestamp()));
        let write = match self.store.get::<Lease>(LEASES, &name).cloned() {
            Some(mut lease) => {
                Arc::make_mut(&mut lease).spec.get_or_insert_default().renew_time = time;
                Write::update(Object::Lease(lease))
            }
            None => {
                let metadata = ObjectMeta { name: Some(name.clone()), namespace: Some(LEASES.into()), ..ObjectMeta::default() };
                let (holder_identity, lease_duration_seconds) = (Some(name), Some(40));
                let spec = LeaseSpec { holder_identity, lease_duration_seconds, renew_time: time, ..LeaseSpec::default() };
                Write::create(Lease { metadata, spec: Some(spec) })
            }
        };
        // A lost beat is made good by the next one.
        let node = &self.nodes[number];
        if node.up && !node.cut {
            let _ = self.commit(&write);
        }
        self.clock.after(BEAT, Event::Beat(number));
    }

    pub(super) fn node_sees(&mut self, number: usize, change: &Change) {
        match (change, change.object()) {
            (_, Object::Node(node)) => {
                let attached = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten());
                let attached = attached.map(|volume| VolumeName::from(volume.name.as_str())).collect();
                self.kubelet(number, &Input::Volume(volumes::Input::NodeAttached(attached)));
            }
            (Change::Deleted(_), Object::Pod(pod)) => {
                let uid = PodUid::from(pod.metadata.uid.as_deref().unwrap_or_default());
                self.nodes[number].pods.remove(&uid);
                self.kubelet(number, &Input::PodGone(uid));
            }
            (_, Object::Pod(pod)) => {
                let spec = Arc::new(PodSpec::from_api(pod));
                self.nodes[number].pods.insert(spec.uid.clone(), pod.clone());
                let grace = pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
                let deleting = pod.metadata.deletion_timestamp.as_ref().map(|_| Duration::from_secs(grace));
                let ended = match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
                    Some("Succeeded") => Some(Phase::Succeeded),
                    Some("Failed") => Some(Phase::Failed),
                    _ => None,
                };
                let containers = self.nodes[number].containers.iter().filter(|((uid, _), _)| *uid == spec.uid);
                let running = containers.map(|((_, name), process)| (name.clone(), process.attempt)).collect();
                self.kubelet(number, &Input::Pod { spec, deleting, ended, restarts: BTreeMap::new(), running });
            }
            _ => {}
        }
    }

    /// A step of a kubelet, and its effects on their way.
    pub(super) fn kubelet(&mut self, number: usize, input: &Input) {
        let mut effects = Vec::new();
        let verdict = self.nodes[number].machine.step(input, &mut effects);
        self.input("kubelet").add(&number).add(input).verdict(&verdict).add(&effects);
        for effect in effects {
            match effect {
                Effect::Pod(pod, PodEffect::Arm(timer, span)) => self.arm(Timer::Pod(number, pod, timer), span),
                Effect::Pod(pod, PodEffect::Disarm(timer)) => self.clock.disarm(&Timer::Pod(number, pod, timer)),
                Effect::Pod(pod, PodEffect::Record { container, warning, reason, message }) => {
                    if let Some(object) = self.nodes[number].pods.get(&pod).cloned() {
                        let mut about = events::reference(&*object);
                        about.field_path = container.map(|name| format!("spec.containers{{{name}}}"));
                        self.record(number, about, warning, reason, message);
                    }
                }
                Effect::Pod(pod, effect) => {
                    let part = match effect {
                        PodEffect::Status | PodEffect::Delete | PodEffect::Resolve => Part::Write,
                        _ => Part::Mount,
                    };
                    self.soon(part, Event::Pod(number, pod, Box::new(effect)));
                }
                Effect::Volume(volumes::Effect::Arm(timer, span)) => self.arm(Timer::Volume(number, timer), span),
                Effect::Volume(volumes::Effect::Disarm(timer)) => self.clock.disarm(&Timer::Volume(number, timer)),
                Effect::Volume(volumes::Effect::ReportInUse(in_use)) => self.soon(Part::Write, Event::Report(number, in_use)),
                Effect::Volume(volumes::Effect::Record(event)) => self.record_volume(number, event),
                Effect::Volume(volumes::Effect::Do { op, action: volumes::Action::Csi { driver, call } }) => {
                    self.call_plugin(number, op, driver, call);
                }
                Effect::Volume(volumes::Effect::Do { op, action }) => {
                    let part = match action {
                        volumes::Action::ReadNode | volumes::Action::ReadAttachment { .. } | volumes::Action::ClaimResize { .. } => {
                            Part::Write
                        }
                        _ => Part::Mount,
                    };
                    let latency = self.latencies.draw(part) + self.walk(number, &action);
                    self.clock.after(latency, Event::Action(number, op, Box::new(action)));
                }
            }
        }
    }

    fn record_volume(&mut self, number: usize, event: volumes::Event) {
        let about = match &event.target {
            volumes::Target::Pod(pod) => self.nodes[number].pods.get(pod).map(|pod| events::reference(&**pod)),
            volumes::Target::Claim(claim) => {
                self.store.get::<core::PersistentVolumeClaim>(&claim.namespace, &claim.name).map(|claim| events::reference(&**claim))
            }
        };
        if let Some(about) = about {
            self.record(number, about, event.warning, event.reason, event.message);
        }
    }

    fn record(&mut self, number: usize, about: core::ObjectReference, warning: bool, reason: &str, message: String) {
        if self.nodes[number].cut {
            return;
        }
        let at = self.event_time();
        let event_type = if warning { EventType::Warning } else { EventType::Normal };
        let mut record = EventRecord::new(about, event_type, reason, message, "kubelet");
        let node = &mut self.nodes[number];
        record.host.clone_from(&node.info.name);
        let write = node.recorder.record(&record, at);
        self.tell(&record, write);
    }

    pub(super) fn report_in_use(&mut self, number: usize, in_use: BTreeSet<VolumeName>) {
        let key = self.nodes[number].key();
        if self.nodes[number].cut {
            self.clock.after(Duration::from_secs(1), Event::Report(number, in_use));
        } else if self.commit(&status_patch(key, json!({"volumesInUse": in_use}))).is_ok() {
            self.soon(Part::Write, Event::Kubelet(number, Box::new(Input::Volume(volumes::Input::Reported(in_use)))));
        } else {
            // As often as it takes.
            self.soon(Part::Write, Event::Report(number, in_use));
        }
    }

    pub(super) fn pod_done(&mut self, number: usize, pod: &PodUid, effect: PodEffect) {
        let uid = pod.clone();
        match effect {
            PodEffect::Resolve => {
                let result = self.resolve(number, pod);
                self.kubelet(number, &Input::Resolved { pod: uid, result });
            }
            PodEffect::SetUpLocal => {
                let result = self.set_up_local(number, pod);
                self.kubelet(number, &Input::LocalReady { pod: uid, result });
            }
            PodEffect::Start { container, attempt } => self.start(number, pod, container, attempt),
            // A shell or sleep as process 1 has no handler, so SIGTERM does nothing.
            PodEffect::Signal { kill: false, .. } => {}
            PodEffect::Signal { container, kill: true } => {
                if self.end_container(number, pod, &container) {
                    self.kubelet(number, &Input::Exited { pod: uid, container, code: 128 + 9 });
                }
            }
            // Programs are well as long as they run.
            PodEffect::Probe { container, kind, attempt } => {
                self.kubelet(number, &Input::Probed { pod: uid, container, kind, attempt, result: Ok(()) });
            }
            PodEffect::TearDownLocal => {
                let node = &mut self.nodes[number];
                let directory = format!("{}/pods/{pod}/", node.layout.root);
                let left = node.mounts.keys().find(|path| path.starts_with(&directory)).cloned();
                let result = match left {
                    Some(path) => Err(format!("{path} is still mounted")),
                    None => {
                        node.started.retain(|(owner, _), _| owner != pod);
                        let own = format!("emptydir/{pod}/");
                        let all = self.trees.range(own.clone()..).map(|(id, _)| id).take_while(|id| id.starts_with(&own));
                        let all: Vec<String> = all.cloned().collect();
                        all.iter().for_each(|id| drop(self.trees.remove(id)));
                        Ok(())
                    }
                };
                self.kubelet(number, &Input::Cleaned { pod: uid, result });
            }
            PodEffect::Status => self.write_status(number, pod),
            PodEffect::Delete if self.nodes[number].cut => {
                self.clock.after(Duration::from_secs(1), Event::Pod(number, uid, Box::new(PodEffect::Delete)));
            }
            PodEffect::Delete => {
                self.write_status(number, pod);
                if let Some(object) = self.nodes[number].pods.get(pod) {
                    let write = Write::Delete {
                        key: Object::Pod(object.clone()).key(),
                        uid: Some(pod.to_string()),
                        resource_version: None,
                        grace_seconds: Some(0),
                        propagation: Propagation::Background,
                    };
                    // Gone already, or another pod of that name: both mean that this one is gone.
                    let _ = self.commit(&write);
                }
                self.kubelet(number, &Input::Deleted(uid));
            }
            // Carried out at once, where the effect came.
            PodEffect::Record { .. } | PodEffect::Arm(..) | PodEffect::Disarm(_) => {}
        }
    }

    /// Live reads of the claims behind a pod's volumes, and of what is behind those.
    fn resolve(&self, number: usize, uid: &PodUid) -> Result<Vec<PodVolume>, String> {
        let Some(pod) = self.nodes[number].pods.get(uid) else { return Err("the pod is gone".into()) };
        if self.nodes[number].cut {
            return Err(UNREACHABLE.into());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let labels = self.store.get::<core::Node>("", &self.nodes[number].info.name).and_then(|node| node.metadata.labels.clone());
        let labels = labels.unwrap_or_default();
        let missing = |claim: &str, kind: Kind, name: &str| {
            let error = ApiError::not_found(&kind, name);
            let what = if kind == Kind::PersistentVolume { "PV" } else { "PVC" };
            format!("error processing PVC {namespace}/{claim}: failed to fetch {what} from API server: {error}")
        };
        let resolve = |used: &volumes::PodClaim| {
            let claim = self.store.get::<core::PersistentVolumeClaim>(namespace, &used.claim);
            let claim = claim.ok_or_else(|| missing(&used.claim, Kind::PersistentVolumeClaim, &used.claim))?;
            let name = volumes::claim_volume(pod, used, claim).map_err(|error| error.to_string())?;
            let volume = self.store.get::<core::PersistentVolume>("", name);
            let volume = volume.ok_or_else(|| missing(&used.claim, Kind::PersistentVolume, name))?;
            let driver =
                volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).and_then(|csi| self.store.get::<CSIDriver>("", &csi.driver));
            volumes::resolve_pod_volume(pod, used, claim, volume, driver.map(|driver| &**driver), &labels)
                .map_err(|error| error.to_string())
        };
        volumes::pod_claims(pod).iter().map(resolve).collect()
    }

    fn set_up_local(&mut self, number: usize, uid: &PodUid) -> Result<(), String> {
        let Some(pod) = self.nodes[number].pods.get(uid).cloned() else { return Ok(()) };
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
                continue;
            }
            if volume.empty_dir.is_none() {
                return Err(format!("MountVolume.SetUp failed for volume \"{}\" : volumes of this kind need --live", volume.name));
            }
            self.trees.entry(format!("emptydir/{uid}/{}", volume.name)).or_default();
        }
        Ok(())
    }
}
