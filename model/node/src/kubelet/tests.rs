use std::collections::{BTreeMap, BTreeSet};

use model_common::csi::{NodeCall, NodeCapability, NodeReply};
use model_common::fixes::Fixes;
use proptest::prelude::*;

mod probes;

use super::*;
use crate::pod::{ContainerSpec, RestartPolicy};
use crate::volume_manager::{Action, Answer, Attachment, Layout, VolData, VolumeSpec};

fn spec(policy: RestartPolicy, init: &[(&str, bool)]) -> Arc<PodSpec> {
    let container = |(name, sidecar): &(&str, bool)| ContainerSpec {
        name: name.to_string(),
        image: "busybox".into(),
        sidecar: *sidecar,
        probes: BTreeMap::new(),
    };
    Arc::new(PodSpec {
        uid: "u".into(),
        namespace: "default".into(),
        name: "app".into(),
        service_account: "default".into(),
        init: init.iter().map(container).collect(),
        containers: vec![container(&("main", false))],
        restart_policy: policy,
        active_deadline: None,
        grace: Duration::from_secs(30),
        volumes: vec!["data".into()],
    })
}

/// A kubelet whose node does everything at once; containers run until they are told otherwise.
struct Bench {
    machine: Kubelet,
    spec: Arc<PodSpec>,
    log: Vec<String>,
    timers: BTreeMap<PodTimer, Duration>,
    mounted: BTreeSet<String>,
}

impl Bench {
    fn new(spec: Arc<PodSpec>) -> Self {
        let layout = Layout { root: "/k".into() };
        let machine = Kubelet::new(Config { node: "n1".into(), layout, eager: false, fixes: Fixes::default() });
        let mut bench = Self { machine, spec, log: Vec::new(), timers: BTreeMap::new(), mounted: BTreeSet::new() };
        bench.feed(Input::Booted(Vec::new()));
        bench.feed(Input::Synced);
        bench
    }

    fn see(&mut self, deleting: Option<u64>) {
        let deleting = deleting.map(Duration::from_secs);
        self.feed(Input::Pod { spec: self.spec.clone(), deleting, ended: None, restarts: BTreeMap::new(), running: BTreeMap::new() });
    }

    fn volume(&self) -> PodVolume {
        let data = VolData { spec_vol_id: "pv".into(), volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
        let spec = Arc::new(VolumeSpec { attachable: false, ..VolumeSpec::from_vol_data(&data, false) });
        PodVolume { name: "data".into(), spec, read_only: false, fs_group: None, on_root_mismatch: false }
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            let _ = self.machine.step(&input, &mut out);
            for effect in out {
                match effect {
                    Effect::Pod(pod, effect) => inputs.extend(self.pod_effect(pod, effect)),
                    Effect::Volume(effect) => inputs.extend(self.volume_effect(effect).map(Input::Volume)),
                }
            }
        }
    }

    fn pod_effect(&mut self, pod: PodUid, effect: PodEffect) -> Option<Input> {
        Some(match effect {
            PodEffect::Resolve => Input::Resolved { pod, result: Ok(vec![self.volume()]) },
            PodEffect::SetUpLocal => Input::LocalReady { pod, result: Ok(()) },
            PodEffect::Start { container, attempt } => {
                assert!(!self.mounted.is_empty(), "a container starts only when its volume is mounted (S8)");
                self.log.push(format!("start {container} {attempt}"));
                Input::Started { pod, container, result: Ok(()) }
            }
            PodEffect::Signal { container, kill } => {
                self.log.push(format!("{} {container}", if kill { "kill" } else { "term" }));
                return kill.then_some(Input::Exited { pod, container, code: 137 });
            }
            PodEffect::TearDownLocal => {
                assert!(self.mounted.is_empty(), "the directory goes after the mounts");
                Input::Cleaned { pod, result: Ok(()) }
            }
            PodEffect::Delete => {
                self.log.push("delete".into());
                Input::Deleted(pod)
            }
            PodEffect::Record { reason, message, .. } => {
                match reason {
                    "BackOff" => self.log.push("back-off".into()),
                    "Unhealthy" => self.log.push(message),
                    _ => {}
                }
                return None;
            }
            PodEffect::Probe { container, kind, attempt } => {
                self.log.push(format!("probe {container} {attempt} {kind:?}"));
                return None;
            }
            PodEffect::AttachLimit => Input::AttachLimit { pod, exhausted: false },
            PodEffect::Status => return None,
            PodEffect::Arm(timer, wait) => {
                self.timers.insert(timer, wait);
                return None;
            }
            PodEffect::Disarm(timer) => {
                self.timers.remove(&timer);
                return None;
            }
        })
    }

