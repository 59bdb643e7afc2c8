//! The volume manager beside a reference: what pods want. Calls fail, are lost and take effect late, the kubelet dies at any point,
//! the attach/detach controller detaches what nobody uses. No action may ever be wrong (kubernetes-storage-path.md §2.5, §3.3, §3.5,
//! §3.6), and where all is left alone the node comes to just what the pods want.

mod checks;
mod outside;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model_common::csi::NodeReply;
use model_common::fixes::Fix;
use model_node::pending::Key;
use model_node::volume_manager::{
    AccessMode, Action, Answer, ClaimRef, Config, Effect, FsGroupPolicy, Input, Layout, PodVolume, PodWant, Timer, VolData, VolumeManager,
    VolumeName, VolumeSpec,
};
use outside::{GIB, Mount, NODE, Outside, driver, handle, name, number, uid};
use proptest::prelude::*;
use proptest_state_machine::{StateMachineTest, prop_state_machine};
use wishes::{How, Step, VOLUMES, Wishes};

struct Kubelet {
    machine: VolumeManager,
    outside: Outside,
    flying: BTreeMap<Key, Action>,
    /// The write of `volumesInUse`, and whether it has taken effect.
    reporting: Option<(BTreeSet<VolumeName>, bool)>,
    timers: BTreeSet<Timer>,
    /// The waits that were asked for since the start.
    waits: BTreeMap<VolumeName, BTreeSet<Duration>>,
    /// All pods were given.
    ready: bool,
    /// Staged for certain: the driver said so to this kubelet.
    staged: BTreeSet<usize>,
    /// What a crash made this kubelet forget: nothing in a pod's directory shows it (#121937, open). With kubernetes#138454 it forgets
    /// no volume that is staged.
    lost_stages: BTreeSet<usize>,
    lost_mounts: BTreeSet<Mount>,
}

fn layout() -> Layout {
    Layout { root: "/k".into() }
}

fn config(wishes: &Wishes) -> Config {
    let fixes = wishes.finds_staged.then_some(Fix::StagedVolumesAreFound).into_iter().collect();
    Config { node: NODE.into(), layout: layout(), eager: wishes.eager, fixes }
}

impl Kubelet {
    fn feed(&mut self, wishes: &Wishes, input: Input) {
        let mut out = Vec::new();
        self.machine.step(&input, &mut out).expect("these inputs fit");
        for effect in out {
            match effect {
                Effect::Do { op, action } => {
                    self.check(wishes, &op, &action);
                    let twice = self.flying.insert(op.clone(), action);
                    assert_eq!(twice, None, "two actions in flight for {op:?}");
                }
                Effect::ReportInUse(volumes) => {
                    assert_eq!(self.reporting.replace((volumes, false)), None, "two writes of volumesInUse at once");
                }
                Effect::Record(_) => {}
                Effect::Arm(timer, wait) => {
                    self.check_wait(&timer, wait);
                    self.timers.insert(timer);
                }
                Effect::Disarm(timer) => drop(self.timers.remove(&timer)),
            }
        }
        for key in self.flying.keys().filter(|key| !key.volume.is_empty()) {
            let beside = self.flying.keys().filter(|other| other.volume == key.volume);
            // Only unmounts of different pods run side by side.
            assert!(!key.pod.is_empty() || beside.count() == 1, "an operation on the volume beside another: {:?}", self.flying);
        }
    }

    fn spec(&self, wishes: &Wishes, volume: usize) -> VolumeSpec {
        let kind = &VOLUMES[volume];
        let data = VolData {
            spec_vol_id: format!("pv-{volume}"),
            volume_handle: handle(volume),
            driver_name: driver(volume).to_owned(),
            ..VolData::default()
        };
        let claim = ClaimRef { namespace: "default".into(), name: format!("c-{volume}"), uid: format!("u-{volume}") };
        VolumeSpec {
            attachable: kind.attached,
            claim: kind.attached.then_some(claim),
            capacity: wishes.size[volume] * GIB,
            claim_capacity: self.outside.claimed[volume] * GIB,
            access_modes: vec![if kind.single { AccessMode::ReadWriteOncePod } else { AccessMode::ReadWriteOnce }],
            fs_type: "ext4".into(),
            fs_group_policy: FsGroupPolicy::File,
            republish: !kind.attached,
            ..VolumeSpec::from_vol_data(&data, kind.block)
        }
    }

