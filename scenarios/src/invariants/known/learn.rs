//! Learning from writes to the Kubernetes API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1 as storage;
use model_kube::object::{Change, Object};

use super::super::names::{Id, Sym};
use super::{Attachment, CsiNode, Delta, Known, Pod, Pv, Turn, is_done};

/// The annotation of a Node whose name `kubectl taint` gives to what lost its power (§2.6).
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl Known {
    /// A write was committed; none when the storage path does not care.
    pub(in super::super) fn object<'a>(&mut self, at: Duration, change: &'a Change) -> Option<Delta<'a>> {
        let gone = matches!(change, Change::Deleted(_));
        let object = change.object();
        let delta = match object {
            Object::Node(node) => Some(self.learn_node(at, node, gone)),
            Object::Pod(pod) => Some(self.learn_pod(at, pod, gone)),
            Object::PersistentVolumeClaim(claim) => {
                let id = self.names.id(claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
                // Duties name it by its uid.
                self.names.sym(claim.metadata.uid.as_deref().unwrap_or(""));
                let old = if gone { self.claims.remove(&id) } else { self.claims.insert(id, claim.clone()) };
                Some(Delta::Claim { id, old, new: (!gone).then_some(claim) })
            }
            Object::PersistentVolume(pv) => Some(self.learn_pv(pv, gone)),
            Object::VolumeAttachment(attachment) => Some(self.learn_attachment(attachment, gone)),
            Object::CSINode(node) => {
                self.learn_csi_node(at, node, gone);
                None
            }
            Object::CSIDriver(driver) => {
                let name = self.names.sym(driver.metadata.name.as_deref().unwrap_or(""));
                match gone {
                    true => self.attach_required.remove(&name),
                    false => self.attach_required.insert(name, driver.spec.attach_required.unwrap_or(true)),
                };
                None
            }
            Object::Custom { plural, object } if &**plural == "volumesnapshots" || &**plural == "volumesnapshotcontents" => {
                let key = (self.names.sym(plural), self.names.id(object.metadata.namespace.as_deref(), object.metadata.name.as_deref()));
                let old = if gone { self.customs.remove(&key) } else { self.customs.insert(key, object.clone()) };
                Some(Delta::Custom { plural, object, old, gone })
            }
            _ => None,
        };
        self.user = self.by_user.take().is_some_and(|key| key == object.key());
        delta
    }

    fn learn_node<'a>(&mut self, at: Duration, new: &Arc<core::Node>, gone: bool) -> Delta<'a> {
        let name = self.names.sym(new.metadata.name.as_deref().unwrap_or(""));
        let status = new.status.as_ref().filter(|_| !gone);
        let old = self.node_mut(name).object.take();
        let before = old.as_ref().and_then(|old| old.status.as_ref());
        let (in_use, attached) = (status.and_then(|s| s.volumes_in_use.as_ref()), status.and_then(|s| s.volumes_attached.as_ref()));
        let mut turned = (Turn::default(), Turn::default());
        if in_use != before.and_then(|before| before.volumes_in_use.as_ref()) {
            let now = in_use.into_iter().flatten().filter_map(|name| Some(self.names.sym(handle(name)?))).collect();
            turned.0 = turn(&mut self.node_mut(name).in_use, now);
        }
        if attached != before.and_then(|before| before.volumes_attached.as_ref()) {
            let now = attached.into_iter().flatten().filter_map(|volume| Some(self.names.sym(handle(&volume.name)?))).collect();
            turned.1 = turn(&mut self.node_mut(name).attached, now);
        }
        // `aws:///us-east-1a/i-0123456789abcdef0`
        let instance = new.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).and_then(|id| id.rsplit('/').next());
        let instance = instance.filter(|id| id.starts_with("i-")).map(|id| self.names.sym(id));
        let node = self.node_mut(name);
        if !gone {
            let ready = status.is_some_and(|status| {
                status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
            });
            node.unready_since = if ready { None } else { node.unready_since.or(Some(at)) };
            let mut taints = new.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
            node.out_of_service = taints.any(|taint| taint.key == OUT_OF_SERVICE);
            node.object = Some(new.clone());
            node.instance = node.instance.or(instance);
        } else {
            (node.unready_since, node.out_of_service) = (None, false);
        }
        if let Some(instance) = instance {
            self.instances.entry(instance).or_insert(name);
        }
        Delta::Node { name, in_use: turned.0, attached: turned.1, gone }
    }

    fn learn_pod<'a>(&mut self, at: Duration, new: &Arc<core::Pod>, gone: bool) -> Delta<'a> {
        let id = self.names.id(new.metadata.namespace.as_deref(), new.metadata.name.as_deref());
        let node = new.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty());
        let node = node.map(|name| self.names.sym(name));
        let uid = new.metadata.uid.as_deref().unwrap_or("");
        let uid = self.names.sym(uid);
        let mut old = self.pods.remove(&id);
        let before = old.as_ref().map(|old| (old.object.clone(), old.node));
        if gone || old.as_ref().is_some_and(|old| old.uid != uid) {
            if let Some(old) = &old {
                self.forget_pod(id, old);
            }
            if gone {
                return Delta::Pod { id, old: before, last: old };
            }
            old = None;
        }
        let mut pod = old.unwrap_or_else(|| {
            let claims = self.claims_of(new);
            for claim in &claims {
                self.pods_of_claim.entry(*claim).or_default().insert(id);
            }
            self.pods_by_uid.insert(uid, id);
            Pod { object: new.clone(), uid, node, bound_at: at, claims, counted: Vec::new() }
        });
        if pod.node != node {
            (pod.node, pod.bound_at) = (node, at);
        }
        pod.object = new.clone();
        if let Some(node) = node {
            if is_done(new) {
                self.uncount(node, &std::mem::take(&mut pod.counted));
            } else if pod.counted.is_empty() && !pod.claims.is_empty() {
                pod.counted = self.volumes_of(&pod.claims);
                for (driver, volume) in &pod.counted {
                    *self.node_volumes.entry((node, *driver)).or_default().entry(*volume).or_default() += 1;
                }
            }
        }
        self.pods.insert(id, pod);
        Delta::Pod { id, old: before, last: None }
    }

    fn forget_pod(&mut self, id: Id, old: &Pod) {
        self.pods_by_uid.remove(&old.uid);
        for claim in &old.claims {
            if let Some(pods) = self.pods_of_claim.get_mut(claim) {
                pods.remove(&id);
                if pods.is_empty() {
                    self.pods_of_claim.remove(claim);
                }
            }
        }
        if let Some(node) = old.node {
            self.uncount(node, &old.counted);
        }
    }

    fn uncount(&mut self, node: Sym, counted: &[(Sym, Sym)]) {
        for (driver, volume) in counted {
            let Some(volumes) = self.node_volumes.get_mut(&(node, *driver)) else { continue };
            let Some(pods) = volumes.get_mut(volume) else { continue };
            *pods -= 1;
            if *pods == 0 {
                volumes.remove(volume);
            }
        }
    }

    fn claims_of(&mut self, pod: &core::Pod) -> Vec<Id> {
        let namespace = pod.metadata.namespace.as_deref();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut claims = Vec::new();
        for volume in volumes {
            if let Some(claim) = &volume.persistent_volume_claim {
                claims.push(self.names.id(namespace, Some(&claim.claim_name)));
            } else if volume.ephemeral.is_some() {
                let name = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or(""), volume.name);
                claims.push(self.names.id(namespace, Some(&name)));
            }
        }
        claims
    }

    fn learn_pv<'a>(&mut self, new: &'a Arc<core::PersistentVolume>, gone: bool) -> Delta<'a> {
        let name = self.names.sym(new.metadata.name.as_deref().unwrap_or(""));
        let old = self.pvs.remove(&name);
        if let Some(handle) = old.as_ref().and_then(|old| old.handle)
            && let Some(pvs) = self.pvs_of_volume.get_mut(&handle)
        {
            pvs.remove(&name);
            if pvs.is_empty() {
                self.pvs_of_volume.remove(&handle);
            }
        }
        if !gone {
            let spec = new.spec.as_ref();
            let csi = spec.and_then(|spec| spec.csi.as_ref());
            let handle = csi.map(|csi| self.names.sym(&csi.volume_handle));
            let driver = self.names.sym(csi.map_or("", |csi| &csi.driver));
            let claim = spec.and_then(|spec| spec.claim_ref.as_ref());
            let claim = claim.map(|claim| self.names.id(claim.namespace.as_deref(), claim.name.as_deref()));
            if let Some(handle) = handle {
                self.pvs_of_volume.entry(handle).or_default().insert(name);
            }
            self.pvs.insert(name, Pv { object: new.clone(), handle, driver, claim });
        }
        Delta::Pv { name, old: old.map(|old| old.object), new: (!gone).then_some(new) }
    }

    fn learn_attachment<'a>(&mut self, new: &storage::VolumeAttachment, gone: bool) -> Delta<'a> {
        let name = self.names.sym(new.metadata.name.as_deref().unwrap_or(""));
        let node = self.names.sym(&new.spec.node_name);
        let driver = self.names.sym(&new.spec.attacher);
        self.attach_required.entry(driver).or_insert(true);
        let pv = new.spec.source.persistent_volume_name.as_deref().map(|pv| self.names.sym(pv));
        let uid = self.names.sym(new.metadata.uid.as_deref().unwrap_or(""));
        let old = self.attachments.remove(&name);
        let volume = pv.and_then(|pv| self.pvs.get(&pv)?.handle).or(old.as_ref().and_then(|old| old.volume));
        if gone {
            if let Some(volume) = volume {
                self.attachment_of.remove(&(volume, node));
            }
            return Delta::Attachment { name, old, new: None };
        }
        if let Some(volume) = volume {
            self.attachment_of.insert((volume, node), name);
        }
        let attached = new.status.as_ref().is_some_and(|status| status.attached);
        let deleting = new.metadata.deletion_timestamp.is_some();
        let finalizer = new.metadata.finalizers.iter().flatten().any(|name| name.starts_with("external-attacher/"));
        let state = Attachment { uid, pv, volume, node, attached, deleting, finalizer };
        self.attachments.insert(name, state.clone());
        Delta::Attachment { name, old, new: Some(state) }
    }

    fn learn_csi_node(&mut self, at: Duration, new: &storage::CSINode, gone: bool) {
        let name = self.names.sym(new.metadata.name.as_deref().unwrap_or(""));
        let old = self.csi_nodes.remove(&name);
        if gone {
            return;
        }
        let mut limits = BTreeMap::new();
        for driver in &new.spec.drivers {
            if let Some(count) = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count) {
                limits.insert(self.names.sym(&driver.name), usize::try_from(count).unwrap_or(0));
            }
        }
        let since = old.filter(|old| old.limits == limits).map_or(at, |old| old.since);
        self.csi_nodes.insert(name, CsiNode { since, limits });
    }
}

/// `vol-1` of `kubernetes.io/csi/ebs.csi.aws.com^vol-1`.
fn handle(unique: &str) -> Option<&str> {
    unique.strip_prefix("kubernetes.io/csi/")?.split_once('^').map(|(_, handle)| handle)
}

fn turn(set: &mut BTreeSet<Sym>, now: BTreeSet<Sym>) -> Turn {
    let came = now.difference(set).copied().collect();
    let went = set.difference(&now).copied().collect();
    *set = now;
    Turn { came, went }
}
