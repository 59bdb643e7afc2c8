use std::collections::BTreeSet;
use std::sync::Arc;

use model_common::csi::{self, Code, NodeCall, NodeCapability, NodeReply};
use proptest::prelude::*;

use super::*;

mod calls;
mod reconstruct;

pub(super) fn config() -> Config {
    Config { node: "n1".into(), layout: Layout { root: "/k".into() }, eager: true, fixes: Fixes::default() }
}

pub(super) fn spec() -> VolumeSpec {
    let data = VolData { spec_vol_id: "pv".into(), volume_handle: "vol-1".into(), driver_name: "d".into(), ..VolData::default() };
    VolumeSpec { capacity: 4 << 30, claim_capacity: 4 << 30, fs_type: "ext4".into(), ..VolumeSpec::from_vol_data(&data, false) }
}

pub(super) fn want(pod: &str) -> PodWant {
    want_with(pod, spec())
}

fn want_with(pod: &str, spec: VolumeSpec) -> PodWant {
    PodWant {
        uid: pod.into(),
        namespace: "default".into(),
        name: pod.into(),
        service_account: "default".into(),
        volumes: vec![PodVolume { name: "data".into(), spec: Arc::new(spec), read_only: false, fs_group: None, on_root_mismatch: false }],
    }
}

