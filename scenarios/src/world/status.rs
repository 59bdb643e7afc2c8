//! What a pod's status shows, read from the kubelet's machine (kube-api.md §7).

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use model_node::pod::{Container, Phase, Pod, State};
use model_node::volume_manager::PodUid;
use serde_json::{Value, json};

use super::World;
use super::kubelet::{Node, status_patch};
use model_kube::object::{Key, Kind};

impl World {
    /// Writes what the status shows now, when the object is still this pod's.
    pub(super) fn write_status(&mut self, number: usize, uid: &PodUid) {
        let node = &self.nodes[number];
        if node.cut {
            return;
        }
        let Some(pod) = node.machine.pod(uid) else { return };
        let Some(object) = self.store.get::<core::Pod>(&pod.spec.namespace, &pod.spec.name) else { return };
        if object.metadata.uid.as_deref() != Some(uid) {
            return;
        }
        let status = render(node, number, pod, object, Time(self.timestamp()));
        let key = Key::new(Kind::Pod, &pod.spec.namespace, &pod.spec.name);
        // The pod was there a moment ago; should it be refused, the next change writes again.
        let _ = self.commit(&status_patch(key, status));
    }
}

fn render(node: &Node, number: usize, pod: &Pod, object: &core::Pod, now: Time) -> Value {
    let before = object.status.as_ref();
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let known = before.iter().flat_map(|status| status.conditions.iter().flatten()).find(|c| c.type_ == kind && c.status == status);
        let since = known.and_then(|condition| condition.last_transition_time.clone()).unwrap_or_else(|| now.clone());
        let mut shown = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since});
        if !holds && matches!(kind, "Ready" | "ContainersReady") {
            let names: Vec<&str> = pod.spec.containers.iter().map(|container| container.name.as_str()).collect();
            shown["reason"] = json!("ContainersNotReady");
            shown["message"] = json!(format!("containers with unready status: [{}]", names.join(" ")));
        }
        shown
    };
    let ready = pod.ready();
    let phase = match pod.phase() {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    };
    let containers = |specs: &[model_node::pod::ContainerSpec]| -> Vec<Value> {
        specs
            .iter()
            .filter_map(|spec| {
                let container = pod.container(&spec.name)?;
                let running = container.is_running();
                Some(json!({
                    "name": spec.name, "image": spec.image, "imageID": "", "ready": running, "started": running,
                    "restartCount": container.attempt, "state": state(node, pod, &spec.name, container), "lastState": {},
                }))
            })
            .collect()
    };
    let start = before.and_then(|status| status.start_time.clone()).unwrap_or(now.clone());
    let mut status = json!({
        "phase": phase, "hostIP": node.info.private_ip, "startTime": start,
        "conditions": [
            condition("PodReadyToStartContainers", pod.sandbox), condition("Initialized", pod.initialized()), condition("Ready", ready),
            condition("ContainersReady", ready), condition("PodScheduled", true),
        ],
        "containerStatuses": containers(&pod.spec.containers),
    });
    if !pod.spec.init.is_empty() {
        status["initContainerStatuses"] = json!(containers(&pod.spec.init));
    }
    if pod.sandbox {
        // A block of addresses a node, so that no two nodes' pods share one.
        status["podIP"] = json!(format!("10.{}.{}.200", (number + 1) / 256, (number + 1) % 256));
    }
    if let Some((reason, message)) = &pod.verdict {
        status["reason"] = json!(reason);
        status["message"] = json!(message);
    }
    status
}

fn state(node: &Node, pod: &Pod, name: &str, container: &Container) -> Value {
    let started = node.started.get(&(pod.spec.uid.clone(), name.to_owned()));
    // A merge patch keeps what it does not name, so the other two states are taken away by name.
    match &container.state {
        State::Waiting { reason, message } => {
            json!({"waiting": {"reason": reason, "message": message}, "running": null, "terminated": null})
        }
        State::Starting => json!({"waiting": {"reason": "ContainerCreating"}, "running": null, "terminated": null}),
        State::Running => json!({"running": {"startedAt": started}, "waiting": null, "terminated": null}),
        State::Exited(exit) => json!({
            "terminated": {"exitCode": exit.code, "reason": exit.reason, "message": exit.message, "startedAt": started},
            "waiting": null, "running": null,
        }),
    }
}
