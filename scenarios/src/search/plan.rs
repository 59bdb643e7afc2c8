//! Random scenarios. Which sorts of trouble there are, how many nodes and how often something happens is drawn once a run (swarm
//! testing); what users do with pods and claims never is left out.

use std::time::Duration;

use model_common::pick::Pick;
use serde_json::{Value, json};

use crate::language::{ApiOutcome, Apply, Delete, Fault, Metadata, Op, Scenario, Span, Spec, Step, Trouble, World, WorldNode};

/// The frame of a search.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most nodes.
    pub nodes: usize,
    /// Most claims.
    pub volumes: usize,
    /// For how long things happen, in virtual time.
    pub span: Duration,
    /// Whether there is trouble at all.
    pub faults: bool,
    /// The invariants to watch; all when none.
    pub invariants: Option<Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 3, volumes: 4, span: Duration::from_secs(600), faults: true, invariants: None }
    }
}

/// The name of the step that shrinking works on.
pub(super) const HAPPENS: &str = "what happens";
/// How long everything has to come to rest at the end: csi-provisioner of the EBS chart waits up to 30 m between two tries.
const REST: Duration = Duration::from_secs(45 * 60);

/// The sorts of trouble.
const SORTS: [Sort; 10] = [
    Sort::Kubelet,
    Sort::Controller,
    Sort::NodeDriver,
    Sort::ControllerDriver,
    Sort::Pause,
    Sort::Partition,
    Sort::Power,
    Sort::NodeRpc,
    Sort::Api,
    Sort::Lag,
];

#[derive(Debug, Clone, Copy)]
enum Sort {
    Kubelet,
    Controller,
    NodeDriver,
    ControllerDriver,
    Pause,
    Partition,
    Power,
    NodeRpc,
    Api,
    Lag,
}

/// The processes of the control plane that crash, pause and lag.
const CONTROLLERS: [&str; 6] = ["attachdetach", "attacher", "provisioner", "pv-binder", "kube-controller-manager", "scheduler"];
const NODE_CALLS: [&str; 4] = ["NodeStageVolume", "NodeUnstageVolume", "NodePublishVolume", "NodeUnpublishVolume"];
const CONTROLLER_CALLS: [&str; 4] = ["ControllerPublishVolume", "ControllerUnpublishVolume", "CreateVolume", "DeleteVolume"];

/// Kinds whose watch lags alone.
const LAGGING: [&str; 5] = ["PersistentVolumeClaim", "PersistentVolume", "VolumeAttachment", "Pod", "Node"];

/// A scenario from a source of choices.
pub fn plan(pick: &mut dyn Pick, seed: u64, options: &Options) -> Scenario {
    let nodes = 1 + pick.pick(options.nodes.max(1));
    let volumes = 1 + pick.pick(options.volumes.max(1));
    // One zone more often than two: a volume that cannot follow its pod ends most stories early.
    let zones = if pick.chance(1, 4) { 2 } else { 1 };
    let sorts: Vec<Sort> = SORTS.into_iter().filter(|_| options.faults && pick.chance(1, 2)).collect();
    // The mean pause between two things that happen.
    let pace = [2, 5, 15, 45][pick.pick(4)];
    let trouble_every = 2 + pick.pick(6);
    let mut ops = Vec::new();
    let mut spent = Duration::ZERO;
    let mut turn = 0;
    while spent < options.span && !pick.is_over() {
        let op = if !sorts.is_empty() && turn % trouble_every == trouble_every - 1 {
            let sort = sorts[pick.pick(sorts.len())];
            Op::Fault(Fault::Cluster(trouble(pick, sort, nodes)))
        } else {
            life(pick, volumes)
        };
        turn += 1;
        ops.push(op);
        // In tenths of a second, most of them short.
        let tenths = 1 + pick.pick(pace * 20);
        let pause = Duration::from_millis(100 * tenths as u64).min(options.span.saturating_sub(spent));
        ops.push(Op::Sleep(Span(pause)));
        spent += pause.max(Duration::from_millis(1));
    }
    let names: Vec<String> = (0..nodes).map(|number| format!("node-{}", number + 1)).collect();
    let world = World {
        nodes: names
            .into_iter()
            .enumerate()
            .map(|(number, name)| WorldNode {
                name,
                zone: ["us-east-1a", "us-east-1b"][number % zones].into(),
                instance_type: "m5.large".into(),
            })
            .collect(),
        ..World::default()
    };
    let step = |name: &str, attempt: Vec<Op>| Step { name: name.into(), unless: None, attempt, catch: Vec::new(), finally: Vec::new() };
    Scenario {
        api_version: crate::language::API_VERSION.into(),
        kind: "Scenario".into(),
        metadata: Metadata { name: format!("search-{seed}"), ..Metadata::default() },
        spec: Spec {
            description: "found by `ebbtide search`".into(),
            source: String::new(),
            engines: None,
            not_in: Default::default(),
            needs: Default::default(),
            expect: None,
            seed,
            world: Some(world),
            variables: Default::default(),
            steps: vec![step("a class", vec![apply(&class())]), step(HAPPENS, ops), step("rest", rest(volumes))],
            invariants: options.invariants.clone(),
        },
    }
}

