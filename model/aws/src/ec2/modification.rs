//! ModifyVolume.
//!
//! ```text
//!   ModifyVolume ─▶ modifying ──file and devices have grown──▶ optimizing (new values show) ──▶ completed
//! ```

use serde::{Deserialize, Serialize};

use super::command::ModifyVolume;
use super::ids::VolumeKey;
use super::spec::{Asked, Spec, VolumeType};
use super::volume::VolumeStatus;
use super::{Effect, MODIFICATION_WINDOW, MODIFICATIONS_A_WINDOW, Reject, Reply, State, Timer};
use crate::At;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Modification {
    pub state: ModificationState,
    pub original: Spec,
    pub target: Spec,
    /// `modifying` has taken the time that it takes on AWS.
    pub settled: bool,
    /// Noted for StartTime and EndTime; nothing is decided on them.
    pub started_at: At,
    pub ended_at: Option<At>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ModificationState {
    Modifying,
    Optimizing,
    Completed,
}

impl ModificationState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Modifying => "modifying",
            Self::Optimizing => "optimizing",
            Self::Completed => "completed",
        }
    }

    pub(super) fn ongoing(self) -> bool {
        match self {
            Self::Modifying | Self::Optimizing => true,
            Self::Completed => false,
        }
    }
}

impl Modification {
    pub(super) fn may_proceed(&self) -> bool {
        self.state == ModificationState::Modifying && self.settled
    }

    /// Percent.
    pub fn progress(&self) -> u32 {
        match self.state {
            ModificationState::Modifying => 0,
            ModificationState::Optimizing => 50,
            ModificationState::Completed => 100,
        }
    }
}

impl State {
    pub(super) fn plan_modify(&self, request: &ModifyVolume) -> Result<(VolumeKey, Spec), Reject> {
        let volume = self.named_volume("volumeId", &request.volume_id)?;
        let ModifyVolume { size_gib, volume_type, iops, throughput, multi_attach, .. } = request;
        if size_gib.is_none() && volume_type.is_none() && iops.is_none() && throughput.is_none() && multi_attach.is_none() {
            return Err(Reject::NothingToModify);
        }
        match volume.status() {
            VolumeStatus::Available | VolumeStatus::InUse => {}
            status @ (VolumeStatus::Creating | VolumeStatus::Deleting | VolumeStatus::Error) => {
                return Err(Reject::VolumeState { volume: request.volume_id.clone(), status });
            }
        }
        let current = volume.spec;
        let volume_type = volume_type.as_deref().map(str::parse).transpose()?.unwrap_or(current.volume_type);
        let size = size_gib.unwrap_or(current.size_gib);
        if size < current.size_gib {
            return Err(Reject::SmallerThanNow);
        }
        let keeps = volume_type == current.volume_type && volume_type != VolumeType::Gp2;
        let asked = Asked {
            size_gib: size,
            iops: iops.or(current.iops.filter(|_| keeps)),
            throughput: throughput.or(current.throughput.filter(|_| keeps)),
            multi_attach: multi_attach.unwrap_or(current.multi_attach),
        };
        if asked.multi_attach != current.multi_attach && volume.status() == VolumeStatus::InUse && !asked.multi_attach {
            return Err(Reject::VolumeState { volume: request.volume_id.clone(), status: VolumeStatus::InUse });
        }
        let target = Spec::new(volume_type, asked)?;
        if let Some(state) = volume.modification.as_ref().map(|modification| modification.state).filter(|state| state.ongoing()) {
            return Err(Reject::ModificationState { volume: request.volume_id.clone(), state });
        }
        if volume.recent_modifications.len() >= MODIFICATIONS_A_WINDOW {
            return Err(Reject::ModificationRate { limit: MODIFICATIONS_A_WINDOW });
        }
        Ok((volume.key, target))
    }

    pub(super) fn modify_volume(&mut self, at: At, request: &ModifyVolume, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let (key, target) = self.plan_modify(request)?;
        let delay = self.timing().modifying;
        let number = self.fresh_key();
        let mut reply = None;
        self.change_volume(key, |volume| {
            let modification = Modification {
                state: ModificationState::Modifying,
                original: volume.spec,
                target,
                settled: delay.is_zero(),
                started_at: at,
                ended_at: None,
            };
            volume.recent_modifications.insert(number);
            volume.modification = Some(modification.clone());
            reply = Some(modification);
        });
        if let Some(modification) = reply {
            out.push(Effect::Reply(Reply::Modification { volume: key, modification }));
        }
        out.push(Effect::Arm(Timer::ModificationForgotten(key, number), MODIFICATION_WINDOW));
        if !delay.is_zero() {
            out.push(Effect::Arm(Timer::Modification(key), delay));
        }
        self.drive_volume(at, key, out);
        Ok(())
    }

    /// File and devices are as the target says: the new values show from here on.
    pub(super) fn modified(&mut self, at: At, key: VolumeKey, out: &mut Vec<Effect>) {
        let delay = self.timing().optimizing;
        self.change_volume(key, |volume| {
            if let Some(modification) = &mut volume.modification {
                volume.spec = modification.target;
                modification.state = ModificationState::Optimizing;
            }
        });
        if delay.is_zero() {
            self.optimized(at, key);
        } else {
            out.push(Effect::Arm(Timer::Modification(key), delay));
        }
    }

    fn optimized(&mut self, at: At, key: VolumeKey) {
        self.change_volume(key, |volume| {
            if let Some(modification) = &mut volume.modification {
                modification.state = ModificationState::Completed;
                modification.ended_at = Some(at);
            }
        });
    }

    pub(super) fn modification_fired(&mut self, at: At, key: VolumeKey, out: &mut Vec<Effect>) {
        let state = self.volume(key).and_then(|volume| volume.modification.as_ref()).map(|modification| modification.state);
        match state {
            Some(ModificationState::Modifying) => {
                self.change_volume(key, |volume| {
                    if let Some(modification) = &mut volume.modification {
                        modification.settled = true;
                    }
                });
                self.drive_volume(at, key, out);
            }
            Some(ModificationState::Optimizing) => self.optimized(at, key),
            Some(ModificationState::Completed) | None => {}
        }
    }
}