    fn volume_effect(&mut self, effect: volumes::Effect) -> Option<volumes::Input> {
        Some(match effect {
            volumes::Effect::Do { op, action } => {
                let result = Ok(match &action {
                    Action::ReadAttachment { .. } => Answer::Attachment(Some(Attachment { attached: true, ..Attachment::default() })),
                    Action::ReadNode => Answer::Attached(BTreeSet::new()),
                    Action::ReadVolData { .. } => Answer::VolData(Some(VolData::default())),
                    Action::MountRefs { .. } => Answer::Refs(Vec::new()),
                    Action::Csi { call: NodeCall::NodePublishVolume { target_path, .. }, .. } => {
                        self.mounted.insert(target_path.clone());
                        Answer::Csi(NodeReply::NodePublishVolume)
                    }
                    Action::Csi { call: NodeCall::NodeUnpublishVolume { target_path, .. }, .. } => {
                        let alive = self.machine.pods().any(|pod| pod.container("main").is_some_and(|main| main.is_running()));
                        assert!(!alive, "unmounted under a running container (S9)");
                        self.log.push("unpublish".into());
                        self.mounted.remove(target_path);
                        Answer::Csi(NodeReply::NodeUnpublishVolume)
                    }
                    Action::Csi { call: NodeCall::NodeStageVolume { .. }, .. } => Answer::Csi(NodeReply::NodeStageVolume),
                    Action::Csi { call: NodeCall::NodeUnstageVolume { .. }, .. } => Answer::Csi(NodeReply::NodeUnstageVolume),
                    Action::Csi { .. } => Answer::Csi(NodeReply::NodeGetCapabilities(vec![NodeCapability::StageUnstageVolume])),
                    _ => Answer::Done,
                });
                volumes::Input::Done { op, result }
            }
            volumes::Effect::ReportInUse(volumes) => volumes::Input::Reported(volumes),
            volumes::Effect::Record(_) | volumes::Effect::Arm(..) | volumes::Effect::Disarm(_) => return None,
        })
    }

    fn exit(&mut self, container: &str, code: i32) {
        self.feed(Input::Exited { pod: "u".into(), container: container.into(), code });
    }

    fn fire(&mut self, timer: PodTimer) -> Option<Duration> {
        let wait = self.timers.remove(&timer)?;
        self.feed(Input::PodTimer { pod: "u".into(), timer });
        Some(wait)
    }

    fn phase(&self) -> Option<Phase> {
        self.machine.pod("u").map(Pod::phase)
    }

    fn took(&mut self) -> String {
        std::mem::take(&mut self.log).join(", ")
    }
}

#[test]
fn a_deleted_pod_ends_in_the_safe_order() {
    let mut bench = Bench::new(spec(RestartPolicy::Always, &[]));
    bench.see(None);
    assert_eq!((bench.took().as_str(), bench.phase()), ("start main 0", Some(Phase::Running)));
    bench.see(Some(30));
    assert_eq!(bench.took(), "term main");
    assert_eq!(bench.fire(PodTimer::Kill), Some(Duration::from_secs(30)));
    assert_eq!(bench.took(), "kill main, unpublish, delete");
    assert_eq!(bench.phase(), None);
}

#[test]
fn no_grace_is_shorter_than_two_seconds() {
    let mut bench = Bench::new(spec(RestartPolicy::Always, &[]));
    bench.see(None);
    bench.feed(Input::PodGone("u".into()));
    assert_eq!(bench.timers[&PodTimer::Kill], Duration::from_secs(2));
    bench.exit("main", 143);
    assert_eq!(bench.took(), "start main 0, term main, unpublish", "what was deleted by force is not deleted again");
    assert!(bench.machine.pods().next().is_none());
}

