//! How drivers become known to a kubelet: its plugin manager asks a driver's node service who it is and writes the answer into the node's
//! CSINode (kubernetes-storage-path.md §3.11). Until then no volume of the driver is mounted or unmounted.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use model_aws::world;
use model_kube::object::Kind;
use model_kube::write::{ApiError, Write};
use model_node::driver::{ebs, efs};
use serde_json::json;

use super::super::rpc::PATIENCE;
use super::super::trouble::Actor;
use super::super::{Event, Timer, Which, World};

/// The backoff of a registration that fails.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(122);
/// What the EBS driver's NodeGetInfo tells of where the node is.
const EBS_ZONE: &str = "topology.ebs.csi.aws.com/zone";

/// What a driver's NodeGetInfo answers, as the kubelet writes it down.
fn entry(info: &world::Node, which: Which) -> CSINodeDriver {
    let (name, keys, limit): (_, &[&str], _) = match which {
        Which::Ebs => {
            (ebs::DRIVER, &["kubernetes.io/os", EBS_ZONE, "topology.kubernetes.io/zone"], Some(ebs::max_volumes(&info.instance_type)))
        }
        Which::Efs => (efs::DRIVER, &["topology.kubernetes.io/zone"], None),
    };
    CSINodeDriver {
        name: name.into(),
        node_id: info.instance_id.clone(),
        topology_keys: Some(keys.iter().map(|key| (*key).to_owned()).collect()),
        allocatable: limit.map(|limit| VolumeNodeResources { count: i32::try_from(limit).ok() }),
    }
}

impl World {
    /// The kubelet finds the drivers that run on its node.
    pub(super) fn register_drivers(&mut self, number: usize) {
        for which in [Which::Ebs, Which::Efs] {
            self.register_driver(number, which, None);
        }
    }

    /// A driver's node service and the kubelet find one another. `wait`: how long to wait should it fail.
    pub(in crate::world) fn register_driver(&mut self, number: usize, which: Which, wait: Option<Duration>) {
        // Whichever of the two starts last comes here again.
        if !self.nodes[number].up || self.trouble.is_down(Actor::Plugin(number, which)) {
            return;
        }
        let met = self.trouble.meet_rpc("NodeGetInfo", Some(&self.nodes[number].info.name), "");
        self.late(if met.hang { PATIENCE } else { met.delay });
        let wait = wait.unwrap_or(FIRST_WAIT);
        if met.hang || met.refused.is_some() || met.instead.is_some() {
            let span = if met.hang { PATIENCE } else { met.delay };
            return self.register_later(number, which, span + wait, wait);
        }
        if met.delay.is_zero() {
            return self.install_driver(number, which, wait);
        }
        self.clock.arm(Timer::Registration(number, which), met.delay, Event::Install(number, which, wait));
    }

    /// Each `nodeAllocatableUpdatePeriodSeconds` (10 s, as a kubelet's look) the limit is asked for anew; where the answer stands in the
    /// CSINode already nobody can tell that it was.
    pub(super) fn refresh_drivers(&mut self, number: usize) {
        let Some(period) = self.store.get::<CSIDriver>("", ebs::DRIVER).map(|driver| driver.spec.node_allocatable_update_period_seconds)
        else {
            return;
        };
        let node = &self.nodes[number];
        if period.is_none() || !node.drivers.contains(&Which::Ebs) {
            return;
        }
        let known = self.store.get::<CSINode>("", &node.info.name);
        if !known.is_some_and(|known| known.spec.drivers.contains(&entry(&node.info, Which::Ebs))) {
            self.register_driver(number, Which::Ebs, None);
        }
    }

    fn register_later(&mut self, number: usize, which: Which, span: Duration, wait: Duration) {
        let event = Event::RegisterDriver(number, which, (2 * wait).min(LONGEST_WAIT));
        self.clock.arm(Timer::Registration(number, which), span, event);
    }

    /// The driver said who it is; when that cannot be written it is not registered (`RegistrationHandler.RegisterPlugin`).
    pub(in crate::world) fn install_driver(&mut self, number: usize, which: Which, wait: Duration) {
        if self.nodes[number].cut || self.write_driver(number, which).is_err() {
            return self.register_later(number, which, wait, wait);
        }
        self.nodes[number].drivers.insert(which);
    }

    fn write_driver(&mut self, number: usize, which: Which) -> Result<(), ApiError> {
        let (info, key) = (self.nodes[number].info.clone(), self.nodes[number].key());
        let node = self.store.get::<core::Node>("", &info.name).cloned();
        let node = node.ok_or_else(|| ApiError::not_found(&Kind::Node, &info.name))?;
        let labels = node.metadata.labels.as_ref();
        if which == Which::Ebs && labels.and_then(|labels| labels.get(EBS_ZONE)) != Some(&info.zone) {
            self.commit(&Write::merge(key, json!({"metadata": {"labels": {EBS_ZONE: info.zone}}})))?;
        }
        let mut next = (*self.csi_node(number)?).clone();
        let entry = entry(&info, which);
        if next.spec.drivers.contains(&entry) {
            return Ok(());
        }
        next.spec.drivers.retain(|driver| driver.name != entry.name);
        next.spec.drivers.push(entry);
        self.commit(&Write::update(next)).map(drop)
    }

    /// The node's CSINode, which is made without drivers where there is none; no kubelet is ready before (`InitializeCSINodeWithAnnotation`).
    pub(super) fn csi_node(&mut self, number: usize) -> Result<Arc<CSINode>, ApiError> {
        let name = self.nodes[number].info.name.clone();
        if let Some(known) = self.store.get::<CSINode>("", &name) {
            return Ok(known.clone());
        }
        let node = self.store.get::<core::Node>("", &name).ok_or_else(|| ApiError::not_found(&Kind::Node, &name))?;
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta { name: Some(name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
        let made = self.commit(&Write::create(CSINode { metadata, spec: CSINodeSpec { drivers: Vec::new() } }))?;
        made.get::<CSINode>().cloned().ok_or_else(|| ApiError::not_found(&Kind::CSINode, &name))
    }
}
