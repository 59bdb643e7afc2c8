//! The reference: which pods want which volumes. What a node must come to, and what it must never do, follows from this alone.

use std::collections::{BTreeMap, BTreeSet};

use model_common::csi::Code;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

/// What is special about a volume; they are named by their place in [`VOLUMES`].
#[derive(Debug)]
pub struct Kind {
    pub block: bool,
    /// An EBS volume: it is attached, and staged once a node. Else one of EFS, which is only published.
    pub attached: bool,
    /// ReadWriteOncePod.
    pub single: bool,
}

pub const VOLUMES: [Kind; 4] = [
    Kind { block: false, attached: true, single: false },
    Kind { block: true, attached: true, single: false },
    Kind { block: false, attached: false, single: false },
    Kind { block: false, attached: true, single: true },
];

/// How something that was asked for ends.
#[derive(Debug, Clone, Copy)]
pub enum How {
    Well,
    /// It takes effect, and the answer is lost.
    Lost(Code),
    /// The answer is lost, and it takes effect later.
    Late(Code),
    /// It does not take effect.
    Refused(Code),
}

#[derive(Debug, Clone)]
pub enum Step {
    /// A new pod, numbered in turn, wants these volumes.
    Want(BTreeSet<usize>),
    /// Its containers are gone.
    Unwant(usize),
    /// It is looked at again, as each minute.
    Sync(usize),
    Grow(usize),
    /// One of the actions in flight ends.
    Serve(usize, How),
    /// What a driver took too long for comes to its end.
    Late(usize),
    Fire(usize),
    /// The write of `volumesInUse` takes effect, or is answered.
    Report,
    /// The kubelet's watch shows its node.
    Watch,
    /// The attach/detach controller: attaches; takes a volume out of `volumesAttached`; reads `volumesInUse` and detaches, or gives up.
    Attach(usize),
    BeginDetach(usize),
    EndDetach(usize),
    /// Somebody else mounts what is staged a second time, or no longer.
    Borrow(usize),
    Return(usize),
    /// The kubelet dies and starts. These pods went meanwhile; calls in flight take effect (later) or do not.
    Crash {
        gone: BTreeSet<usize>,
        effect: bool,
    },
    /// After a start: all pods were given.
    Ready,
    /// All faults end, and time passes.
    Rest,
}

#[derive(Debug, Clone)]
pub struct Wishes {
    /// Whether the kubelet waits for its watch before it asks for an attachment.
    pub eager: bool,
    /// The kubelet has kubernetes#138454.
    pub finds_staged: bool,
    pub pods: BTreeMap<usize, BTreeSet<usize>>,
    pub next: usize,
    pub ready: bool,
    /// GiB.
    pub size: [u64; VOLUMES.len()],
}

impl Wishes {
    pub fn wants(&self, pod: usize, volume: usize) -> bool {
        self.pods.get(&pod).is_some_and(|volumes| volumes.contains(&volume))
    }

    pub fn wanted_by(&self, volume: usize) -> impl Iterator<Item = usize> {
        self.pods.iter().filter(move |(_, volumes)| volumes.contains(&volume)).map(|(pod, _)| *pod)
    }
}

fn code() -> impl Strategy<Value = Code> {
    prop::sample::select(&[Code::Internal, Code::Unavailable, Code::DeadlineExceeded, Code::Aborted, Code::InvalidArgument][..])
}

/// What a call that had, or may have, an effect ends with.
fn unclear() -> impl Strategy<Value = Code> {
    prop::sample::select(&[Code::DeadlineExceeded, Code::Unavailable, Code::Canceled][..])
}

impl ReferenceStateMachine for Wishes {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        any::<(bool, bool)>()
            .prop_map(|(eager, finds_staged)| Self {
                eager,
                finds_staged,
                pods: BTreeMap::new(),
                next: 0,
                ready: true,
                size: [4; VOLUMES.len()],
            })
            .boxed()
    }

    fn transitions(wishes: &Self) -> BoxedStrategy<Step> {
        let volume = 0..VOLUMES.len();
        let how = prop_oneof![
            12 => Just(How::Well),
            1 => unclear().prop_map(How::Lost),
            1 => unclear().prop_map(How::Late),
            1 => code().prop_map(How::Refused),
        ];
        let pods: Vec<usize> = wishes.pods.keys().copied().collect();
        let volumes = prop::collection::btree_set(volume.clone(), 1..3);
        let mut steps = vec![
            (if pods.len() < 4 { 4 } else { 0 }, volumes.prop_map(Step::Want).boxed()),
            (36, (0..6usize, how).prop_map(|(which, how)| Step::Serve(which, how)).boxed()),
            (6, (0..6usize).prop_map(Step::Fire).boxed()),
            (3, (0..3usize).prop_map(Step::Late).boxed()),
            (8, Just(Step::Report).boxed()),
            (4, Just(Step::Watch).boxed()),
            (8, volume.clone().prop_map(Step::Attach).boxed()),
            (2, volume.clone().prop_map(Step::BeginDetach).boxed()),
            (3, volume.clone().prop_map(Step::EndDetach).boxed()),
            (1, volume.clone().prop_map(Step::Borrow).boxed()),
            (1, volume.clone().prop_map(Step::Return).boxed()),
            (1, volume.prop_map(Step::Grow).boxed()),
            (1, Just(Step::Rest).boxed()),
            (if wishes.ready { 0 } else { 8 }, Just(Step::Ready).boxed()),
        ];
        let gone = prop::sample::subsequence(pods.clone(), 0..=pods.len()).prop_map(|gone| gone.into_iter().collect());
        steps.push((1, (gone, any::<bool>()).prop_map(|(gone, effect)| Step::Crash { gone, effect }).boxed()));
        if !pods.is_empty() {
            steps.push((3, prop::sample::select(pods.clone()).prop_map(Step::Unwant).boxed()));
            steps.push((2, prop::sample::select(pods).prop_map(Step::Sync).boxed()));
        }
        prop::strategy::Union::new_weighted(steps.into_iter().filter(|(weight, _)| *weight > 0).collect()).boxed()
    }

    fn apply(mut wishes: Self, step: &Step) -> Self {
        match step {
            Step::Want(volumes) => {
                wishes.pods.insert(wishes.next, volumes.clone());
                wishes.next += 1;
            }
            Step::Unwant(pod) => drop(wishes.pods.remove(pod)),
            Step::Grow(volume) => wishes.size[*volume] += 1,
            Step::Crash { gone, .. } => {
                wishes.pods.retain(|pod, _| !gone.contains(pod));
                wishes.ready = false;
            }
            Step::Ready | Step::Rest => wishes.ready = true,
            _ => {}
        }
        wishes
    }

    /// A kubelet that has just started knows its pods only when it is ready. A pod that is gone does not come back under its uid.
    fn preconditions(wishes: &Self, step: &Step) -> bool {
        match step {
            Step::Want(_) => wishes.ready,
            Step::Unwant(pod) | Step::Sync(pod) => wishes.ready && wishes.pods.contains_key(pod),
            Step::Grow(volume) => wishes.ready && VOLUMES[*volume].attached && wishes.size[*volume] < 8,
            Step::Attach(volume) | Step::BeginDetach(volume) | Step::EndDetach(volume) => VOLUMES[*volume].attached,
            Step::Borrow(volume) | Step::Return(volume) => VOLUMES[*volume].attached,
            Step::Crash { gone, .. } => gone.iter().all(|pod| wishes.pods.contains_key(pod)),
            Step::Ready => !wishes.ready,
            _ => true,
        }
    }
}
