//! Calls of one question: DeleteVolume, DeleteSnapshot, ValidateVolumeCapabilities.

use model_common::csi::{Code, ControllerReply, Error, VolumeCapability};

use super::{CallId, Event, Next, Shared, already_working, invalid, supported};
use crate::driver::cloud::{CloudCall, CloudReply, VolumeQuery};

#[derive(Debug, Clone)]
pub(super) enum Small {
    DeleteVolume { volume_id: String },
    DeleteSnapshot { snapshot_id: String },
    Validate { volume_id: String, capabilities: Vec<VolumeCapability> },
}

impl Small {
    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        match (self, event) {
            (Self::DeleteVolume { volume_id }, Event::Start) => {
                if volume_id.is_empty() {
                    return Next::fail(invalid("Volume ID not provided"));
                }
                if !shared.begin(volume_id, id) {
                    return already_working(volume_id);
                }
                Next::Ask(CloudCall::DeleteVolume { volume_id: volume_id.clone() })
            }
            (Self::DeleteVolume { volume_id }, Event::Answer(answer)) => match answer {
                Err(error) if error.code() != "InvalidVolume.NotFound" => Next::fail(Error::new(
                    Code::Internal,
                    format!("Could not delete volume ID {volume_id:?}: DeleteDisk could not delete volume: {error}"),
                )),
                _ => Next::Done(Ok(ControllerReply::DeleteVolume)),
            },
            (Self::DeleteSnapshot { snapshot_id }, Event::Start) => {
                if snapshot_id.is_empty() {
                    return Next::fail(invalid("Snapshot ID not provided"));
                }
                if !shared.begin(snapshot_id, id) {
                    let message = format!("DeleteSnapshot for Snapshot {snapshot_id} is already in progress");
                    return Next::fail(Error::new(Code::Aborted, message));
                }
                Next::Ask(CloudCall::DeleteSnapshot { snapshot_id: snapshot_id.clone() })
            }
            (Self::DeleteSnapshot { snapshot_id }, Event::Answer(answer)) => match answer {
                Err(error) if error.code() != "InvalidSnapshot.NotFound" => Next::fail(Error::new(
                    Code::Internal,
                    format!("Could not delete snapshot ID {snapshot_id:?}: DeleteSnapshot could not delete snapshot: {error}"),
                )),
                _ => Next::Done(Ok(ControllerReply::DeleteSnapshot)),
            },
            (Self::Validate { volume_id, capabilities }, Event::Start) => {
                if volume_id.is_empty() {
                    return Next::fail(invalid("Volume ID not provided"));
                }
                if capabilities.is_empty() {
                    return Next::fail(invalid("Volume capabilities not provided"));
                }
                Next::Ask(CloudCall::DescribeVolumes(VolumeQuery::Id(volume_id.clone())))
            }
            // CSI wants NotFound for an unknown id. The real driver means to say so and says Internal, as it compares with an error of its
            // own that it does not make of EC2's here (real-drivers.md §2).
            (Self::Validate { volume_id, .. }, Event::Answer(Err(error))) => {
                let code = if error.code() == "InvalidVolume.NotFound" { Code::NotFound } else { Code::Internal };
                Next::fail(Error::new(code, format!("Could not get volume with ID {volume_id:?}: {error}")))
            }
            (Self::Validate { capabilities, .. }, Event::Answer(Ok(CloudReply::Volumes(volumes)))) if !volumes.is_empty() => {
                Next::Done(Ok(ControllerReply::ValidateVolumeCapabilities {
                    confirmed: capabilities.iter().all(supported),
                    message: String::new(),
                }))
            }
            (Self::Validate { .. }, Event::Answer(Ok(_))) => Next::fail(Error::new(Code::NotFound, "Volume not found")),
            // None of these calls arms a timer or waits for its turn.
            (_, Event::Go) => Next::fail(Error::new(Code::Internal, "the driver woke up for nothing")),
        }
    }
}
