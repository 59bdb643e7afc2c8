//! What a kubelet knows of its volumes when it starts (§3.8): what its directories show, each of it uncertain.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

impl VolumeManager {
    pub(super) fn booted(&mut self, found: &[Found]) -> Result<(), Reject> {
        if std::mem::replace(&mut self.booted, true) {
            return Err(Reject::AlreadyBooted);
        }
        for found in found {
            let Some(data) = self.named(found) else { continue };
            let spec = Arc::new(VolumeSpec::from_vol_data(&data, found.block));
            let volume = self.actual.entry(spec.name.clone()).or_insert_with(|| Volume {
                spec: spec.clone(),
                device: Device::Uncertain,
                attachable: Attachable::Uncertain,
                size: 0,
                expand_in_use: false,
                reconstructed: true,
                pods: BTreeMap::new(),
            });
            if let Some(pod) = &found.pod {
                volume.pods.insert(pod.clone(), PodMount { spec, certain: false, remount: false, reconstructed: true });
            }
        }
        self.unsettled = !self.actual.is_empty();
        Ok(())
    }

    /// The volume of a directory, if that can be told.
    fn named(&self, found: &Found) -> Option<VolData> {
        let staged_counts = self.finds_staged();
        match (&found.pod, &found.data) {
            (Some(_), Some(data)) => Some(data.clone()),
            // Without vol_data.json upstream cannot undo the mount either; the pod's directory shows it (§3.8).
            (Some(_), None) => {
                let data = found.bound.as_ref().filter(|data| staged_counts && is_of(data, &found.pv))?;
                Some(VolData { spec_vol_id: found.pv.clone(), ..data.clone() })
            }
            (None, data) => data.clone().filter(|data| staged_counts && self.is_staged_as(data, found)),
        }
    }

    /// Whether staging directories say something of volumes (kubernetes#138454); upstream looks into those of pods only.
    pub(super) fn finds_staged(&self) -> bool {
        self.config.fixes.has(Fix::StagedVolumesAreFound)
    }

    /// The file names what would be staged here, and not elsewhere: unstaging it goes by the volume's name.
    fn is_staged_as(&self, data: &VolData, found: &Found) -> bool {
        let named = !data.driver_name.is_empty() && !data.volume_handle.is_empty();
        let dir = || self.config.layout.staging_dir(&data.driver_name, &data.volume_handle);
        named && if found.block { data.spec_vol_id == found.pv } else { dir().ends_with(&format!("/{}", found.pv)) }
    }

    /// After a start: which of the volumes found are attachable? A live read of the node says (§3.8).
    pub(super) fn settle(&mut self, out: &mut Vec<Effect>) {
        let key = Key { volume: "".into(), pod: "".into() };
        if self.unsettled && !self.ticking && !self.running.contains_key(&key) {
            self.follow(&key, Next::Do(Op::NodeStatus, Action::ReadNode), out);
        }
    }

    pub(super) fn node_status(&mut self, result: Result<Answer, Failure>) -> Next {
        let Ok(Answer::Attached(attached)) = result else { return Next::End(End::Again) };
        for (name, volume) in self.actual.iter_mut().filter(|(_, volume)| volume.attachable == Attachable::Uncertain) {
            volume.attachable = if attached.contains(name) { Attachable::Yes } else { Attachable::No };
        }
        self.unsettled = false;
        Next::End(End::Succeeded)
    }
}

/// Whether a staging directory's file is of this PersistentVolume, as far as it says: those of kubelets of today name none.
pub(super) fn is_of(data: &VolData, pv: &str) -> bool {
    data.spec_vol_id.is_empty() || data.spec_vol_id == pv
}
