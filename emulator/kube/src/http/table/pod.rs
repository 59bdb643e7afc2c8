//! The cells of a pod (kubernetes `printPod`).

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};

use super::format::{age, name, or, since};

pub fn cells(pod: &Pod, now: jiff::Timestamp) -> Vec<Value> {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    let sidecar = |name: &str| inits.iter().any(|one| one.name == name && one.restart_policy.as_deref() == Some("Always"));
    let mut total = spec.containers.len() + inits.iter().filter(|one| sidecar(&one.name)).count();
    if total == 0 {
        total = spec.containers.len();
    }
    let mut ready = 0;
    let condition = |kind: &str| {
        status.conditions.iter().flatten().find(|condition| condition.type_ == kind).map(|condition| condition.status == "True")
    };
    let phase = status.phase.clone().unwrap_or_default();
    let mut reason = status.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or_else(|| phase.clone());
    let gated = |condition: &k8s_openapi::api::core::v1::PodCondition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("SchedulingGated")
    };
    if status.conditions.iter().flatten().any(gated) {
        reason = "SchedulingGated".to_owned();
    }
    let mut restarts = Restarts::default();
    let mut initializing = false;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        restarts.add(container);
        let state = container.state.clone().unwrap_or_default();
        match (&state.terminated, &state.waiting) {
            (Some(ended), _) if ended.exit_code == 0 => continue,
            _ if sidecar(&container.name) && container.started == Some(true) => {
                ready += usize::from(container.ready);
                continue;
            }
            (Some(ended), _) => reason = format!("Init:{}", ended_reason(ended)),
            (None, Some(waiting)) if waiting.reason.as_deref().is_some_and(|why| !why.is_empty() && why != "PodInitializing") => {
                reason = format!("Init:{}", waiting.reason.as_deref().unwrap_or(""));
            }
            _ => reason = format!("Init:{index}/{}", inits.len()),
        }
        initializing = true;
        break;
    }
    if !initializing || condition("Initialized") == Some(true) {
        restarts = Restarts::default();
        for container in status.init_container_statuses.iter().flatten().filter(|one| sidecar(&one.name)) {
            restarts.add(container);
        }
        let (mut running, mut failed) = (false, None);
        for container in status.container_statuses.iter().flatten().rev() {
            restarts.add(container);
            let state = container.state.clone().unwrap_or_default();
            match (&state.waiting, &state.terminated) {
                (Some(waiting), _) if waiting.reason.as_deref().is_some_and(|why| !why.is_empty()) => {
                    reason = waiting.reason.clone().unwrap_or_default();
                }
                (_, Some(ended)) => {
                    reason = ended_reason(ended);
                    if ended.exit_code != 0 {
                        failed = Some(reason.clone());
                    }
                }
                _ if container.ready && state.running.is_some() => {
                    running = true;
                    ready += 1;
                }
                _ => {}
            }
        }
        if reason == "Completed" {
            if running && condition("Ready") == Some(true) {
                reason = "Running".to_owned();
            } else if let Some(failed) = failed {
                reason = failed;
            } else if running {
                reason = "NotReady".to_owned();
            }
        }
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            reason = "Unknown".to_owned();
        } else if !matches!(phase.as_str(), "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    let ip = status.pod_ips.iter().flatten().next().map(|ip| ip.ip.clone());
    let gates = spec.readiness_gates.unwrap_or_default();
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = gates.iter().filter(|gate| condition(&gate.condition_type) == Some(true)).count();
        format!("{met}/{}", gates.len())
    };
    vec![
        name(&pod.metadata),
        json!(format!("{ready}/{total}")),
        json!(reason),
        json!(restarts.show(now)),
        age(&pod.metadata, now),
        or(ip.as_deref(), "<none>"),
        or(spec.node_name.as_deref(), "<none>"),
        or(status.nominated_node_name.as_deref(), "<none>"),
        json!(gates),
    ]
}

fn ended_reason(ended: &k8s_openapi::api::core::v1::ContainerStateTerminated) -> String {
    match (ended.reason.as_deref(), ended.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended.exit_code),
    }
}

#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<jiff::Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        self.last = self.last.max(ended.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0));
    }

    fn show(&self, now: jiff::Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, since(Some(last), now)),
            _ => self.count.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pod: Value) -> (String, String, String) {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let cells = cells(&pod, jiff::Timestamp::from_second(1_800_000_000).unwrap());
        let text = |at: usize| cells[at].as_str().unwrap().to_owned();
        (text(1), text(2), text(3))
    }

    #[test]
    fn the_status_cell() {
        let of = |state: Value, ready: bool, extra: Value| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running",
                "containerStatuses": [{"name": "c", "ready": ready, "restartCount": 2, "image": "", "imageID": "", "state": state,
                    "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2027-01-15T07:59:30Z"}}}]}});
            json_patch::merge(&mut pod, &extra);
            status(pod)
        };
        let row = |ready: &str, status: &str| (ready.to_owned(), status.to_owned(), "2 (30s ago)".to_owned());
        assert_eq!(of(json!({"running": {}}), true, json!({})), row("1/1", "Running"));
        assert_eq!(of(json!({"waiting": {"reason": "CrashLoopBackOff"}}), false, json!({})), row("0/1", "CrashLoopBackOff"));
        assert_eq!(of(json!({"terminated": {"exitCode": 3}}), false, json!({})), row("0/1", "ExitCode:3"));
        let deleting = json!({"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z"}});
        assert_eq!(of(json!({"running": {}}), true, deleting), row("1/1", "Terminating"));
        let pending = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Pending"}});
        assert_eq!(status(pending), ("0/1".into(), "Pending".into(), "0".into()));
    }
}