/// The end: no more trouble, everything is deleted, and there is time for it.
fn rest(volumes: usize) -> Vec<Op> {
    let mut ops = vec![Op::Fault(Fault::Cluster(Trouble::Clear {})), Op::Sleep(Span(Duration::from_secs(60)))];
    for number in 0..volumes {
        ops.extend(PODS.map(|suffix| delete("Pod", format!("app-{number}{suffix}"), None)));
    }
    ops.extend((0..volumes).map(|number| delete("PersistentVolumeClaim", format!("data-{number}"), None)));
    ops.push(Op::Sleep(Span(REST)));
    ops.push(delete("StorageClass", "ebs".into(), None));
    ops
}

/// The pods of a claim: two may want one volume.
const PODS: [&str; 2] = ["", "b"];

/// What a user does.
fn life(pick: &mut dyn Pick, volumes: usize) -> Op {
    let number = pick.pick(volumes);
    let suffix = PODS[usize::from(pick.chance(1, 5))];
    let pod = format!("app-{number}{suffix}");
    match pick.pick(10) {
        0..=4 => Op::Apply(Apply { manifests: manifests(&[claim(number), self::pod(&pod, number)]) }),
        5 | 6 => delete("Pod", pod, None),
        7 => delete("Pod", pod, Some(0)),
        8 => delete("PersistentVolumeClaim", format!("data-{number}"), None),
        _ => Op::Apply(Apply { manifests: manifests(&[claim(number)]) }),
    }
}

fn trouble(pick: &mut dyn Pick, sort: Sort, nodes: usize) -> Trouble {
    let node = format!("node-{}", 1 + pick.pick(nodes));
    let controller = CONTROLLERS[pick.pick(CONTROLLERS.len())].to_owned();
    // From a blink to what the six minutes of a forced detach need.
    let duration = Span(Duration::from_secs([1, 10, 60, 150, 400][pick.pick(5)]));
    match sort {
        Sort::Kubelet => Trouble::Crash { actor: "kubelet".into(), node: Some(node), duration: Some(duration) },
        Sort::Controller => Trouble::Crash { actor: controller, node: None, duration: Some(duration) },
        Sort::NodeDriver => Trouble::Crash { actor: "ebs-csi-node".into(), node: Some(node), duration: Some(duration) },
        Sort::ControllerDriver => Trouble::Crash { actor: "ebs-csi-controller".into(), node: None, duration: Some(duration) },
        Sort::Pause if pick.chance(1, 2) => Trouble::Pause { actor: "kubelet".into(), node: Some(node), duration },
        Sort::Pause => Trouble::Pause { actor: controller, node: None, duration },
        Sort::Partition => Trouble::Partition { node, duration: Some(duration) },
        Sort::Power if pick.chance(1, 2) => Trouble::Reboot { node },
        Sort::Power => Trouble::Stop { node, start_instances_after_duration: Some(duration) },
        Sort::NodeRpc => {
            let on_node = pick.chance(2, 3);
            let call = if on_node { NODE_CALLS[pick.pick(4)] } else { CONTROLLER_CALLS[pick.pick(4)] };
            let (delay, code, applied) = match pick.pick(4) {
                0 => (Some(duration), None, false),
                1 => (None, Some("Internal"), false),
                2 => (None, Some("Internal"), true),
                _ => (None, Some("DeadlineExceeded"), true),
            };
            Trouble::Rpc {
                call: call.into(),
                node: None,
                volume: None,
                // A few calls, or all for minutes.
                count: Some([1, 2, 3, 20][pick.pick(4)]),
                delay,
                code: code.map(str::to_owned),
                applied,
                hang: false,
            }
        }
        Sort::Api => {
            let outcome = [ApiOutcome::Conflict, ApiOutcome::InternalError, ApiOutcome::AckLost][pick.pick(3)];
            let count = Some(1 + pick.pick(3) as u64);
            Trouble::Api { outcome, actor: Some(controller), verb: None, kind: None, name: None, count }
        }
        Sort::Lag => {
            let (actor, node) = if pick.chance(1, 3) { ("kubelet".to_owned(), Some(node)) } else { (controller, None) };
            let delay = Span(Duration::from_secs([1, 15, 40][pick.pick(3)]));
            // One kind's watch alone lets things arrive before what they name.
            let kind = (node.is_none() && pick.chance(1, 2)).then(|| LAGGING[pick.pick(LAGGING.len())].to_owned());
            let stale = node.is_none() && pick.chance(1, 2);
            Trouble::WatchLag { actor, node, kind, delay, stale, duration: Some(duration) }
        }
    }
}

fn delete(kind: &str, name: String, grace: Option<u32>) -> Op {
    Op::Delete(Delete {
        manifests: None,
        kind: Some(kind.into()),
        name: Some(name),
        namespace: None,
        api_version: None,
        ignore_not_found: true,
        grace_period_seconds: grace,
        timeout: Span(Duration::ZERO),
    })
}

fn apply(object: &Value) -> Op {
    Op::Apply(Apply { manifests: manifests(std::slice::from_ref(object)) })
}

fn manifests(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().filter_map(|object| serde_yaml::to_string(object).ok()).collect();
    texts.join("---\n")
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "ebs"},
        "provisioner": "ebs.csi.aws.com", "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete",
    })
}

fn claim(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": format!("data-{number}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "ebs", "resources": {"requests": {"storage": "1Gi"}}},
    })
}

fn pod(name: &str, number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [{
                "name": "app", "image": "busybox",
                "command": ["/bin/sh", "-c", "while true; do echo $(date -u) >> /data/out.txt; sleep 5; done"],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{number}")}}],
        },
    })
}