/// A machine and a node where everything succeeds unless told otherwise.
struct Bench {
    machine: VolumeManager,
    capabilities: Vec<NodeCapability>,
    /// The next call with this name fails so.
    failing: Option<(&'static str, Failure)>,
    data_missing: bool,
    /// The directories with a vol_data.json; none: all.
    data: Option<BTreeSet<String>>,
    /// The vol_data.json beside what is bound at the pods' directories.
    bound: Option<VolData>,
    calls: Vec<String>,
    actions: Vec<Action>,
    events: Vec<String>,
    timers: BTreeSet<Timer>,
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Csi { call, .. } => match call {
            NodeCall::NodeStageVolume { .. } => "stage",
            NodeCall::NodeUnstageVolume { .. } => "unstage",
            NodeCall::NodePublishVolume { .. } => "publish",
            NodeCall::NodeUnpublishVolume { .. } => "unpublish",
            NodeCall::NodeExpandVolume { .. } => "expand",
            NodeCall::NodeGetCapabilities => "capabilities",
            NodeCall::NodeGetVolumeStats { .. } | NodeCall::NodeGetInfo => "other",
        },
        Action::ReadNode => "read-node",
        Action::ReadAttachment { .. } => "read-attachment",
        Action::MakeDir { .. } => "mkdir",
        Action::RemoveMount { .. } => "remove",
        Action::ReadVolData { .. } => "read-data",
        Action::FindVolData { .. } => "find-data",
        Action::MountRefs { .. } => "refs",
        Action::ApplyFsGroup { .. } => "fs-group",
        Action::CleanSubPaths { .. } => "sub-paths",
        Action::MapDevice { .. } => "map",
        Action::UnmapDevice { .. } => "unmap",
        Action::RemovePaths { .. } => "remove-paths",
        Action::ClaimResize { .. } => "claim",
    }
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            machine: VolumeManager::new(config()),
            capabilities: vec![NodeCapability::StageUnstageVolume, NodeCapability::ExpandVolume],
            failing: None,
            data_missing: false,
            data: None,
            bound: None,
            calls: Vec::new(),
            actions: Vec::new(),
            events: Vec::new(),
            timers: BTreeSet::new(),
        };
        bench.feed(Input::Booted(Vec::new()));
        bench.feed(Input::SourcesReady);
        bench.feed(Input::NodeAttached(BTreeSet::from([spec().name])));
        bench
    }

    fn answer(&mut self, action: &Action) -> Result<Answer, Failure> {
        if self.failing.as_ref().is_some_and(|(call, _)| *call == name(action)) {
            return Err(self.failing.take().unwrap().1);
        }
        Ok(match action {
            Action::ReadNode => Answer::Attached(BTreeSet::from([spec().name])),
            Action::ReadAttachment { .. } => Answer::Attachment(Some(Attachment { attached: true, ..Attachment::default() })),
            Action::MakeDir { data: Some((dir, _)), .. } => {
                _ = self.data.as_mut().map(|data| data.insert(dir.clone()));
                Answer::Done
            }
            Action::ReadVolData { dir } => {
                let there = !self.data_missing && self.data.as_ref().is_none_or(|data| data.contains(dir));
                Answer::VolData(there.then(VolData::default))
            }
            Action::FindVolData { .. } => Answer::VolData(self.bound.clone()),
            Action::MountRefs { .. } => Answer::Refs(Vec::new()),
            Action::Csi { call, .. } => Answer::Csi(match call {
                NodeCall::NodeStageVolume { .. } => NodeReply::NodeStageVolume,
                NodeCall::NodeUnstageVolume { .. } => NodeReply::NodeUnstageVolume,
                NodeCall::NodePublishVolume { .. } => NodeReply::NodePublishVolume,
                NodeCall::NodeUnpublishVolume { .. } => NodeReply::NodeUnpublishVolume,
                NodeCall::NodeExpandVolume { capacity, .. } => NodeReply::NodeExpandVolume { capacity_bytes: capacity.required_bytes },
                _ => NodeReply::NodeGetCapabilities(self.capabilities.clone()),
            }),
            _ => Answer::Done,
        })
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            self.machine.step(&input, &mut out).unwrap();
            for effect in out {
                match effect {
                    Effect::Do { op, action } => {
                        self.calls.push(name(&action).to_owned());
                        self.actions.push(action.clone());
                        let result = self.answer(&action);
                        inputs.push(Input::Done { op, result });
                    }
                    Effect::ReportInUse(volumes) => {
                        self.calls.push(format!("report {}", volumes.len()));
                        inputs.push(Input::Reported(volumes));
                    }
                    Effect::Record(event) => self.events.push(format!("{} {}", event.reason, event.message)),
                    Effect::Arm(timer, _) => _ = self.timers.insert(timer),
                    Effect::Disarm(timer) => _ = self.timers.remove(&timer),
                }
            }
        }
    }

    fn fire_all(&mut self) {
        for timer in std::mem::take(&mut self.timers) {
            self.feed(Input::Fired(timer));
        }
    }

    fn took(&mut self) -> String {
        std::mem::take(&mut self.calls).join(" ")
    }

    fn device(&self) -> Option<Device> {
        self.machine.mounts().next().map(|(_, device, _)| device)
    }
}

fn rpc(code: Code) -> Failure {
    Failure::Rpc(csi::Error::new(code, "no"))
}

/// Found by `ebbtide search`: a node that was cut off while it took a volume out of `volumesInUse`, and got the pod back.
#[test]
fn a_volume_that_a_report_under_way_leaves_out_is_not_mounted() {
    let mut machine = VolumeManager::new(config());
    let mut out = Vec::new();
    let mut feed = |machine: &mut VolumeManager, input: Input| {
        out.clear();
        machine.step(&input, &mut out).unwrap();
        out.clone()
    };
    feed(&mut machine, Input::Booted(Vec::new()));
    feed(&mut machine, Input::SourcesReady);
    feed(&mut machine, Input::Reported(BTreeSet::new()));
    feed(&mut machine, Input::NodeAttached(BTreeSet::from([spec().name])));
    let reports = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::ReportInUse(_)));
    let acts = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Do { .. }));
    assert!(reports(&feed(&mut machine, Input::Want(want("a")))));
    assert!(acts(&feed(&mut machine, Input::Reported(BTreeSet::from([spec().name])))));
    // The pod goes before anything was mounted, and comes back before the API knows that it had gone.
    let key = machine.running.keys().next().cloned().unwrap();
    feed(&mut machine, Input::Done { op: key.clone(), result: Err(Failure::Api("cut off".into())) });
    assert!(reports(&feed(&mut machine, Input::Unwant("a".into()))));
    feed(&mut machine, Input::Fired(Timer::Backoff(key)));
    assert!(!acts(&feed(&mut machine, Input::Want(want("b")))));
    assert!(reports(&feed(&mut machine, Input::Reported(BTreeSet::new()))));
    assert!(acts(&feed(&mut machine, Input::Reported(BTreeSet::from([spec().name])))));
}

