//! The reference: what the EBS guide says, by what a client knows.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use super::outside::instance;

pub const NODES: usize = 2;
pub const ZONES: [&str; 2] = ["us-east-1a", "us-east-1b"];

/// A volume, by what a client knows. Volumes and snapshots are named by the order in which they were made.
#[derive(Debug, Clone)]
pub struct Volume {
    pub zone: usize,
    pub shared: bool,
    pub size: u32,
    pub life: Life,
    pub attached: BTreeMap<usize, Attachment>,
    /// The size that it is being modified to.
    pub modifying: Option<u32>,
    /// Modifications of the last day.
    pub modified: usize,
    /// A snapshot of it was begun a moment ago.
    pub cut: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Creating,
    There,
    Deleting,
    Gone,
}

#[derive(Debug, Clone)]
pub struct Attachment {
    pub device: char,
    pub phase: Phase,
    /// A program in the instance uses the device.
    pub used: bool,
    pub forced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Attaching,
    Attached,
    Detaching,
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub size: u32,
    pub life: Life,
}

#[derive(Debug, Clone, Default)]
pub struct Account {
    pub volumes: Vec<Volume>,
    pub snapshots: Vec<Snapshot>,
    /// The rules that the last call broke.
    pub broken: BTreeSet<&'static str>,
}

#[derive(Debug, Clone)]
pub enum Call {
    Create {
        zone: usize,
        shared: bool,
        size: u32,
        from: Option<usize>,
    },
    Delete(usize),
    Modify(usize, u32),
    Attach(usize, usize, char),
    Detach(usize, usize, bool),
    Snapshot(usize),
    DeleteSnapshot(usize),
    /// One of the works behind the calls goes on a little: nobody sees it.
    Work(usize),
    Use(usize, usize),
    Release(usize, usize),
    /// Time passes until nothing moves any more.
    Wait,
    /// The process dies and starts again, and then time passes.
    Crash,
    /// The node loses its power and gets it back.
    PowerCut(usize),
    Day,
}

