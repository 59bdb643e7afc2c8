//! AWS in the virtual world: its machines, the work on virtual files and devices, and what the drivers ask of it.

mod ask;
mod device;
mod faults;

use std::collections::BTreeMap;

use model_aws::ec2::{self, Observed};
use model_aws::{Effect, Input, Reject, efs, faults as table, kms};

use super::clock::Part;
use super::{Event, Timer, World};
use crate::invariants::Seen;

/// Requests are not told apart here.
const REQUEST_ID: &str = "00000000-0000-0000-0000-000000000000";

/// What a command of either machine gave back.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Ec2(ec2::Reply),
    Efs(efs::Reply),
    Faults(table::Reply),
}

/// A refusal as AWS words it: code, text and HTTP status.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub code: String,
    pub message: String,
    pub status: u16,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Ec2(reject) => reject.into(),
            Reject::Efs(reject) => reject.into(),
            Reject::Kms(reject) => {
                let (code, status) = kms::reject_to_error(&reject);
                Self { code: code.into(), message: reject.to_string(), status }
            }
            Reject::Faults(reject) => Self { code: "InternalError".into(), message: reject.to_string(), status: 500 },
        }
    }
}

impl From<ec2::Reject> for Refusal {
    fn from(reject: ec2::Reject) -> Self {
        let (code, message, status) = ec2::reject_to_error(&reject);
        Self { code: code.into(), message, status }
    }
}

impl From<efs::Reject> for Refusal {
    fn from(reject: efs::Reject) -> Self {
        let error = efs::reject_to_error(&reject);
        Self { code: error.code.into(), message: error.message, status: error.status }
    }
}

pub(super) fn tag_items(tags: &BTreeMap<String, String>) -> Vec<ec2::TagItem> {
    tags.iter().map(|(key, value)| ec2::TagItem { key: key.clone(), value: Some(value.clone()) }).collect()
}

fn unsigned(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

impl World {
    /// Both machines start with nothing on disk, and the agents of all nodes connect.
    pub(super) fn boot_aws(&mut self) -> Result<(), String> {
        let mut inputs =
            vec![Input::Ec2(ec2::Input::Booted(Observed::default())), Input::Efs(efs::Input::Booted { trees: Default::default() })];
        let instances: Vec<_> = self.aws.ec2.instances().filter(|instance| instance.node.is_some()).map(|i| i.id.clone()).collect();
        inputs.extend(
            instances.into_iter().map(|instance| Input::Ec2(ec2::Input::Connected { instance, no_devices: None, devices: Vec::new() })),
        );
        inputs.into_iter().try_for_each(|input| self.aws(input).map(drop).map_err(|refusal| refusal.message))
    }

    /// A step of AWS. Replies come back at once; the rest takes its time.
    pub(super) fn aws(&mut self, input: Input) -> Result<Option<Reply>, Refusal> {
        let mut effects = Vec::new();
        let verdict = self.aws.step(self.at(), &input, &mut effects);
        self.input("aws").value(&input).verdict(&verdict).value(&effects);
        verdict?;
        let mut reply = None;
        for effect in effects {
            match effect {
                Effect::Ec2(ec2::Effect::Reply(given)) => reply = Some(Reply::Ec2(given)),
                Effect::Efs(efs::Effect::Reply(given)) => reply = Some(Reply::Efs(given)),
                Effect::Ec2(ec2::Effect::Arm(timer, span)) => self.arm(Timer::Ec2(timer), span),
                Effect::Efs(efs::Effect::Arm(timer, span)) => self.arm(Timer::Efs(timer), span),
                Effect::Ec2(ec2::Effect::Disarm(timer)) => self.clock.disarm(&Timer::Ec2(timer)),
                Effect::Efs(efs::Effect::Disarm(timer)) => self.clock.disarm(&Timer::Efs(timer)),
                Effect::Ec2(ec2::Effect::Run(work)) => {
                    self.cut(&work);
                    self.soon(Part::Device, Event::Device(Box::new(work)));
                }
                Effect::Efs(efs::Effect::Work(work)) => self.soon(Part::Device, Event::Tree(work)),
                // Nobody in this world changes keys, so none is replied and none is to be deleted.
                Effect::Kms(_) => {}
                Effect::Faults(table::Effect::Arm(timer, span)) => self.arm(Timer::Fault(timer), span),
                Effect::Faults(table::Effect::Disarm(timer)) => self.clock.disarm(&Timer::Fault(timer)),
                Effect::Faults(table::Effect::Reply(given)) => reply = Some(Reply::Faults(given)),
                Effect::Faults(_) => {}
            }
        }
        // The virtual disk is the memory itself: nothing is to be saved.
        for key in self.aws.ec2.take_changed_volumes() {
            self.volume_changed(key);
        }
        Ok(reply)
    }

    /// Tells the invariants what became of a volume.
    fn volume_changed(&mut self, key: ec2::VolumeKey) {
        let id = key.id(self.aws.ec2.seed());
        let now = self.clock.now();
        let Some(volume) = self.aws.ec2.volume(key) else {
            if self.attachments.remove(&id).is_some() {
                self.watch.see(now, &Seen::VolumeDeleted { volume: &id });
            }
            return;
        };
        let instances: BTreeMap<String, &'static str> =
            volume.attachments.iter().map(|(instance, attachment)| (instance.to_string(), attachment.status().name())).collect();
        match self.attachments.get(&id) {
            Some(known) if *known == instances => return,
            Some(_) => {}
            None => self.watch.see(now, &Seen::VolumeMade { volume: &id, multi_attach: volume.spec.multi_attach, tags: &volume.tags }),
        }
        if !instances.is_empty() || self.attachments.contains_key(&id) {
            self.watch.see(now, &Seen::Attachments { volume: &id, instances: &instances });
            self.trace_attachments(&id, &instances);
        }
        self.attachments.insert(id, instances);
    }
}
