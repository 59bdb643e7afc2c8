//! Who a node is in the API: its Node with the status, and its Lease (kubernetes-storage-path.md §3.9, §7).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use model_aws::world;
use model_kube::object::{Kind, Object};
use model_kube::write::{ApiError, Patch, Subresource, Write};
use model_node::node_status::{self, LOOK, LOOK_SPREAD, REPORT};
use serde_json::{Value, json};

use super::super::clock::Part;
use super::super::{Event, World};

/// How often a kubelet renews its lease: a quarter of its 40 s.
const BEAT: Duration = Duration::from_secs(10);
/// How long `registerWithAPIServer` waits at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(7);

/// What of a Node's status does not change while its machine runs.
pub(super) fn identity(info: &world::Node) -> core::NodeStatus {
    let amounts = [("cpu", "2"), ("memory", "8Gi"), ("pods", "110"), ("ephemeral-storage", "20Gi")];
    let amounts = Some(amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.into()))).into());
    let address = |kind: &str, address: String| core::NodeAddress { type_: kind.into(), address };
    core::NodeStatus {
        capacity: amounts.clone(),
        allocatable: amounts,
        addresses: Some(vec![address("InternalIP", info.private_ip.to_string()), address("Hostname", info.name.clone())]),
        ..core::NodeStatus::default()
    }
}

impl World {
    /// The kubelet makes its Node, or finds it there and sees to its labels (`registerWithAPIServer`): as often as it takes, and then never
    /// again in its life, whatever becomes of the Node.
    pub(in crate::world) fn register(&mut self, number: usize, wait: Option<Duration>) {
        let wait = wait.unwrap_or(FIRST_WAIT);
        if self.nodes[number].cut || self.make_node(number).is_err() || self.csi_node(number).is_err() {
            return self.clock.after(wait, Event::Register(number, (2 * wait).min(LONGEST_WAIT)));
        }
        self.post_status(number);
        self.clock.after(LOOK, Event::Look(number));
    }

    fn make_node(&mut self, number: usize) -> Result<(), ApiError> {
        let (info, key) = (self.nodes[number].info.clone(), self.nodes[number].key());
        let annotation = ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned());
        let Some(there) = self.store.get::<core::Node>("", &info.name) else {
            let conditions = node_status::conditions(&[], &Time(self.timestamp()));
            let node = core::Node {
                metadata: ObjectMeta {
                    name: Some(info.name),
                    labels: Some(info.labels),
                    annotations: Some([annotation].into()),
                    ..ObjectMeta::default()
                },
                spec: Some(core::NodeSpec { provider_id: Some(info.provider_id), ..core::NodeSpec::default() }),
                status: Some(core::NodeStatus { conditions: Some(conditions), ..self.nodes[number].identity.clone() }),
            };
            return self.commit(&Write::create(node)).map(drop);
        };
        let known = there.metadata.labels.clone().unwrap_or_default();
        let labels: serde_json::Map<_, _> = info
            .labels
            .into_iter()
            .filter(|(name, value)| known.get(name) != Some(value))
            .map(|(name, value)| (name, json!(value)))
            .collect();
        let managed = there.metadata.annotations.as_ref().is_some_and(|known| known.get(&annotation.0) == Some(&annotation.1));
        if labels.is_empty() && managed {
            return Ok(());
        }
        self.commit(&Write::merge(key, json!({"metadata": {"labels": labels, "annotations": {annotation.0: annotation.1}}}))).map(drop)
    }

    /// A look at the Node as the kubelet's watch shows it (`tryUpdateNodeStatus`).
    pub(in crate::world) fn look_at_node(&mut self, number: usize) {
        let late = self.latencies.spread(LOOK_SPREAD);
        self.clock.after(LOOK + late, Event::Look(number));
        self.refresh_drivers(number);
        let Some(changed) = self.differs(number) else { return };
        let spread = if changed { self.latencies.spread(REPORT) } else { Duration::ZERO };
        let now = self.clock.now();
        let node = &mut self.nodes[number];
        let since = node.posted.map(|at| now.saturating_sub(at));
        if node.reports.look(changed, since, spread) {
            self.soon(Part::Write, Event::Post(number));
        }
    }

    /// Whether the watch shows something else than the kubelet would write; none: it shows no such Node.
    fn differs(&self, number: usize) -> Option<bool> {
        let node = &self.nodes[number];
        let shown = node.seen.as_ref()?.status.as_ref();
        let conditions = shown.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let in_use = shown.and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
        let lost = |reported: &std::collections::BTreeSet<_>| {
            reported.len() != in_use.len() || !in_use.iter().all(|volume| reported.contains(volume.as_str()))
        };
        Some(
            node_status::conditions_differ(conditions)
                || shown.is_none_or(|shown| node_status::identity_differs(shown, &node.identity))
                || node.machine.volumes().reported().is_some_and(lost),
        )
    }

    /// The node's status as it is now, `volumesInUse` with it unless the volume manager is about to write it itself.
    pub(in crate::world) fn post_status(&mut self, number: usize) {
        let now = Time(self.timestamp());
        let node = &self.nodes[number];
        if node.cut {
            return;
        }
        let shown = self.store.get::<core::Node>("", &node.info.name).and_then(|node| node.status.as_ref());
        let conditions = node_status::conditions(shown.and_then(|status| status.conditions.as_deref()).unwrap_or_default(), &now);
        let mut status = json!({"conditions": conditions});
        if shown.is_none_or(|shown| node_status::identity_differs(shown, &node.identity)) {
            status["capacity"] = json!(node.identity.capacity);
            status["allocatable"] = json!(node.identity.allocatable);
            status["addresses"] = json!(node.identity.addresses);
        }
        if let Some(in_use) = node.machine.volumes().reported() {
            status["volumesInUse"] = json!(in_use);
        }
        let patch = Patch::Strategic(json!({ "status": status }));
        let write = Write::Patch { key: node.key(), patch, subresource: Subresource::Status };
        // Of a write that is refused nothing is left to do: the next look writes.
        if self.commit(&write).is_ok() {
            self.nodes[number].posted = Some(self.clock.now());
        }
    }

    /// The kubelet's sign of life. A lost one is made good by the next.
    pub(in crate::world) fn beat(&mut self, number: usize) {
        self.clock.after(BEAT, Event::Beat(number));
        if self.nodes[number].cut {
            return;
        }
        let name = &self.nodes[number].info.name;
        let time = json!(MicroTime(self.timestamp()));
        if let Some(mut lease) = self.store.get::<Lease>("kube-node-lease", name).cloned() {
            Arc::make_mut(&mut lease).spec.get_or_insert_default().renew_time = Some(MicroTime(self.timestamp()));
            let _ = self.commit(&Write::update(Object::Lease(lease)));
        } else if let Some(lease) = self.new_lease(name, &time) {
            let _ = self.commit(&Write::Create { object: lease });
        }
    }

    /// A lease belongs to its Node, and there is none without (`SetNodeOwnerFunc`).
    fn new_lease(&self, name: &str, time: &Value) -> Option<Object> {
        let owner = self.store.get::<core::Node>("", name)?.metadata.uid.clone();
        let json = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name, "namespace": "kube-node-lease",
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": owner}],
            },
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": time},
        });
        Object::from_json(&Kind::Lease, json).ok()
    }
}
