//! What a kubelet asks of the API and of its machine for its pods.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use model_kube::events::{self, EventRecord, EventType};
use model_kube::object::{Kind, Object};
use model_kube::write::{ApiError, Propagation, Write};
use model_node::kubelet::Input;
use model_node::pod::PodEffect;
use model_node::volume_manager::{self as volumes, PodUid, PodVolume, VolumeName};
use serde_json::json;

use super::super::clock::Part;
use super::super::{Event, World};
use super::{UNREACHABLE, status_patch};

impl World {
    pub(super) fn record_volume(&mut self, number: usize, event: volumes::Event) {
        let about = match &event.target {
            volumes::Target::Pod(pod) => self.nodes[number].pods.get(pod).map(|pod| events::reference(&**pod)),
            volumes::Target::Claim(claim) => {
                self.store.get::<core::PersistentVolumeClaim>(&claim.namespace, &claim.name).map(|claim| events::reference(&**claim))
            }
        };
        if let Some(about) = about {
            self.record(number, about, event.warning, event.reason, event.message);
        }
    }

    pub(super) fn record(&mut self, number: usize, about: core::ObjectReference, warning: bool, reason: &str, message: String) {
        if self.nodes[number].cut {
            return;
        }
        let at = self.event_time();
        let event_type = if warning { EventType::Warning } else { EventType::Normal };
        let mut record = EventRecord::new(about, event_type, reason, message, "kubelet");
        let node = &mut self.nodes[number];
        record.host.clone_from(&node.info.name);
        let write = node.recorder.record(&record, at);
        self.tell(&record, write);
    }

    pub(in crate::world) fn report_in_use(&mut self, number: usize, in_use: BTreeSet<VolumeName>) {
        let key = self.nodes[number].key();
        if self.nodes[number].cut {
            self.clock.after(Duration::from_secs(1), Event::Report(number, in_use));
        } else if self.commit(&status_patch(key, json!({"volumesInUse": in_use}))).is_ok() {
            self.soon(Part::Write, Event::Kubelet(number, Box::new(Input::Volume(volumes::Input::Reported(in_use)))));
        } else {
            // As often as it takes.
            self.soon(Part::Write, Event::Report(number, in_use));
        }
    }

    pub(in crate::world) fn pod_done(&mut self, number: usize, pod: &PodUid, effect: PodEffect) {
        let uid = pod.clone();
        match effect {
            PodEffect::Resolve => {
                let result = self.resolve(number, pod);
                self.kubelet(number, &Input::Resolved { pod: uid, result });
            }
            PodEffect::AttachLimit => {
                let exhausted = self.attach_limit(number, pod);
                self.kubelet(number, &Input::AttachLimit { pod: uid, exhausted });
            }
            PodEffect::SetUpLocal => {
                let result = self.set_up_local(number, pod);
                self.kubelet(number, &Input::LocalReady { pod: uid, result });
            }
            PodEffect::Start { container, attempt } => self.start(number, pod, container, attempt),
            // A shell or sleep as process 1 has no handler, so SIGTERM does nothing.
            PodEffect::Signal { kill: false, .. } => {}
            PodEffect::Signal { container, kill: true } => {
                if self.end_container(number, pod, &container) {
                    self.kubelet(number, &Input::Exited { pod: uid, container, code: 128 + 9 });
                }
            }
            // Programs are well as long as they run.
            PodEffect::Probe { container, kind, attempt } => {
                self.kubelet(number, &Input::Probed { pod: uid, container, kind, attempt, result: Ok(()) });
            }
            PodEffect::TearDownLocal => {
                let result = self.tear_down_local(number, pod);
                self.kubelet(number, &Input::Cleaned { pod: uid, result });
            }
            PodEffect::Status => self.write_status(number, pod),
            PodEffect::Delete if self.nodes[number].cut => {
                self.clock.after(Duration::from_secs(1), Event::Pod(number, uid, Box::new(PodEffect::Delete)));
            }
            PodEffect::Delete => {
                self.write_status(number, pod);
                if let Some(object) = self.nodes[number].pods.get(pod) {
                    let write = Write::Delete {
                        key: Object::Pod(object.clone()).key(),
                        uid: Some(pod.to_string()),
                        resource_version: None,
                        grace_seconds: Some(0),
                        propagation: Propagation::Background,
                    };
                    // Gone already, or another pod of that name: both mean that this one is gone.
                    let _ = self.commit(&write);
                }
                self.kubelet(number, &Input::Deleted(uid));
            }
            // Carried out at once, where the effect came.
            PodEffect::Record { .. } | PodEffect::Arm(..) | PodEffect::Disarm(_) => {}
        }
    }

