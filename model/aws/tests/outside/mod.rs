//! The outside of the EC2 machine for tests: files, loop devices and device names as plain data, works in flight, timers, and a
//! store of records. Works are performed and reported in two steps, so that a crash can come between.
#![allow(dead_code)] // each test uses its part

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use model_aws::ec2::{
    AttachmentStatus, Command, CreateVolume, Effect, Failure, Have, Input, InstanceId, Observed, ObservedDevice, Reject, State, Timer,
    VolumeKey, Work,
};
use model_aws::world::{Instance, World as Given};
use model_aws::{At, Profile};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outside {
    pub state: State,
    /// What a store would have: table and key to value.
    pub saved: BTreeMap<(String, String), Vec<u8>>,
    /// File id to bytes.
    pub files: BTreeMap<String, u64>,
    /// Loop devices that are up, by volume id.
    pub loops: BTreeSet<String>,
    /// Names in a node: instance and volume id to device name and bytes.
    pub names: BTreeMap<(InstanceId, String), (String, u64)>,
    /// Devices that are mounted.
    pub mounted: BTreeSet<(InstanceId, String)>,
    /// Works that were started, and how they ended when they were performed.
    pub works: BTreeMap<Work, Option<Result<(), Failure>>>,
    pub timers: BTreeSet<Timer>,
    pub connected: BTreeSet<InstanceId>,
}

/// A world with `n` nodes in one zone.
pub fn nodes(n: u8) -> Given {
    let mut given = Given::default();
    given.instances =
        (0..n).map(|index| Instance { private_ip: Ipv4Addr::new(10, 0, 1, 10 + index), ..given.instances[0].clone() }).collect();
    given
}

pub fn instance(index: usize) -> InstanceId {
    nodes(4).instance_id(index).into()
}

impl Outside {
    /// A new world whose agents are connected.
    pub fn new(given: &Given, profile: Profile) -> Self {
        let mut outside = Self {
            state: State::new(given, profile),
            saved: BTreeMap::new(),
            files: BTreeMap::new(),
            loops: BTreeSet::new(),
            names: BTreeMap::new(),
            mounted: BTreeSet::new(),
            works: BTreeMap::new(),
            timers: BTreeSet::new(),
            connected: BTreeSet::new(),
        };
        for index in 0..given.instances.len() {
            outside.connect(&given.instance_id(index).as_str().into());
        }
        outside
    }

    /// One step with what the shell does after it: save, then timers and works.
    pub fn step(&mut self, input: &Input) -> Result<(), Reject> {
        let mut effects = Vec::new();
        let before = self.state.clone();
        let verdict = self.state.step(At(0), &model_aws::kms::State::new(&Given::default()), input, &mut effects);
        if verdict.is_err() {
            assert_eq!(before, self.state, "a rejected input changed something: {input:?}");
            assert!(effects.is_empty());
        }
        for dirty in self.state.take_dirty() {
            let key = (dirty.table.to_owned(), dirty.key);
            match dirty.value {
                Some(value) => self.saved.insert(key, value),
                None => self.saved.remove(&key),
            };
        }
        for effect in effects {
            match effect {
                Effect::Reply(_) => {}
                Effect::Arm(timer, _) => drop(self.timers.insert(timer)),
                Effect::Disarm(timer) => drop(self.timers.remove(&timer)),
                Effect::Run(work) => {
                    if let Some(volume) = volume_of(&work) {
                        let other = self.works.keys().find(|other| volume_of(other) == Some(volume));
                        assert_eq!(other, None, "two works on one volume");
                    }
                    assert!(self.works.insert(work, None).is_none(), "the same work twice");
                }
            }
        }
        verdict
    }

    pub fn command(&mut self, command: Command) -> Result<(), Reject> {
        self.step(&Input::Command(command))
    }

