//! The nodes: each a kubelet machine, a table of devices, a table of mounts and its containers.

mod drivers;
mod identity;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model_aws::world;
use model_common::fixes::Fixes;
use model_kube::events::{self, Recorder};
use model_kube::object::{Change, Key, Kind, Object};
use model_kube::write::{Patch, Subresource, Write};
use model_node::driver::ebs;
use model_node::kubelet::{Effect, Input, Kubelet};
use model_node::node_status::Reports;
use model_node::pod::{Phase, PodEffect, PodSpec};
use model_node::volume_manager::{self as volumes, Config, Found, Layout, PodUid, VolData, VolumeName};
use serde_json::{Value, json};

use super::clock::Part;
use super::files::Tree;
use super::programs::Program;
use super::{Event, Timer, Which, World};
use crate::invariants::Seen;
use crate::language::WorldNode;

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
    /// Directories of pods.
    pub pod_dirs: BTreeSet<PodUid>,
    /// Links to block devices in pods' directories.
    pub links: BTreeSet<String>,
    /// The staging directories of block devices.
    pub block_stagings: BTreeSet<String>,
    /// The tunnels of its EFS mounts are gone: I/O on them waits.
    pub io_hangs: bool,
    /// The drivers that its kubelet knows.
    pub drivers: BTreeSet<Which>,
    /// Its Node, as its kubelet's watch shows it.
    seen: Option<Arc<core::Node>>,
    identity: core::NodeStatus,
    reports: Reports,
    /// When its kubelet last wrote the Node's status.
    posted: Option<Duration>,
    recorder: Recorder,
}

impl Node {
    pub(super) fn new(mut info: world::Node, given: Option<&WorldNode>, fixes: &Fixes) -> Self {
        if let Some(given) = given {
            info.name.clone_from(&given.name);
            info.labels.insert("kubernetes.io/hostname".into(), given.name.clone());
        }
        let layout = Layout { root: "/var/lib/kubelet".into() };
        let config = Config { node: info.name.clone(), layout: layout.clone(), eager: true, fixes: fixes.clone() };
        Self {
            identity: identity::identity(&info),
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
            pod_dirs: BTreeSet::new(),
            links: BTreeSet::new(),
            block_stagings: BTreeSet::new(),
            io_hangs: false,
            drivers: BTreeSet::new(),
            seen: None,
            reports: Reports::default(),
            posted: None,
            recorder: Recorder::default(),
        }
    }

    /// Mounts of EBS volumes: volume id and path.
    pub(super) fn ebs_mounts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.mounts.iter().filter(|(_, mount)| mount.tree.starts_with("vol-")).map(|(path, mount)| (mount.tree.as_str(), path.as_str()))
    }

    /// The mounts that the directories of pods (§3.8) and the staging directories show.
    fn found(&self) -> Vec<Found> {
        let pods = format!("{}/pods/", self.layout.root);
        let of_pods = self.data.iter().filter_map(|(directory, data)| {
            let (pod, rest) = directory.strip_prefix(&pods)?.split_once('/')?;
            let pv = rest.strip_prefix("volumes/kubernetes.io~csi/")?;
            Some(Found::of_pod(pod, pv, false, Some(data.clone())))
        });
        let of_mounts = self.mounts.keys().filter_map(|mount| {
            let directory = mount.strip_suffix("/mount").filter(|directory| !self.data.contains_key(*directory))?;
            let (pod, rest) = directory.strip_prefix(&pods)?.split_once('/')?;
            let pv = rest.strip_prefix("volumes/kubernetes.io~csi/")?;
            Some(Found { bound: self.bound_at(mount).cloned(), ..Found::of_pod(pod, pv, false, None) })
        });
        let of_links = self.links.iter().filter_map(|link| {
            let (pod, rest) = link.strip_prefix(&pods)?.split_once('/')?;
            let pv = rest.strip_prefix("volumeDevices/kubernetes.io~csi/")?;
            let data = self.data.get(&self.layout.block_data_dir(pv)).cloned();
            Some(Found::of_pod(pod, pv, true, data))
        });
        let plugins = self.layout.plugins();
        let staged = self.data.iter().filter_map(|(directory, data)| {
            let place = directory.strip_prefix(&plugins)?.strip_prefix('/')?;
            let Some(device) = place.strip_prefix("volumeDevices/") else { return Some(Found::staged(place, false, data.clone())) };
            let pv = device.strip_suffix("/data").filter(|pv| self.block_stagings.contains(&self.layout.block_staging(pv)))?;
            Some(Found::staged(pv, true, data.clone()))
        });
        of_pods.chain(of_mounts).chain(of_links).chain(staged).collect()
    }

    /// The `vol_data.json` beside the staged file system that is bound at a path.
    pub(super) fn bound_at(&self, path: &str) -> Option<&VolData> {
        let tree = &self.mounts.get(path)?.tree;
        let staged = self.mounts.iter().filter(|(_, mount)| mount.tree == *tree).filter_map(|(at, _)| at.strip_suffix("/globalmount"));
        staged.filter_map(|directory| self.data.get(directory)).next()
    }

    /// Whether its kubelet knows which pods there are.
    pub(super) fn listed(&self) -> bool {
        self.up && self.listed
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
    /// A node is there, and its kubelet begins.
    pub(super) fn boot_node(&mut self, number: usize) {
        let info = &self.nodes[number].info;
        let volume_limit = usize::try_from(ebs::max_volumes(&info.instance_type)).unwrap_or(usize::MAX);
        let seen = Seen::Node { name: &info.name, instance: &info.instance_id, zone: &info.zone, volume_limit };
        self.watch.see(self.clock.now(), &seen);
        self.boot_kubelet(number);
    }

    /// A kubelet begins: what the disk shows, who it is, the pods of its node, and what still runs of them.
    pub(super) fn boot_kubelet(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let config = Config { node: node.info.name.clone(), layout: node.layout.clone(), eager: true, fixes: self.fixes.clone() };
        node.machine = Kubelet::new(config);
        node.up = true;
        node.listed = false;
        node.pods.clear();
        node.missed.clear();
        node.seen = None;
        (node.reports, node.posted) = (Reports::default(), None);
        node.drivers.clear();
        let found = node.found();
        self.watch.see(self.clock.now(), &Seen::KubeletStarted { node: &self.nodes[number].info.name });
        self.kubelet(number, &Input::Booted(found));
        self.register(number, None);
        self.beat(number);
        self.register_drivers(number);
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
        self.watch_orphans(number);
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
        // What has no process any more waits for nothing.
        self.io(number, false);
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

    pub(super) fn node_sees(&mut self, number: usize, change: &Change) {
        match (change, change.object()) {
            (Change::Deleted(_), Object::Node(_)) => self.nodes[number].seen = None,
            (_, Object::Node(node)) => {
                self.nodes[number].seen = Some(node.clone());
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
                        PodEffect::Status | PodEffect::Delete | PodEffect::Resolve | PodEffect::AttachLimit => Part::Write,
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
}