/// Found by the reference: the flag was taken back while the attachment was read, and another pod came. What was read did not count
/// any more, for the controller may have detached in between.
#[test]
fn a_volume_whose_attachment_is_being_read_stays_in_use() {
    let mut machine = VolumeManager::new(config());
    let mut feed = |input: Input| {
        let mut out = Vec::new();
        machine.step(&input, &mut out).unwrap();
        out
    };
    let reports = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::ReportInUse(_)));
    let attached = BTreeSet::from([spec().name]);
    feed(Input::Booted(Vec::new()));
    feed(Input::SourcesReady);
    feed(Input::Reported(BTreeSet::new()));
    feed(Input::NodeAttached(attached.clone()));
    feed(Input::Want(want("a")));
    let reads = feed(Input::Reported(attached.clone()));
    let [Effect::Do { op, action: Action::ReadNode }] = reads.as_slice() else { panic!("{reads:?}") };
    assert!(!reports(&feed(Input::Unwant("a".into()))), "the attachment is being read");
    let ended = feed(Input::Done { op: op.clone(), result: Ok(Answer::Attached(attached)) });
    assert!(ended.contains(&Effect::ReportInUse(BTreeSet::new())), "{ended:?}");
}

#[test]
fn a_volume_goes_the_whole_way_and_back() {
    let mut bench = Bench::new();
    assert_eq!(bench.took(), "report 0");
    bench.feed(Input::Want(want("a")));
    assert_eq!(
        bench.took(),
        "report 1 read-node read-attachment capabilities mkdir stage capabilities mkdir publish",
        "in use is reported before the attachment is read (w1 before r1)"
    );
    assert!(bench.machine.unmounted("a").is_empty() && bench.machine.settled());
    bench.feed(Input::Want(want("b")));
    assert_eq!(bench.took(), "read-attachment capabilities mkdir publish", "a mounted device is not staged again");
    bench.feed(Input::Unwant("a".into()));
    assert_eq!(bench.took(), "read-data sub-paths unpublish remove");
    bench.feed(Input::Unwant("b".into()));
    assert_eq!(bench.took(), "read-data sub-paths unpublish remove refs read-data capabilities unstage remove report 0");
    assert!(bench.machine.settled() && bench.events.is_empty());
}

#[test]
fn a_driver_without_stage_and_attach_is_only_published() {
    let mut bench = Bench::new();
    bench.capabilities.clear();
    bench.took();
    bench.feed(Input::Want(want_with("a", VolumeSpec { attachable: false, ..spec() })));
    assert_eq!(bench.took(), "capabilities mkdir capabilities mkdir publish");
    bench.data_missing = false;
    bench.feed(Input::Unwant("a".into()));
    assert_eq!(bench.took(), "read-data sub-paths unpublish remove refs read-data capabilities remove");
}

#[test]
fn f3_the_staging_directory_of_a_driver_without_stage_stays() {
    let mut bench = Bench::new();
    bench.capabilities.clear();
    bench.data = Some(BTreeSet::new());
    bench.took();
    bench.feed(Input::Want(want_with("a", VolumeSpec { attachable: false, ..spec() })));
    assert_eq!(bench.took(), "capabilities mkdir capabilities mkdir publish");
    bench.feed(Input::Unwant("a".into()));
    // There is no vol_data.json in it, which counts as unstaged: nobody removes it.
    assert_eq!(bench.took(), "read-data sub-paths unpublish remove refs read-data");
}

