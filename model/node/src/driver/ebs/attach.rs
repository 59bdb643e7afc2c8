//! ControllerPublishVolume and ControllerUnpublishVolume (`cloud.go` AttachDisk, DetachDisk, WaitForAttachmentState).

use std::collections::BTreeMap;

use model_common::csi::{Code, ControllerReply, Error, VolumeCapability};

use super::names::Given;
use super::{CallId, DEVICE_PATH, Event, Next, Shared, already_working, invalid, supported};
use crate::driver::cloud::{Attachment, CloudCall, CloudError, CloudReply, Instance, Volume, VolumeQuery};
use crate::driver::wait::{Looks, Schedule, TIMED_OUT};

/// After this time `attaching` counts as stuck.
const STUCK_SECONDS: u64 = 90;
/// How often a restored volume is asked whether its blocks are all there (the real driver's slow batch).
const INITIALIZATION_POLL: std::time::Duration = std::time::Duration::from_secs(120);

type Answer = Result<CloudReply, CloudError>;

fn describe(volume_id: &str) -> Next {
    Next::Ask(CloudCall::DescribeVolumes(VolumeQuery::Id(volume_id.to_owned())))
}

/// `getInstance`: exactly one, or why not. `None` is "not found".
fn one_instance(answer: &Answer, node_id: &str) -> Result<Option<Instance>, String> {
    match answer {
        Ok(CloudReply::Instances(instances)) => match instances.as_slice() {
            [instance] => Ok(Some(instance.clone())),
            [] => Ok(None),
            more => Err(format!("found {} instances with ID {node_id:?}", more.len())),
        },
        Ok(_) => Err("unexpected answer from EC2".to_owned()),
        Err(error) if error.code() == "InvalidInstanceID.NotFound" => Ok(None),
        Err(error) => Err(format!("error listing AWS instances: {error}")),
    }
}

fn one_volume(answer: &Answer) -> Option<&Volume> {
    match answer {
        Ok(CloudReply::Volumes(volumes)) if volumes.len() == 1 => volumes.first(),
        _ => None,
    }
}

fn attachment<'a>(volume: &'a Volume, node_id: &str) -> Option<&'a Attachment> {
    volume.attachments.iter().find(|attachment| attachment.instance_id == node_id)
}

#[derive(Debug, Clone)]
enum PublishPhase {
    Instance,
    Attaching,
    Looking(Looks),
    /// Attached says DescribeInstances, detached says DescribeVolumes: attached anew, and the call fails.
    Again,
    /// Stuck in attaching: taken off, and the call fails.
    Unsticking,
    Initializing,
}

#[derive(Debug, Clone)]
pub(super) struct Publish {
    phase: PublishPhase,
    volume_id: String,
    node_id: String,
    capability: VolumeCapability,
    until_initialized: bool,
    device: String,
    already: bool,
}