    fn want(&mut self, wishes: &Wishes, pod: usize) {
        let Some(volumes) = wishes.pods.get(&pod) else { return };
        let volumes = volumes.iter().map(|volume| PodVolume {
            name: format!("data-{volume}"),
            spec: Arc::new(self.spec(wishes, *volume)),
            read_only: false,
            fs_group: (*volume == 0).then_some(2000),
            on_root_mismatch: false,
        });
        let want = PodWant {
            uid: uid(pod).into(),
            namespace: "default".into(),
            name: uid(pod),
            service_account: "default".into(),
            volumes: volumes.collect(),
        };
        self.feed(wishes, Input::Want(want));
    }

    fn serve(&mut self, wishes: &Wishes, which: usize, how: How) {
        let Some(key) = self.flying.keys().nth(which % self.flying.len().max(1)).cloned() else { return };
        let action = self.flying.remove(&key).expect("it is one of its keys");
        let result = self.outside.answer(&key, &action, how);
        if let Ok(Answer::Csi(NodeReply::NodeStageVolume)) = result {
            self.staged.insert(number(&key.volume));
        }
        if let Ok(Answer::StillMounted) = result {
            panic!("{action:?}: unmounted well, and still mounted");
        }
        self.feed(wishes, Input::Done { op: key, result });
    }

    fn fire(&mut self, wishes: &Wishes, which: usize) {
        let Some(timer) = self.timers.iter().nth(which % self.timers.len().max(1)).cloned() else { return };
        self.timers.remove(&timer);
        self.feed(wishes, Input::Fired(timer));
    }

    fn report(&mut self, wishes: &Wishes) {
        match self.reporting.take() {
            Some((volumes, false)) => {
                self.outside.in_use.clone_from(&volumes);
                self.reporting = Some((volumes, true));
            }
            Some((volumes, true)) => self.feed(wishes, Input::Reported(volumes)),
            None => {}
        }
    }

    fn watch(&mut self, wishes: &Wishes) {
        self.feed(wishes, Input::NodeAttached(self.outside.listed_names()));
    }

    fn crash(&mut self, wishes: &Wishes, effect: bool) {
        for action in std::mem::take(&mut self.flying).into_values() {
            if let Action::Csi { call, .. } = action
                && effect
                && !call.volume_id().is_empty()
                && !self.outside.late.iter().any(|late| late.volume_id() == call.volume_id())
            {
                self.outside.late.push(call);
            }
        }
        if let Some((volumes, false)) = self.reporting.take().filter(|_| effect) {
            self.outside.in_use = volumes;
        }
        self.machine = VolumeManager::new(config(wishes));
        self.timers.clear();
        self.waits.clear();
        self.staged.clear();
        self.outside.refused.clear();
        self.ready = false;
        let found = self.outside.found();
        let of_pods = found.iter().filter_map(|found| Some((number(found.pod.as_ref()?), number(&found.pv))));
        let shows: BTreeSet<Mount> = of_pods.collect();
        for volume in 0..VOLUMES.len() {
            match shows.iter().any(|(_, of)| *of == volume) {
                true => drop(self.lost_stages.remove(&volume)),
                false if self.outside.stages(volume) && !wishes.finds_staged => drop(self.lost_stages.insert(volume)),
                false => {}
            }
            self.lost_mounts.extend(self.outside.mounts(volume).filter(|mount| !shows.contains(mount)));
        }
        self.feed(wishes, Input::Booted(found));
    }

    fn all_given(&mut self, wishes: &Wishes) {
        for pod in wishes.pods.keys() {
            self.want(wishes, *pod);
        }
        self.ready = true;
        self.feed(wishes, Input::SourcesReady);
    }

    fn rest(&mut self, wishes: &Wishes) {
        while !self.outside.late.is_empty() {
            self.outside.end_late(0);
        }
        if !self.ready {
            self.all_given(wishes);
        }
        for round in 0..20 {
            if round == 2 {
                self.outside.borrowed.clear();
            }
            for volume in (0..VOLUMES.len()).filter(|volume| VOLUMES[*volume].attached) {
                self.outside.end_detach(volume);
                match wishes.wanted_by(volume).next() {
                    Some(_) => self.outside.attach(volume),
                    None => self.outside.begin_detach(volume),
                }
            }
            self.watch(wishes);
            if round < 3 || round == 8 {
                for pod in wishes.pods.keys() {
                    self.want(wishes, *pod);
                }
            }
            while !self.flying.is_empty() || self.reporting.is_some() {
                self.report(wishes);
                self.serve(wishes, 0, How::Well);
            }
            for timer in self.timers.clone() {
                if self.timers.remove(&timer) {
                    self.feed(wishes, Input::Fired(timer));
                }
            }
            if round > 8 && self.machine.settled() {
                break;
            }
        }
        self.check_rest(wishes);
    }
}