    /// Live reads of the claims behind a pod's volumes, and of what is behind those.
    fn resolve(&self, number: usize, uid: &PodUid) -> Result<Vec<PodVolume>, String> {
        let Some(pod) = self.nodes[number].pods.get(uid) else { return Err("the pod is gone".into()) };
        if self.nodes[number].cut {
            return Err(UNREACHABLE.into());
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let labels = self.store.get::<core::Node>("", &self.nodes[number].info.name).and_then(|node| node.metadata.labels.clone());
        let labels = labels.unwrap_or_default();
        let missing = |claim: &str, kind: Kind, name: &str| {
            let error = ApiError::not_found(&kind, name);
            let what = if kind == Kind::PersistentVolume { "PV" } else { "PVC" };
            format!("error processing PVC {namespace}/{claim}: failed to fetch {what} from API server: {error}")
        };
        let resolve = |used: &volumes::PodClaim| {
            let claim = self.store.get::<core::PersistentVolumeClaim>(namespace, &used.claim);
            let claim = claim.ok_or_else(|| missing(&used.claim, Kind::PersistentVolumeClaim, &used.claim))?;
            let name = volumes::claim_volume(pod, used, claim).map_err(|error| error.to_string())?;
            let volume = self.store.get::<core::PersistentVolume>("", name);
            let volume = volume.ok_or_else(|| missing(&used.claim, Kind::PersistentVolume, name))?;
            let driver =
                volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).and_then(|csi| self.store.get::<CSIDriver>("", &csi.driver));
            volumes::resolve_pod_volume(pod, used, claim, volume, driver.map(|driver| &**driver), &labels)
                .map_err(|error| error.to_string())
        };
        volumes::pod_claims(pod).iter().map(resolve).collect()
    }

    /// Whether an attachment that the pod waits for was refused for the node's limit; then its driver is asked for the limit anew.
    fn attach_limit(&mut self, number: usize, uid: &PodUid) -> bool {
        let node = &self.nodes[number];
        let is_exhausted = |volume: &&PodVolume| {
            let spec = &volume.spec;
            let driver = self.store.get::<CSIDriver>("", &spec.driver);
            let name = volumes::attachment_name(&spec.handle, &spec.driver, &node.info.name);
            let attachment = self.store.get::<VolumeAttachment>("", &name);
            volumes::is_exhausted(driver.map(|driver| &**driver), attachment.map(|attachment| &**attachment))
        };
        let found = node.machine.volumes().waiting(uid).find(is_exhausted).map(|volume| volume.spec.driver.clone());
        if node.cut || found.is_none() {
            return false;
        }
        self.register_drivers(number);
        true
    }

    fn set_up_local(&mut self, number: usize, uid: &PodUid) -> Result<(), String> {
        let Some(pod) = self.nodes[number].pods.get(uid).cloned() else { return Ok(()) };
        self.make_pod_dir(number, uid);
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
                continue;
            }
            if volume.empty_dir.is_none() {
                return Err(format!("MountVolume.SetUp failed for volume \"{}\" : volumes of this kind need --live", volume.name));
            }
            self.trees.entry(format!("emptydir/{uid}/{}", volume.name)).or_default();
        }
        Ok(())
    }
}