impl Account {
    /// Every rule that a call breaks, as the code of its refusal. A call that breaks none is accepted.
    pub fn refusals(&self, call: &Call) -> BTreeSet<&'static str> {
        let mut codes = BTreeSet::new();
        let volume = match *call {
            Call::Delete(v) | Call::Modify(v, _) | Call::Attach(v, ..) | Call::Detach(v, ..) | Call::Snapshot(v) => &self.volumes[v],
            Call::Create { size, from, .. } => {
                if let Some(snapshot) = from.map(|from| &self.snapshots[from]) {
                    match snapshot.life {
                        Life::Gone | Life::Deleting => drop(codes.insert("InvalidSnapshot.NotFound")),
                        Life::Creating => drop(codes.insert("IncorrectState")),
                        Life::There if size < snapshot.size => drop(codes.insert("InvalidParameterValue")),
                        Life::There => {}
                    }
                }
                return codes;
            }
            Call::DeleteSnapshot(s) => {
                if self.snapshots[s].life == Life::Gone {
                    codes.insert("InvalidSnapshot.NotFound");
                }
                return codes;
            }
            _ => return codes,
        };
        match volume.life {
            Life::Gone | Life::Deleting => return BTreeSet::from(["InvalidVolume.NotFound"]),
            Life::Creating => drop(codes.insert("IncorrectState")),
            Life::There => {}
        }
        match *call {
            Call::Delete(_) if !volume.attached.is_empty() => drop(codes.insert("VolumeInUse")),
            Call::Modify(_, size) => {
                if size < volume.size {
                    codes.insert("InvalidParameterValue");
                }
                if volume.modifying.is_some() {
                    codes.insert("IncorrectModificationState");
                }
                if volume.modified >= 4 {
                    codes.insert("VolumeModificationRateExceeded");
                }
            }
            Call::Attach(_, node, device) => {
                if ZONES[volume.zone] != ZONES[0] {
                    codes.insert("InvalidVolume.ZoneMismatch");
                }
                if volume.attached.contains_key(&node) || (!volume.shared && !volume.attached.is_empty()) {
                    codes.insert("VolumeInUse");
                }
                if self.volumes.iter().any(|other| other.attached.get(&node).is_some_and(|there| there.device == device)) {
                    codes.insert("InvalidParameterValue");
                }
            }
            Call::Detach(_, node, _) if !volume.attached.contains_key(&node) => {
                codes.insert(if volume.attached.is_empty() { "IncorrectState" } else { "InvalidAttachment.NotFound" });
            }
            Call::Snapshot(_) if volume.cut => drop(codes.insert("SnapshotCreationPerVolumeRateExceeded")),
            _ => {}
        }
        codes
    }

    /// Carries out a call that was accepted.
    fn accept(&mut self, call: &Call) {
        match *call {
            Call::Create { zone, shared, size, .. } => self.volumes.push(Volume {
                zone,
                shared,
                size,
                life: Life::Creating,
                attached: BTreeMap::new(),
                modifying: None,
                modified: 0,
                cut: false,
            }),
            Call::Delete(v) => self.volumes[v].life = Life::Deleting,
            Call::Modify(v, size) => {
                self.volumes[v].modifying = Some(size);
                self.volumes[v].modified += 1;
            }
            Call::Attach(v, node, device) => {
                let attachment = Attachment { device, phase: Phase::Attaching, used: false, forced: false };
                self.volumes[v].attached.insert(node, attachment);
            }
            Call::Detach(v, node, force) => {
                if let Some(attachment) = self.volumes[v].attached.get_mut(&node) {
                    attachment.phase = Phase::Detaching;
                    attachment.forced |= force;
                }
            }
            Call::Snapshot(v) => {
                let size = self.volumes[v].size;
                self.volumes[v].cut = true;
                self.snapshots.push(Snapshot { size, life: Life::Creating });
            }
            Call::DeleteSnapshot(s) => self.snapshots[s].life = Life::Gone,
            Call::Use(v, node) | Call::Release(v, node) => {
                if let Some(attachment) = self.volumes[v].attached.get_mut(&node) {
                    attachment.used = matches!(call, Call::Use(..));
                }
            }
            Call::PowerCut(node) => {
                let all = self.volumes.iter_mut().filter_map(|volume| volume.attached.get_mut(&node));
                all.for_each(|attachment| attachment.used = false);
                self.pass();
            }
            Call::Wait | Call::Crash => self.pass(),
            Call::Day => {
                self.pass();
                self.volumes.iter_mut().for_each(|volume| volume.modified = 0);
            }
            Call::Work(_) => {}
        }
    }

    /// Time passes: all that was begun is done, but a device that is in use is not let go.
    fn pass(&mut self) {
        for volume in &mut self.volumes {
            match volume.life {
                Life::Creating => volume.life = Life::There,
                Life::Deleting => volume.life = Life::Gone,
                Life::There | Life::Gone => {}
            }
            volume.attached.retain(|_, there| there.phase != Phase::Detaching || (there.used && !there.forced));
            volume.attached.values_mut().filter(|there| there.phase == Phase::Attaching).for_each(|there| there.phase = Phase::Attached);
            volume.size = volume.modifying.take().unwrap_or(volume.size);
            volume.cut = false;
        }
        self.snapshots.iter_mut().filter(|snapshot| snapshot.life == Life::Creating).for_each(|snapshot| snapshot.life = Life::There);
    }
}