    /// Makes a volume and lets it become available.
    pub fn volume(&mut self, request: CreateVolume) -> String {
        let request = CreateVolume {
            zone: Some("us-east-1a".to_owned()),
            volume_type: request.volume_type.or(Some("gp3".to_owned())),
            size_gib: request.size_gib.or(Some(4)),
            ..request
        };
        self.command(Command::CreateVolume(request)).unwrap();
        let key = self.state.volumes().last().unwrap().key;
        self.settle();
        self.id(key)
    }

    pub fn id(&self, key: VolumeKey) -> String {
        key.id(self.state.seed())
    }

    pub fn attach(&mut self, volume: &str, instance: &InstanceId) -> Result<(), Reject> {
        let device = format!("/dev/xvd{}", &volume[volume.len() - 1..].replace(|c: char| c.is_ascii_digit(), "b"));
        self.attach_as(volume, instance, &device)
    }

    pub fn attach_as(&mut self, volume: &str, instance: &InstanceId, device: &str) -> Result<(), Reject> {
        self.command(Command::AttachVolume {
            volume_id: volume.to_owned(),
            instance_id: instance.to_string(),
            device: device.to_owned(),
            card_index: None,
        })
    }

    pub fn detach(&mut self, volume: &str, instance: &InstanceId, force: bool) -> Result<(), Reject> {
        self.command(Command::DetachVolume { volume_id: volume.to_owned(), instance_id: Some(instance.to_string()), device: None, force })
    }

    /// Does a work for real, if it can be done; the machine is not told yet.
    pub fn perform(&mut self, work: &Work) {
        let seed = self.state.seed();
        let result = match work {
            Work::MakeFile { volume, bytes, .. } | Work::GrowFile { volume, bytes } => {
                self.files.insert(volume.id(seed), *bytes);
                Ok(())
            }
            Work::RemoveFile { volume } => {
                self.files.remove(&volume.id(seed));
                Ok(())
            }
            Work::CopySnapshot { snapshot, volume, bytes, .. } if self.files.contains_key(&volume.id(seed)) => {
                self.files.insert(snapshot.id(seed), *bytes);
                Ok(())
            }
            Work::CopySnapshot { .. } => Err(Failure::Failed { message: "no such file".to_owned() }),
            Work::RemoveSnapshot { snapshot } => {
                self.files.remove(&snapshot.id(seed));
                Ok(())
            }
            Work::RemoveStray { id } => {
                self.files.remove(id);
                Ok(())
            }
            Work::Attach { instance, .. }
            | Work::Detach { instance, .. }
            | Work::Resize { instance, .. }
            | Work::DetachStray { instance, .. }
                if !self.connected.contains(instance) =>
            {
                Err(Failure::Lost)
            }
            Work::Attach { volume, instance, device, bytes } => {
                assert!(self.files.contains_key(&volume.id(seed)), "a device over a file that is not there");
                self.loops.insert(volume.id(seed));
                self.names.insert((instance.clone(), volume.id(seed)), (device.clone(), *bytes));
                Ok(())
            }
            Work::Resize { volume, instance, bytes } => {
                if let Some((_, shown)) = self.names.get_mut(&(instance.clone(), volume.id(seed))) {
                    *shown = *bytes;
                }
                Ok(())
            }
            Work::Detach { volume, instance, last, force, .. } => self.lower(&volume.id(seed), instance, *last, *force),
            Work::DetachStray { instance, volume_id, .. } => self.lower(volume_id, instance, true, false),
        };
        self.works.insert(work.clone(), Some(result));
    }

    fn lower(&mut self, volume: &str, instance: &InstanceId, last: bool, force: bool) -> Result<(), Failure> {
        let key = (instance.clone(), volume.to_owned());
        if self.mounted.contains(&key) && !force {
            return Err(Failure::Busy { holder: "mounted".to_owned() });
        }
        self.mounted.remove(&key);
        self.names.remove(&key);
        if last {
            self.loops.remove(volume);
        }
        Ok(())
    }

    /// Tells the machine how a work ended.
    pub fn report(&mut self, work: &Work) {
        if let Some(Some(result)) = self.works.remove(work) {
            self.step(&Input::Done(work.clone(), result)).unwrap();
        }
    }