impl StateMachineTest for Kubelet {
    type SystemUnderTest = Self;
    type Reference = Wishes;

    fn init_test(wishes: &Wishes) -> Self {
        let mut kubelet = Self {
            machine: VolumeManager::new(config(wishes)),
            outside: Outside::new(layout()),
            flying: BTreeMap::new(),
            reporting: None,
            timers: BTreeSet::new(),
            waits: BTreeMap::new(),
            ready: false,
            staged: BTreeSet::new(),
            lost_stages: BTreeSet::new(),
            lost_mounts: BTreeSet::new(),
        };
        kubelet.feed(wishes, Input::Booted(Vec::new()));
        kubelet.all_given(wishes);
        kubelet
    }

    fn apply(mut kubelet: Self, wishes: &Wishes, step: Step) -> Self {
        match step {
            Step::Want(_) => kubelet.want(wishes, wishes.next - 1),
            Step::Unwant(pod) => kubelet.feed(wishes, Input::Unwant(uid(pod).into())),
            Step::Sync(pod) => kubelet.want(wishes, pod),
            // The pods' next look shows it.
            Step::Grow(_) => {}
            Step::Serve(which, how) => kubelet.serve(wishes, which, how),
            Step::Late(which) => kubelet.outside.end_late(which),
            Step::Fire(which) => kubelet.fire(wishes, which),
            Step::Report => kubelet.report(wishes),
            Step::Watch => kubelet.watch(wishes),
            Step::Attach(volume) => kubelet.outside.attach(volume),
            Step::BeginDetach(volume) => kubelet.outside.begin_detach(volume),
            Step::EndDetach(volume) => kubelet.outside.end_detach(volume),
            Step::Borrow(volume) if kubelet.outside.staged.contains(&volume) => drop(kubelet.outside.borrowed.insert(volume)),
            Step::Borrow(_) => {}
            Step::Return(volume) => drop(kubelet.outside.borrowed.remove(&volume)),
            Step::Crash { effect, .. } => kubelet.crash(wishes, effect),
            Step::Ready => kubelet.all_given(wishes),
            Step::Rest => kubelet.rest(wishes),
        }
        kubelet
    }

    fn check_invariants(kubelet: &Self, wishes: &Wishes) {
        let outside = &kubelet.outside;
        for volume in &outside.staged {
            let known = !kubelet.lost_stages.contains(volume);
            assert!(!known || outside.devices.contains(volume), "volume {volume} was detached while staged");
            assert!(!known || outside.in_use.contains(&name(*volume)), "volume {volume} is staged, and not in volumesInUse");
        }
        for mount in &outside.published {
            // While a mount runs, the node's own look at the pod's directory shows it (§3.9).
            let runs = kubelet.flying.contains_key(&Key::volume(&name(mount.1)));
            let may = runs || kubelet.machine.possibly_mounted(&uid(mount.0));
            assert!(may || kubelet.lost_mounts.contains(mount), "{mount:?} is mounted, and the kubelet does not know");
        }
        for (pod, volumes) in wishes.pods.iter().filter(|(pod, _)| kubelet.ready && kubelet.machine.unmounted(&uid(**pod)).is_empty()) {
            for volume in volumes {
                let mount = (*pod, *volume);
                assert!(outside.published.contains(&mount), "{mount:?} counts as mounted");
                assert!(!VOLUMES[*volume].block || outside.linked.contains(&mount), "{mount:?} counts as mapped");
                assert!(*volume != 0 || outside.grouped.contains(&mount), "{mount:?} is not its group's");
            }
        }
    }

    fn teardown(mut kubelet: Self, wishes: Wishes) {
        kubelet.rest(&wishes);
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// No action is wrong, and a node that is left alone has what its pods want.
    #[test]
    fn a_node_comes_to_what_its_pods_want(sequential 1..120 => Kubelet);
}