#[test]
fn the_crash_loop_waits_ten_seconds_doubled_up_to_five_minutes() {
    let mut bench = Bench::new(spec(RestartPolicy::Always, &[]));
    bench.see(None);
    bench.exit("main", 1);
    assert_eq!(bench.took(), "start main 0, start main 1", "the first restart is at once");
    let mut waits = Vec::new();
    for _ in 0..7 {
        bench.exit("main", 1);
        waits.push(bench.fire(PodTimer::Restart("main".into())).unwrap().as_secs());
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    bench.fire(PodTimer::Forget("main".into()));
    bench.took();
    bench.exit("main", 1);
    assert_eq!(bench.took(), "start main 9", "a container that ran ten minutes starts anew");
}

#[test]
fn restart_policies_decide_what_an_exit_means() {
    for (policy, code, phase) in [
        (RestartPolicy::Never, 0, Phase::Succeeded),
        (RestartPolicy::Never, 3, Phase::Failed),
        (RestartPolicy::OnFailure, 0, Phase::Succeeded),
        (RestartPolicy::OnFailure, 3, Phase::Running),
        (RestartPolicy::Always, 0, Phase::Running),
    ] {
        let mut bench = Bench::new(spec(policy, &[]));
        bench.see(None);
        bench.exit("main", code);
        assert_eq!(bench.phase(), Some(phase), "{policy:?} {code}");
        assert_eq!(bench.mounted.is_empty(), phase != Phase::Running, "a pod that ended gives its volumes back");
    }
}

#[test]
fn init_containers_run_in_order_and_sidecars_end_last() {
    let mut bench = Bench::new(spec(RestartPolicy::Always, &[("one", false), ("side", true), ("two", false)]));
    bench.see(None);
    assert_eq!((bench.took().as_str(), bench.phase()), ("start one 0", Some(Phase::Pending)));
    bench.exit("one", 0);
    assert_eq!(bench.took(), "start side 0, start two 0");
    bench.exit("two", 0);
    assert_eq!((bench.took().as_str(), bench.phase()), ("start main 0", Some(Phase::Running)));
    bench.see(Some(30));
    assert_eq!(bench.took(), "term main");
    bench.exit("main", 0);
    assert_eq!(bench.took(), "term side");
    bench.exit("side", 0);
    assert_eq!(bench.took(), "unpublish, delete");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut bench = Bench::new(spec(RestartPolicy::Never, &[("one", false)]));
    bench.see(None);
    bench.exit("one", 2);
    assert_eq!(bench.phase(), Some(Phase::Failed));
}

#[test]
fn a_pod_that_ended_before_a_restart_does_not_run_again() {
    let mut bench = Bench::new(spec(RestartPolicy::Never, &[]));
    let spec = bench.spec.clone();
    bench.feed(Input::Pod { spec, deleting: None, ended: Some(Phase::Succeeded), restarts: BTreeMap::new(), running: BTreeMap::new() });
    assert_eq!((bench.took().as_str(), bench.phase()), ("", Some(Phase::Succeeded)));
    bench.see(Some(0));
    assert_eq!(bench.took(), "delete");
}

#[test]
fn a_claim_that_cannot_be_used_is_told_and_tried_again() {
    let mut machine =
        Kubelet::new(Config { node: "n1".into(), layout: Layout { root: "/k".into() }, eager: true, fixes: Fixes::default() });
    let mut out = Vec::new();
    machine.step(&Input::Booted(Vec::new()), &mut out).unwrap();
    let pod = spec(RestartPolicy::Always, &[]);
    machine
        .step(&Input::Pod { spec: pod, deleting: None, ended: None, restarts: BTreeMap::new(), running: BTreeMap::new() }, &mut out)
        .unwrap();
    out.clear();
    let why = Err("error processing PVC default/claim: PVC is not bound".to_owned());
    machine.step(&Input::Resolved { pod: "u".into(), result: why }, &mut out).unwrap();
    let text = "Unable to attach or mount volumes: unmounted volumes=[data], unattached volumes=[], failed to process volumes=[data]: \
                error processing PVC default/claim: PVC is not bound";
    assert!(out.iter().any(|effect| matches!(effect, Effect::Pod(_, PodEffect::Record { message, .. }) if message == text)), "{out:?}");
    assert!(out.contains(&Effect::Pod("u".into(), PodEffect::Arm(PodTimer::Sync, SYNC_BACKOFF))));
}

/// kubernetes#95911: the scheduler did not know the node's limit.
#[test]
fn a_pod_whose_volume_the_node_cannot_take_fails() {
    let mut machine =
        Kubelet::new(Config { node: "n1".into(), layout: Layout { root: "/k".into() }, eager: true, fixes: Fixes::default() });
    let mut feed = |input: Input| {
        let mut out = Vec::new();
        machine.step(&input, &mut out).unwrap();
        let shown = machine.pod("u").map(|pod| (pod.phase(), pod.verdict.clone()));
        (out, shown)
    };
    feed(Input::Booted(Vec::new()));
    let bench = Bench::new(spec(RestartPolicy::Always, &[]));
    let spec = bench.spec.clone();
    feed(Input::Pod { spec, deleting: None, ended: None, restarts: BTreeMap::new(), running: BTreeMap::new() });
    feed(Input::Synced);
    let volume = bench.volume();
    let attachable = PodVolume { spec: Arc::new(VolumeSpec { attachable: true, ..(*volume.spec).clone() }), ..volume };
    feed(Input::Resolved { pod: "u".into(), result: Ok(vec![attachable]) });
    let due = || Input::PodTimer { pod: "u".into(), timer: PodTimer::VolumesDue };
    let asks = |out: &[Effect]| out.contains(&Effect::Pod("u".into(), PodEffect::AttachLimit));
    assert!(asks(&feed(due()).0), "it waits for the attachment");
    let (_, shown) = feed(Input::AttachLimit { pod: "u".into(), exhausted: false });
    assert_eq!(shown, Some((Phase::Pending, None)));
    let (out, shown) = feed(Input::AttachLimit { pod: "u".into(), exhausted: true });
    let message = "Node has insufficient volume attachment capacity for pod: unmounted volumes=[data], unattached volumes=[data]";
    assert_eq!(shown, Some((Phase::Failed, Some(("VolumeAttachmentLimitExceeded".into(), message.into())))));
    assert!(out.contains(&Effect::Pod("u".into(), PodEffect::Status)));
    assert!(!asks(&feed(due()).0), "it has failed");
}

proptest! {
    /// Whatever exits and fires in whatever order: a deleted pod goes, its volumes first (asserted on the way).
    #[test]
    fn every_deleted_pod_goes(steps in proptest::collection::vec((0..4u8, 0..3usize, 0..2i32), 0..30), policy in 0..3usize) {
        let policy = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never][policy];
        let mut bench = Bench::new(spec(policy, &[("one", false), ("side", true)]));
        bench.see(None);
        for (kind, which, code) in steps {
            let name = ["main", "one", "side"][which];
            match kind {
                0 => bench.exit(name, code),
                1 => _ = bench.fire(PodTimer::Restart(name.into())),
                2 => _ = bench.fire(PodTimer::Sync),
                _ => bench.see(None),
            }
        }
        bench.see(Some(5));
        for _ in 0..4 {
            bench.fire(PodTimer::Kill);
        }
        prop_assert!(bench.machine.pods().next().is_none(), "{:?}", bench.machine);
        prop_assert!(bench.mounted.is_empty());
    }
}