#[test]
fn each_pod_unmounts_what_it_mounted_where_two_volumes_have_one_handle() {
    let mut bench = Bench::new();
    bench.capabilities.clear();
    for (pod, pv) in [("a", "pv-a"), ("b", "pv-b")] {
        bench.feed(Input::Want(want_with(pod, VolumeSpec { attachable: false, pv: pv.into(), ..spec() })));
    }
    let mounted: Vec<_> =
        bench.machine.actual.values().flat_map(|volume| &volume.pods).map(|(pod, mount)| (&**pod, &*mount.spec.pv)).collect();
    assert_eq!(mounted, [("a", "pv-a"), ("b", "pv-b")]);
}

#[test]
fn the_table_of_stage_errors() {
    // §3.5: before, error, after.
    for (code, after) in [
        (Code::DeadlineExceeded, Device::Uncertain),
        (Code::ResourceExhausted, Device::Uncertain),
        (Code::Aborted, Device::Uncertain),
        (Code::Internal, Device::NotMounted),
        (Code::NotFound, Device::NotMounted),
    ] {
        let mut bench = Bench::new();
        bench.failing = Some(("stage", rpc(code)));
        bench.feed(Input::Want(want("a")));
        assert_eq!(bench.device(), Some(after), "{code}");
        assert_eq!(bench.calls.last().unwrap() == "remove", after == Device::NotMounted, "a final error removes the directory");
        assert_eq!(
            bench.events,
            [format!("FailedMount MountVolume.MountDevice failed for volume \"pv\" : rpc error: code = {code} desc = no")]
        );
        // Uncertain is staged again; a final error from there on says that it is not mounted.
        bench.failing = Some(("stage", rpc(Code::Internal)));
        bench.fire_all();
        assert_eq!(bench.device(), Some(Device::NotMounted), "{code}");
        bench.fire_all();
        assert!(bench.machine.unmounted("a").is_empty());
    }
}

#[test]
fn an_uncertain_publish_is_undone_when_the_pod_goes() {
    for (code, undone) in [(Code::Unavailable, true), (Code::Internal, false)] {
        let mut bench = Bench::new();
        bench.failing = Some(("publish", rpc(code)));
        bench.feed(Input::Want(want("a")));
        assert_eq!(bench.machine.possibly_mounted("a"), undone, "{code}");
        bench.took();
        bench.feed(Input::Unwant("a".into()));
        bench.fire_all();
        assert_eq!(bench.took().contains("unpublish"), undone, "{code}");
        assert!(bench.machine.settled());
    }
}

#[test]
fn a_missing_vol_data_is_looked_for_each_100_ms_without_backoff() {
    let mut bench = Bench::new();
    bench.feed(Input::Want(want("a")));
    bench.data_missing = true;
    bench.feed(Input::Unwant("a".into()));
    assert_eq!(bench.timers, BTreeSet::from([Timer::Tick]));
    bench.data_missing = false;
    bench.fire_all();
    assert!(bench.machine.settled());
}

#[test]
fn a_volume_for_one_pod_refuses_a_second() {
    let mut bench = Bench::new();
    let single = || VolumeSpec { access_modes: vec![AccessMode::ReadWriteOncePod], ..spec() };
    bench.feed(Input::Want(want_with("a", single())));
    bench.feed(Input::Want(want_with("b", single())));
    assert_eq!(
        bench.events,
        [
            "FailedMount MountVolume.SetUp failed for volume \"pv\" : volume uses the ReadWriteOncePod access mode and is already in use by another pod"
        ]
    );
    bench.feed(Input::Unwant("a".into()));
    bench.fire_all();
    assert!(bench.machine.unmounted("b").is_empty());
}

