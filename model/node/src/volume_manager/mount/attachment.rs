//! What a VolumeAttachment must say before a volume is mounted.

use super::*;

impl VolumeManager {
    /// `WaitForAttach`: one live read; the driver finds the device later.
    pub(super) fn attachment(&self, op: &Mount, result: Result<Answer, Failure>) -> Result<BTreeMap<String, String>, String> {
        let spec = op.spec();
        let id = attachment_name(&spec.handle, &spec.driver, &self.config.node);
        let got = |why: &dyn std::fmt::Display| format!("volume {} has GET error for volume attachment {id}: {why}", spec.handle);
        let attachment = match result {
            Ok(Answer::Attachment(Some(attachment))) => attachment,
            Ok(Answer::Attachment(None)) => return Err(got(&format!("volumeattachments.storage.k8s.io \"{id}\" not found"))),
            other => return Err(got(&failure(other))),
        };
        if attachment.deleting {
            return Err("volume attachment is being deleted".into());
        }
        if let Some(error) = attachment.attach_error {
            return Err(error);
        }
        if !attachment.attached {
            return Err(format!("volume {} is not attached for volume attachment {id}", spec.handle));
        }
        Ok(attachment.metadata)
    }
}
