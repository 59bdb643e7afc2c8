//! DeleteVolume: the access point goes, the directory stays, as the real driver does without `--delete-access-point-root-dir`.

use std::time::Duration;

use model_common::csi::{Code, ControllerReply, Error};

use super::{CallId, Event, Handle, Next, Shared, access_denied, invalid};
use crate::driver::cloud::CloudCall;

/// How often the lock is tried within the real driver's 3 s.
const TRIES: u32 = 30;
const TRY_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub(super) struct Delete {
    volume_id: String,
    access_point_id: String,
    tries: u32,
}

impl Delete {
    pub(super) fn new(volume_id: String) -> Self {
        Self { volume_id, access_point_id: String::new(), tries: 0 }
    }

    pub(super) fn on(&mut self, shared: &mut Shared, id: CallId, event: Event<'_>) -> Next {
        let done = || Next::Done(Ok(ControllerReply::DeleteVolume));
        match event {
            Event::Start => {
                if self.volume_id.is_empty() {
                    return Next::fail(invalid("Volume ID not provided"));
                }
                match Handle::parse(&self.volume_id) {
                    Ok(handle) if !handle.access_point_id.is_empty() => self.access_point_id = handle.access_point_id,
                    // Not ours to delete: a success, as csi-sanity wants it.
                    _ => return done(),
                }
                self.lock(shared, id)
            }
            Event::Go => self.lock(shared, id),
            Event::Answer(Ok(_)) => self.gone(shared),
            Event::Answer(Err(error)) => match error.code() {
                "AccessPointNotFound" => self.gone(shared),
                "AccessDeniedException" => Next::fail(access_denied()),
                _ => Next::fail(Error::new(
                    Code::Internal,
                    format!(
                        "Failed to Delete volume {}: Failed to delete access point: {}, error: {error}",
                        self.volume_id, self.access_point_id
                    ),
                )),
            },
        }
    }

    fn gone(&self, shared: &mut Shared) -> Next {
        shared.sizes.retain(|_, made| made.access_point_id != self.access_point_id);
        Next::Done(Ok(ControllerReply::DeleteVolume))
    }

    fn lock(&mut self, shared: &mut Shared, id: CallId) -> Next {
        if !shared.locked.contains_key(&self.access_point_id) {
            shared.locked.insert(self.access_point_id.clone(), id);
            return Next::Ask(CloudCall::DeleteAccessPoint { access_point_id: self.access_point_id.clone() });
        }
        self.tries += 1;
        if self.tries > TRIES {
            let message = format!("Could not take the lock to delete access point: {}", self.access_point_id);
            return Next::fail(Error::new(Code::Internal, message));
        }
        Next::Wait(TRY_EVERY)
    }
}