    pub fn connect(&mut self, instance: &InstanceId) {
        self.connected.insert(instance.clone());
        let devices = self.names.iter().filter(|((of, _), _)| of == instance).map(|((_, volume), (device, bytes))| ObservedDevice {
            volume_id: volume.clone(),
            device: device.clone(),
            bytes: *bytes,
        });
        let devices = devices.collect();
        self.step(&Input::Connected { instance: instance.clone(), no_devices: None, devices }).unwrap();
    }

    /// The agent's connection breaks: works on the instance are lost, done or not.
    pub fn disconnect(&mut self, instance: &InstanceId) {
        self.connected.remove(instance);
        let lost: Vec<Work> = self.works.keys().filter(|work| instance_of(work) == Some(instance)).cloned().collect();
        for work in lost {
            self.works.remove(&work);
            self.step(&Input::Done(work, Err(Failure::Lost))).unwrap();
        }
        self.step(&Input::Disconnected { instance: instance.clone() }).unwrap();
    }

    /// The node dies: its names and mounts are gone. Loop devices belong to the machine and stay.
    pub fn kill_node(&mut self, instance: &InstanceId) {
        self.disconnect(instance);
        self.names.retain(|(of, _), _| of != instance);
        self.mounted.retain(|(of, _)| of != instance);
    }

    /// The process dies and starts again with what was saved. Works that were out are cut off where they stand.
    pub fn crash(&mut self, given: &Given, profile: Profile) {
        let records = self.saved.iter().map(|((table, key), value)| (table.as_str(), key.as_str(), value.as_slice()));
        let loaded = model_aws::Aws::load(given, profile, records).unwrap();
        self.state = loaded.ec2;
        self.works.clear();
        self.timers.clear();
        self.connected.clear();
        let of =
            |prefix: &str| self.files.iter().filter(|(id, _)| id.starts_with(prefix)).map(|(id, bytes)| (id.clone(), *bytes)).collect();
        let observed = Observed { volumes: of("vol-"), snapshots: of("snap-") };
        self.step(&Input::Booted(observed)).unwrap();
    }

    /// Left alone: works end, timers that are short fire, agents connect, nobody holds a device. False: it does not come to rest.
    pub fn settle(&mut self) -> bool {
        let all: Vec<InstanceId> = self.state.instances().map(|instance| instance.id.clone()).collect();
        for _ in 0..40 {
            for id in &all {
                if !self.connected.contains(id) {
                    self.connect(id);
                }
            }
            let works: Vec<Work> = self.works.keys().cloned().collect();
            let timers: Vec<Timer> = self.timers.iter().filter(|timer| short(timer)).cloned().collect();
            if works.is_empty() && timers.is_empty() {
                return true;
            }
            for work in works {
                if self.works.get(&work).is_some_and(Option::is_none) {
                    self.perform(&work);
                }
                self.report(&work);
            }
            for timer in timers {
                if self.timers.remove(&timer) {
                    self.step(&Input::Fired(timer)).unwrap();
                }
            }
        }
        false
    }

    /// What must hold at every moment; none: all does.
    pub fn violation(&self) -> Option<String> {
        let seed = self.state.seed();
        for volume in self.state.volumes() {
            let id = volume.key.id(seed);
            if !volume.spec.multi_attach && self.names.keys().filter(|(_, of)| *of == id).count() > 1 {
                return Some(format!("{id} has devices on two nodes"));
            }
            for (instance, attachment) in &volume.attachments {
                let known = self.connected.contains(instance) && attachment.status() == AttachmentStatus::Attached;
                if known && !self.names.contains_key(&(instance.clone(), id.clone())) {
                    return Some(format!("{id} shows attached on {instance} without a device"));
                }
            }
        }
        let bare = self.names.keys().find(|(_, volume)| !self.loops.contains(volume));
        bare.map(|(instance, volume)| format!("{instance} has a name for {volume} without a loop device"))
    }