impl Publish {
    pub(super) fn new(volume_id: String, node_id: String, capability: VolumeCapability, context: &BTreeMap<String, String>) -> Self {
        Self {
            phase: PublishPhase::Instance,
            volume_id,
            node_id,
            capability,
            until_initialized: context.get("blockattachuntilinitialized").is_some_and(|value| value == "true"),
            device: String::new(),
            already: false,
        }
    }

    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match (&self.phase, event) {
            (_, Event::Start) => self.start(shared, id),
            (PublishPhase::Instance, Event::Answer(answer)) => self.instance(shared, id, answer),
            (PublishPhase::Attaching, Event::Answer(answer)) => self.attached(shared, answer),
            (PublishPhase::Looking(_), Event::Go) => describe(&self.volume_id),
            (PublishPhase::Looking(looks), Event::Answer(answer)) => {
                let looks = *looks;
                let next = self.looked(looks, answer);
                if let Next::Done(Err(_)) = &next {
                    shared.names.taint(id);
                }
                next
            }
            (PublishPhase::Again, Event::Answer(answer)) => {
                shared.names.taint(id);
                self.fail(match answer {
                    Err(error) => format!(
                        "WaitForAttachmentState AttachVolume error, expected device to be attached but was detached, volumeID={:?}, \
                         instanceID={:?}, Device={:?}, err={error}",
                        self.volume_id, self.node_id, self.device
                    ),
                    Ok(_) => {
                        format!("attachment of disk {:?} failed, expected device to be attached but was detached", self.volume_id)
                    }
                })
            }
            (PublishPhase::Unsticking, Event::Answer(answer)) => {
                shared.names.taint(id);
                self.fail(match answer {
                    Err(error) => error.to_string(),
                    Ok(_) => format!("{:?} stuck in attaching state for longer than 1m30s", self.volume_id),
                })
            }
            (PublishPhase::Initializing, Event::Go) => self.ask_status(),
            (PublishPhase::Initializing, Event::Answer(answer)) => self.initialized(answer),
            (PublishPhase::Instance | PublishPhase::Attaching | PublishPhase::Again | PublishPhase::Unsticking, Event::Go) => {
                self.fail("the driver woke up for nothing")
            }
        }
    }

    /// The caller went away. EC2 may have the request, so the name stays taken until the volume is detached. (The real driver frees it
    /// while its AttachVolume is under way, and then EC2 may refuse the next one.)
    pub(super) fn abandoned(&self, shared: &mut Shared, id: CallId) {
        if !matches!(self.phase, PublishPhase::Instance) {
            shared.names.taint(id);
        }
    }

    fn fail(&self, why: impl std::fmt::Display) -> Next {
        let message = format!("Could not attach volume {:?} to node {:?}: {why}", self.volume_id, self.node_id);
        Next::fail(Error::new(Code::Internal, message))
    }

    fn start(&mut self, shared: &mut Shared, id: CallId) -> Next {
        if self.volume_id.is_empty() {
            return Next::fail(invalid("Volume ID not provided"));
        }
        if self.node_id.is_empty() {
            return Next::fail(invalid("Node ID not provided"));
        }
        if !supported(&self.capability) {
            return Next::fail(invalid("Volume capability not supported"));
        }
        if !shared.begin(&format!("{}{}", self.volume_id, self.node_id), id) {
            return already_working(&self.volume_id);
        }
        Next::Ask(CloudCall::DescribeInstances { instance_id: self.node_id.clone() })
    }

    fn instance(&mut self, shared: &mut Shared, id: CallId, answer: &Answer) -> Next {
        let instance = match one_instance(answer, &self.node_id) {
            Ok(Some(instance)) => instance,
            // The real driver says the volume, though it is the instance that is missing.
            Ok(None) => return Next::fail(Error::new(Code::NotFound, format!("Volume {:?} not found", self.volume_id))),
            Err(why) => return self.fail(why),
        };
        match shared.names.give(&instance, &self.volume_id, id) {
            Given::None => self.fail(format!("could not get a free device name to assign to node {}", self.node_id)),
            Given::Already(device) => {
                (self.device, self.already) = (device, true);
                self.phase = PublishPhase::Looking(Looks::new(Schedule::Attachment));
                describe(&self.volume_id)
            }
            Given::New(device) => {
                self.device = device;
                self.phase = PublishPhase::Attaching;
                self.attach()
            }
        }
    }

    fn attach(&self) -> Next {
        Next::Ask(CloudCall::AttachVolume {
            volume_id: self.volume_id.clone(),
            instance_id: self.node_id.clone(),
            device: self.device.clone(),
        })
    }

    fn attached(&mut self, shared: &mut Shared, answer: &Answer) -> Next {
        let Err(error) = answer else {
            shared.names.note_bad(&self.node_id, &self.device, false);
            self.phase = PublishPhase::Looking(Looks::new(Schedule::Attachment));
            return describe(&self.volume_id);
        };
        if error.code() == "InvalidParameterValue" && error.message().contains("already in use") {
            shared.names.note_bad(&self.node_id, &self.device, true);
        }
        if error.code() == "AttachmentLimitExceeded" {
            return Next::fail(Error::new(
                Code::ResourceExhausted,
                format!("Attachment limit exceeded for volume {:?} on node {:?}: limit exceeded: {error}", self.volume_id, self.node_id),
            ));
        }
        self.fail(format!("could not attach volume {:?} to node {:?}: {error}", self.volume_id, self.node_id))
    }

    fn looked(&mut self, looks: Looks, answer: &Answer) -> Next {
        if let Err(error) = answer
            && error.code() == "InvalidVolume.NotFound"
        {
            return self.fail(error);
        }
        // Any other error, and an empty answer, count as "not yet".
        let Some(volume) = one_volume(answer) else { return self.look_again(looks) };
        if !volume.multi_attach && volume.attachments.len() > 1 {
            return self.fail(format!("volume {:?} has multiple attachments", self.volume_id));
        }
        let found = attachment(volume, &self.node_id);
        if let Some(found) = found {
            if found.state == "attaching" && found.age_seconds > STUCK_SECONDS {
                self.phase = PublishPhase::Unsticking;
                return Next::Ask(CloudCall::DetachVolume { volume_id: self.volume_id.clone(), instance_id: self.node_id.clone() });
            }
            if found.device != self.device {
                return self.look_again(looks);
            }
        }
        match found.map_or("detached", |found| found.state.as_str()) {
            "detached" if self.already => {
                self.phase = PublishPhase::Again;
                self.attach()
            }
            "attached" if self.until_initialized => {
                self.phase = PublishPhase::Initializing;
                self.ask_status()
            }
            "attached" => self.done(),
            _ => self.look_again(looks),
        }
    }

    fn look_again(&mut self, mut looks: Looks) -> Next {
        match looks.next() {
            Some(delay) => {
                self.phase = PublishPhase::Looking(looks);
                Next::Wait(delay)
            }
            None => self.fail(TIMED_OUT),
        }
    }

    fn ask_status(&self) -> Next {
        Next::Ask(CloudCall::DescribeVolumeStatus { volume_id: self.volume_id.clone() })
    }

    fn initialized(&mut self, answer: &Answer) -> Next {
        let why = match answer {
            Ok(CloudReply::VolumeStatus { initializing: Some(false) }) => return self.done(),
            Ok(CloudReply::VolumeStatus { initializing: Some(true) }) => return Next::Wait(INITIALIZATION_POLL),
            Ok(_) => "IsVolumeInitialized: EC2 DescribeVolumeStatus response missing volume status details".to_owned(),
            Err(error) => error.to_string(),
        };
        Next::fail(Error::new(
            Code::Internal,
            format!("Cannot validate that volume {:?} is initialized while polling EC2 DescribeVolumeStatus: {why}", self.volume_id),
        ))
    }

    fn done(&self) -> Next {
        let publish_context = BTreeMap::from([(DEVICE_PATH.to_owned(), self.device.clone())]);
        Next::Done(Ok(ControllerReply::ControllerPublishVolume { publish_context }))
    }
}

