//! One pass of the reconciler (§3.3): unmounts strictly before mounts before device unmounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

/// What a wanted (volume, pod) needs next.
enum Need {
    Attach,
    Mount { remount: bool },
    Expand,
    Nothing,
}

impl VolumeManager {
    pub(super) fn reconcile(&mut self, out: &mut Vec<Effect>) {
        let ready = self.sources_ready && !self.unsettled;
        // An operation that ends at once (a volume that needs no attachment) makes room for the next one.
        for _ in 0..4 {
            self.look_again = false;
            if ready {
                self.unmount_unwanted(out);
            }
            self.mount_wanted(out);
            if ready {
                self.release_unused(out);
            }
            if !self.look_again {
                break;
            }
        }
        self.settle(out);
    }

    fn unmount_unwanted(&mut self, out: &mut Vec<Effect>) {
        let unwanted: Vec<_> = self
            .actual
            .iter()
            .flat_map(|(name, volume)| volume.pods.iter().map(move |(pod, mount)| (name, pod, mount)))
            .filter(|(name, pod, _)| !self.wants(pod, name))
            .map(|(name, pod, mount)| (name.clone(), pod.clone(), mount.spec.clone()))
            .collect();
        for (name, pod, spec) in unwanted {
            let key = Key::pod(&name, &pod);
            if self.pending.is_pending(&key) {
                continue;
            }
            let op = if spec.block { OpName::UnmapVolume } else { OpName::VolumeUnmount };
            self.start(key, op, |this, _| this.unmount_begin(pod, spec), out);
        }
    }

    fn mount_wanted(&mut self, out: &mut Vec<Effect>) {
        let wanted: Vec<_> = self
            .desired
            .values()
            .flat_map(|want| want.volumes.iter().map(move |volume| (want, volume)))
            .filter(|(want, volume)| !matches!(self.need(&want.uid, volume), Need::Nothing))
            .map(|(want, volume)| (want.clone(), volume.clone()))
            .collect();
        for (want, volume) in wanted {
            let key = Key::volume(&volume.spec.name);
            if self.pending.is_pending(&key) {
                continue;
            }
            match self.need(&want.uid, &volume) {
                Need::Attach if volume.spec.attachable && !self.is_reported(&volume.spec.name) => {}
                Need::Attach if volume.spec.attachable && self.config.eager && !self.attached.contains(&volume.spec.name) => {}
                Need::Attach => {
                    let spec = volume.spec.clone();
                    self.start(key, OpName::VerifyControllerAttachedVolume, |this, _| this.verify_begin(spec), out);
                }
                Need::Mount { remount } => {
                    let op = if volume.spec.block { OpName::MapVolume } else { OpName::VolumeMount };
                    self.start(key, op, |this, out| this.mount_begin(&want, volume, remount, out), out);
                }
                Need::Expand => self.start(key, OpName::VolumeFsResize, |this, out| this.expand_begin(&want, volume, out), out),
                Need::Nothing => {}
            }
        }
    }

    /// `ASW.PodExistsInVolume`.
    fn need(&self, pod: &PodUid, wanted: &PodVolume) -> Need {
        let Some(volume) = self.actual.get(&wanted.spec.name) else { return Need::Attach };
        let Some(mount) = volume.pods.get(pod) else { return Need::Mount { remount: false } };
        if !mount.certain || volume.device != Device::Mounted {
            return Need::Mount { remount: false };
        }
        if mount.remount {
            return Need::Mount { remount: true };
        }
        if wanted.spec.capacity > volume.size && !volume.expand_in_use && wanted.spec.claim.is_some() {
            return Need::Expand;
        }
        Need::Nothing
    }

    fn release_unused(&mut self, out: &mut Vec<Effect>) {
        let unused: Vec<_> = self
            .actual
            .iter()
            .filter(|(name, volume)| volume.pods.is_empty() && !self.is_desired(name))
            .map(|(name, volume)| (name.clone(), volume.device, volume.spec.clone()))
            .collect();
        for (name, device, spec) in unused {
            let key = Key::volume(&name);
            if self.pending.is_pending(&key) {
                continue;
            }
            match device {
                Device::Mounted | Device::Uncertain => {
                    let op = if spec.block { OpName::UnmapDevice } else { OpName::UnmountDevice };
                    self.start(key, op, |this, _| this.unmount_device_begin(spec), out);
                }
                // The attach/detach controller detaches; it sees this in volumesInUse.
                Device::NotMounted => {
                    self.actual.remove(&name);
                }
            }
        }
    }

    fn verify_begin(&mut self, spec: Arc<VolumeSpec>) -> Next {
        if spec.attachable {
            return Next::Do(Op::Verify(spec), Action::ReadNode);
        }
        self.mark_attached(&spec, Attachable::No);
        Next::End(End::Succeeded)
    }

    /// The second flag of the handshake: `volumesAttached`, read live after our own flag is durable.
    pub(super) fn verify(&mut self, spec: &Arc<VolumeSpec>, result: Result<Answer, Failure>) -> Next {
        match result {
            Ok(Answer::Attached(attached)) if attached.contains(&spec.name) => {
                self.mark_attached(spec, Attachable::Yes);
                Next::End(End::Succeeded)
            }
            _ => Next::End(End::Failed),
        }
    }

    fn mark_attached(&mut self, spec: &Arc<VolumeSpec>, attachable: Attachable) {
        self.actual.entry(spec.name.clone()).or_insert_with(|| Volume {
            spec: spec.clone(),
            device: Device::NotMounted,
            attachable,
            size: spec.claim_capacity,
            expand_in_use: false,
            reconstructed: false,
            pods: BTreeMap::new(),
        });
    }
}