    /// What must hold when it has come to rest; none: all does.
    pub fn unrest(&self) -> Option<String> {
        let seed = self.state.seed();
        let mut names = BTreeSet::new();
        for volume in self.state.volumes() {
            let id = volume.key.id(seed);
            if !volume.wanted {
                return Some(format!("{id} is still deleting"));
            }
            if volume.running.is_some() {
                return Some(format!("{id} has a work in flight that nobody does"));
            }
            for (instance, attachment) in &volume.attachments {
                if attachment.status() != AttachmentStatus::Attached {
                    return Some(format!("{id} is still {} on {instance}", attachment.status().name()));
                }
                let shown = self.names.get(&(instance.clone(), id.clone())).map(|(_, bytes)| *bytes);
                if attachment.have != (Have::Up { bytes: volume.spec.bytes() }) || shown != Some(volume.spec.bytes()) {
                    return Some(format!("{id} on {instance}: state {:?}, device {shown:?}", attachment.have));
                }
                names.insert((instance.clone(), id.clone()));
            }
            if self.files.get(&id) != Some(&volume.spec.bytes()) {
                return Some(format!("the file of {id} is {:?}", self.files.get(&id)));
            }
        }
        if self.names.keys().cloned().collect::<BTreeSet<_>>() != names {
            return Some(format!("devices without attachment: {:?}", self.names));
        }
        let held: BTreeSet<String> = names.into_iter().map(|(_, volume)| volume).collect();
        if self.loops != held {
            return Some(format!("loop devices leaked: {:?}", self.loops));
        }
        let known = |id: &String| {
            self.state.volumes().any(|volume| volume.key.id(seed) == *id)
                || self.state.snapshots().any(|snapshot| snapshot.key.id(seed) == *id)
        };
        self.files.keys().find(|id| !known(id)).map(|id| format!("the file of {id} leaked"))
    }

    /// Left alone it comes to rest with nothing left over.
    pub fn comes_to_rest(&self) -> Result<(), String> {
        let mut copy = self.clone();
        copy.mounted.clear();
        if !copy.settle() {
            return Err(format!("no rest: works {:?}, timers {:?}", copy.works, copy.timers));
        }
        copy.unrest().map_or(Ok(()), Err)
    }
}

/// Timers that fire while one watches.
fn short(timer: &Timer) -> bool {
    match timer {
        Timer::Settle(_)
        | Timer::Attachment(..)
        | Timer::Retry(_)
        | Timer::Modification(_)
        | Timer::Snapshot(_)
        | Timer::SnapshotRetry(_)
        | Timer::SnapshotRate(_)
        | Timer::Strays(_)
        | Timer::Metadata(_)
        | Timer::Hold(..)
        | Timer::SnapshotHold(_)
        | Timer::FastRestore(..) => true,
        Timer::ModificationForgotten(..) | Timer::Token(_) | Timer::LockCoolOff(_) | Timer::LockEnd(_) => false,
    }
}

/// The volume that a work is on, where at most one may be.
fn volume_of(work: &Work) -> Option<VolumeKey> {
    match work {
        Work::MakeFile { volume, .. }
        | Work::GrowFile { volume, .. }
        | Work::RemoveFile { volume }
        | Work::Attach { volume, .. }
        | Work::Detach { volume, .. }
        | Work::Resize { volume, .. } => Some(*volume),
        Work::CopySnapshot { .. } | Work::RemoveSnapshot { .. } | Work::DetachStray { .. } | Work::RemoveStray { .. } => None,
    }
}

fn instance_of(work: &Work) -> Option<&InstanceId> {
    match work {
        Work::Attach { instance, .. }
        | Work::Detach { instance, .. }
        | Work::Resize { instance, .. }
        | Work::DetachStray { instance, .. } => Some(instance),
        Work::MakeFile { .. }
        | Work::GrowFile { .. }
        | Work::RemoveFile { .. }
        | Work::CopySnapshot { .. }
        | Work::RemoveSnapshot { .. }
        | Work::RemoveStray { .. } => None,
    }
}