#[derive(Debug, Clone)]
enum UnpublishPhase {
    Instance,
    Detaching,
    Looking(Looks),
}

#[derive(Debug, Clone)]
pub(super) struct Unpublish {
    phase: UnpublishPhase,
    volume_id: String,
    node_id: String,
}

impl Unpublish {
    pub(super) fn new(volume_id: String, node_id: String) -> Self {
        Self { phase: UnpublishPhase::Instance, volume_id, node_id }
    }

    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match (&self.phase, event) {
            (_, Event::Start) => {
                if self.volume_id.is_empty() {
                    return Next::fail(invalid("Volume ID not provided"));
                }
                if self.node_id.is_empty() {
                    return Next::fail(invalid("Node ID not provided"));
                }
                if !shared.begin(&format!("{}{}", self.volume_id, self.node_id), id) {
                    return already_working(&self.volume_id);
                }
                Next::Ask(CloudCall::DescribeInstances { instance_id: self.node_id.clone() })
            }
            (UnpublishPhase::Instance, Event::Answer(answer)) => match one_instance(answer, &self.node_id) {
                // An instance that is gone has nothing attached.
                Ok(None) => self.done(shared),
                Ok(Some(_)) => {
                    self.phase = UnpublishPhase::Detaching;
                    Next::Ask(CloudCall::DetachVolume { volume_id: self.volume_id.clone(), instance_id: self.node_id.clone() })
                }
                Err(why) => self.fail(why),
            },
            (UnpublishPhase::Detaching, Event::Answer(answer)) => match answer {
                Ok(_) => {
                    self.phase = UnpublishPhase::Looking(Looks::new(Schedule::Attachment));
                    describe(&self.volume_id)
                }
                Err(error) if ["IncorrectState", "InvalidAttachment.NotFound", "InvalidVolume.NotFound"].contains(&error.code()) => {
                    self.done(shared)
                }
                Err(error) => self.fail(format!("could not detach volume {:?} from node {:?}: {error}", self.volume_id, self.node_id)),
            },
            (UnpublishPhase::Looking(_), Event::Go) => describe(&self.volume_id),
            (UnpublishPhase::Looking(looks), Event::Answer(answer)) => {
                let looks = *looks;
                self.looked(shared, looks, answer)
            }
            (UnpublishPhase::Instance | UnpublishPhase::Detaching, Event::Go) => self.fail("the driver woke up for nothing"),
        }
    }

    fn looked(&mut self, shared: &mut Shared, mut looks: Looks, answer: &Answer) -> Next {
        if answer.as_ref().is_err_and(|error| error.code() == "InvalidVolume.NotFound") {
            return self.done(shared);
        }
        if let Some(volume) = one_volume(answer) {
            if !volume.multi_attach && volume.attachments.len() > 1 {
                return self.fail(format!("volume {:?} has multiple attachments", self.volume_id));
            }
            if attachment(volume, &self.node_id).is_none_or(|found| found.state == "detached") {
                return self.done(shared);
            }
        }
        match looks.next() {
            Some(delay) => {
                self.phase = UnpublishPhase::Looking(looks);
                Next::Wait(delay)
            }
            None => self.fail(TIMED_OUT),
        }
    }

    fn fail(&self, why: impl std::fmt::Display) -> Next {
        let message = format!("Could not detach volume {:?} from node {:?}: {why}", self.volume_id, self.node_id);
        Next::fail(Error::new(Code::Internal, message))
    }

    fn done(&self, shared: &mut Shared) -> Next {
        shared.names.forget(&self.node_id, &self.volume_id);
        Next::Done(Ok(ControllerReply::ControllerUnpublishVolume))
    }
}