impl ReferenceStateMachine for Account {
    type State = Self;
    type Transition = Call;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(account: &Self) -> BoxedStrategy<Call> {
        let node = 0..NODES;
        let create = (0..8usize, any::<bool>(), 4..8u32, proptest::option::weighted(0.3, 0..account.snapshots.len().max(1)));
        let some = account.snapshots.len();
        let create = create.prop_map(move |(zone, shared, size, from)| {
            // Few in a zone without instances.
            Call::Create { zone: zone / 7, shared, size, from: from.filter(|from| *from < some) }
        });
        if account.volumes.is_empty() {
            return create.boxed();
        }
        // Mostly the young ones: the old ones are soon gone.
        let volumes = account.volumes.len();
        let volume = prop_oneof![3 => volumes - 1..volumes, 3 => volumes.saturating_sub(3)..volumes, 1 => 0..volumes];
        let sizes: Vec<u32> = account.volumes.iter().map(|volume| volume.size).collect();
        let mut calls = vec![
            (3, create.boxed()),
            (3, volume.clone().prop_map(Call::Delete).boxed()),
            (7, (volume.clone(), 0..4u32).prop_map(move |(v, more)| Call::Modify(v, (sizes[v] + more).saturating_sub(1))).boxed()),
            (
                9,
                (volume.clone(), node.clone(), proptest::char::range('f', 'h'))
                    .prop_map(|(v, node, device)| Call::Attach(v, node, device))
                    .boxed(),
            ),
            (6, (volume.clone(), node.clone(), any::<bool>()).prop_map(|(v, node, force)| Call::Detach(v, node, force)).boxed()),
            (3, volume.clone().prop_map(Call::Snapshot).boxed()),
            (8, (0..8usize).prop_map(Call::Work).boxed()),
            (3, (volume.clone(), node.clone()).prop_map(|(v, node)| Call::Use(v, node)).boxed()),
            (2, (volume, node.clone()).prop_map(|(v, node)| Call::Release(v, node)).boxed()),
            (10, Just(Call::Wait).boxed()),
            (2, Just(Call::Crash).boxed()),
            (1, node.prop_map(Call::PowerCut).boxed()),
            (1, Just(Call::Day).boxed()),
        ];
        if some > 0 {
            calls.push((2, (0..some).prop_map(Call::DeleteSnapshot).boxed()));
        }
        proptest::strategy::Union::new_weighted(calls).boxed()
    }

    fn apply(mut account: Self, call: &Call) -> Self {
        account.broken = account.refusals(call);
        if account.broken.is_empty() {
            account.accept(call);
        }
        account
    }

    /// Shrinking must not leave calls that name what was never made, nor a use of a device that is not there.
    fn preconditions(account: &Self, call: &Call) -> bool {
        match *call {
            Call::Create { from, .. } => from.is_none_or(|from| from < account.snapshots.len()),
            Call::DeleteSnapshot(s) => s < account.snapshots.len(),
            Call::Use(v, node) => {
                let there = account.volumes.get(v).and_then(|volume| volume.attached.get(&node));
                there.is_some_and(|there| there.phase == Phase::Attached)
            }
            Call::Delete(v) | Call::Modify(v, _) | Call::Attach(v, ..) | Call::Detach(v, ..) | Call::Snapshot(v) | Call::Release(v, _) => {
                v < account.volumes.len()
            }
            Call::Work(_) | Call::Wait | Call::Crash | Call::PowerCut(_) | Call::Day => true,
        }
    }
}

impl Volume {
    pub fn shown(&self) -> String {
        let status = match self.life {
            Life::Creating => "creating",
            Life::There if self.attached.is_empty() => "available",
            Life::There => "in-use",
            Life::Deleting | Life::Gone => "deleting",
        };
        let attached = self.attached.iter().map(|(node, there)| (instance(*node), there)).collect::<BTreeMap<_, _>>();
        let attached: Vec<String> = attached
            .iter()
            .map(|(node, there)| format!("{node} /dev/sd{} {}", there.device, format!("{:?}", there.phase).to_lowercase()))
            .collect();
        format!("{status} {} GiB {attached:?}", self.size)
    }
}

impl Snapshot {
    pub fn shown(&self) -> String {
        format!("{} {} GiB", if self.life == Life::Creating { "pending" } else { "completed" }, self.size)
    }
}