#[test]
fn a_grown_volume_is_expanded_in_use() {
    let mut bench = Bench::new();
    bench.feed(Input::Want(want("a")));
    bench.took();
    bench.feed(Input::Want(want_with("a", VolumeSpec { capacity: 8 << 30, ..spec() })));
    assert_eq!(bench.took(), "", "a volume without a claim is not expanded");
    let claim = Some(ClaimRef { namespace: "default".into(), name: "c".into(), uid: "u".into() });
    bench.feed(Input::Want(want_with("a", VolumeSpec { capacity: 8 << 30, claim: claim.clone(), ..spec() })));
    assert_eq!(bench.took(), "capabilities claim expand claim");
    let text = "FileSystemResizeSuccessful MountVolume.NodeExpandVolume succeeded for volume \"pv\" n1";
    assert_eq!(bench.events, [text, text], "on the pod and on the claim");
    bench.failing = Some(("expand", rpc(Code::FailedPrecondition)));
    bench.feed(Input::Want(want_with("a", VolumeSpec { capacity: 9 << 30, claim, ..spec() })));
    bench.took();
    bench.fire_all();
    assert_eq!(bench.took(), "", "an expansion that is refused in use is not tried again");
}

#[test]
fn a_block_volume_is_mapped_and_unmapped() {
    let mut bench = Bench::new();
    bench.took();
    bench.feed(Input::Want(want_with("a", VolumeSpec { block: true, ..spec() })));
    assert_eq!(bench.took(), "report 1 read-node read-attachment capabilities mkdir stage capabilities mkdir publish map");
    assert!(bench.events.iter().all(|event| event.starts_with("SuccessfulMountVolume MapVolume.MapPodDevice succeeded for volume \"pv\"")));
    bench.feed(Input::Unwant("a".into()));
    assert_eq!(bench.took(), "read-data unmap unpublish remove-paths refs read-data capabilities unstage remove-paths report 0");
}

#[test]
fn without_the_attachment_nothing_is_mounted() {
    let mut bench = Bench::new();
    bench.feed(Input::NodeAttached(BTreeSet::new()));
    bench.took();
    bench.feed(Input::Want(want("a")));
    assert_eq!(bench.took(), "report 1", "it is reported in use, and waits");
    assert_eq!(bench.machine.unattached("a"), ["data"]);
    bench.feed(Input::Unwant("a".into()));
    assert_eq!(bench.took(), "report 0");
    assert!(bench.machine.settled());
}

proptest! {
    /// Whatever fails, in whatever order pods come and go: when the failures end, everything settles.
    #[test]
    fn it_settles_after_any_failures(steps in proptest::collection::vec((0..3u8, 0..3usize, 0..7usize, 0..6usize), 1..40)) {
        let mut bench = Bench::new();
        let calls = ["stage", "publish", "unpublish", "unstage", "capabilities", "read-attachment", "read-node"];
        let codes = [Code::Internal, Code::DeadlineExceeded, Code::Unavailable, Code::Aborted, Code::NotFound, Code::InvalidArgument];
        for (kind, pod, call, code) in steps {
            let pod = ["a", "b", "c"][pod];
            bench.failing = Some((calls[call], rpc(codes[code])));
            match kind {
                0 => bench.feed(Input::Want(want(pod))),
                1 => bench.feed(Input::Unwant(pod.into())),
                _ => bench.fire_all(),
            }
        }
        bench.failing = None;
        for _ in 0..12 {
            bench.fire_all();
        }
        prop_assert!(bench.machine.settled(), "{:?}", bench.machine);
        for pod in ["a", "b", "c"] {
            bench.feed(Input::Unwant(pod.into()));
        }
        for _ in 0..12 {
            bench.fire_all();
        }
        prop_assert!(bench.machine.settled() && bench.machine.volumes_in_use().is_empty(), "{:?}", bench.machine);
    }
}