#[test]
fn containers_of_an_earlier_life_go_on_and_end_in_order() {
    let running: BTreeMap<_, _> = [("main".to_owned(), 2)].into();
    let pod = spec(RestartPolicy::Always, &[]);
    let mut bench = Bench::new(pod.clone());
    bench.feed(Input::Pod { spec: pod.clone(), deleting: None, ended: None, restarts: BTreeMap::new(), running: running.clone() });
    assert!(bench.log.is_empty(), "it runs already: {:?}", bench.log);
    let container = bench.machine.pod("u").unwrap().container("main").unwrap();
    assert!(container.is_running() && container.attempt == 2);

    // Deleted while the kubelet was down: the container is stopped before its volumes are.
    let mut bench = Bench::new(pod.clone());
    bench.feed(Input::Pod { spec: pod, deleting: Some(Duration::from_secs(30)), ended: None, restarts: BTreeMap::new(), running });
    assert_eq!(bench.log, ["term main"]);
    assert!(bench.timers.contains_key(&PodTimer::Kill));
    assert!(bench.machine.volumes().desires("u"), "its volumes are wanted until its containers have ended");
    bench.feed(Input::PodTimer { pod: "u".into(), timer: PodTimer::Kill });
    assert_eq!(bench.log, ["term main", "kill main", "unpublish", "delete"]);
}
