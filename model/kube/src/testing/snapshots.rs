//! The snapshots of a driver in a few lines: each can be used from the second look at it on.

use std::collections::BTreeMap;

use model_common::csi::{Code, ControllerCall, ControllerReply, Error, Snapshot};

/// The snapshots that there are, by id.
#[derive(Debug, Clone, Default)]
pub struct Snapshots {
    pub all: BTreeMap<String, Snapshot>,
    /// Those that were deleted.
    pub deleted: Vec<String>,
}

impl Snapshots {
    fn looked_at(&mut self, id: &str) -> Option<Snapshot> {
        let snapshot = self.all.get_mut(id)?;
        let shown = snapshot.clone();
        snapshot.ready_to_use = true;
        Some(shown)
    }

    /// The driver's answer to a call about snapshots; none to other calls.
    pub fn drive(&mut self, request: &ControllerCall) -> Option<Result<ControllerReply, Error>> {
        Some(match request {
            ControllerCall::CreateSnapshot { name, source_volume_id, .. } => {
                let snapshot_id = format!("snap-{name}");
                self.all.entry(snapshot_id.clone()).or_insert_with(|| Snapshot {
                    snapshot_id: snapshot_id.clone(),
                    source_volume_id: source_volume_id.clone(),
                    size_bytes: 1 << 30,
                    creation_time_ms: 1_800_000_000_123,
                    ready_to_use: false,
                });
                let made = self.looked_at(&snapshot_id).ok_or_else(|| Error::new(Code::NotFound, "just made"));
                made.map(ControllerReply::CreateSnapshot)
            }
            ControllerCall::DeleteSnapshot { snapshot_id } => {
                if self.all.remove(snapshot_id).is_some() {
                    self.deleted.push(snapshot_id.clone());
                }
                Ok(ControllerReply::DeleteSnapshot)
            }
            ControllerCall::ListSnapshots { snapshot_id, .. } => {
                let entries = self.looked_at(snapshot_id).into_iter().collect();
                Ok(ControllerReply::ListSnapshots { entries, next_token: String::new() })
            }
            _ => return None,
        })
    }
}
