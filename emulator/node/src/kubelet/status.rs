//! What a pod's status shows: derived from the machine; the times are the shell's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod as ApiPod;
use k8s_openapi::jiff::Timestamp;
use model_node::pod::{Exit, Phase, Pod, State};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The times of one container's runs.
#[derive(Debug, Clone, Default)]
struct Run {
    attempt: u32,
    started: Option<String>,
    finished: Option<String>,
    words: Option<String>,
}

/// The times of a pod.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// `status.startTime`.
    pub started: String,
    current: BTreeMap<String, Run>,
    last: BTreeMap<String, Run>,
    /// When a condition got its status.
    conditions: BTreeMap<&'static str, (bool, String)>,
}

impl Times {
    /// The times of a pod that this node took on at a time.
    pub fn new(started: String) -> Self {
        Self { started, ..Self::default() }
    }

    /// A container started.
    pub fn started(&mut self, name: &str, attempt: u32) {
        let run = Run { attempt, started: Some(super::now()), ..Run::default() };
        if let Some(before) = self.current.insert(name.to_owned(), run) {
            self.last.insert(name.to_owned(), before);
        }
    }

    /// A container ended; its last words.
    pub fn finished(&mut self, name: &str, words: Option<String>) {
        if let Some(run) = self.current.get_mut(name) {
            run.finished = Some(super::now());
            run.words = words;
        }
    }
}

/// A time of the API as it writes it.
pub fn time(time: &Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The id of a container's run, as the status shows it.
pub fn container_id(uid: &str, name: &str, attempt: u32) -> String {
    format!("ebbtide://{}", hex::encode(Sha256::digest(format!("{uid}/{name}/{attempt}"))))
}

/// `status` of a pod, to be merged into the API's.
pub fn pod_status(pod: &Pod, api: &ApiPod, times: &mut Times, ip: &str) -> Value {
    let uid = &*pod.spec.uid;
    let spec = api.spec.clone().unwrap_or_default();
    let phase = match pod.phase() {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    };
    let statuses = |containers: &[k8s_openapi::api::core::v1::Container]| -> Vec<Value> {
        containers.iter().map(|container| container_status(pod, container, times, uid)).collect()
    };
    let (main, init) = (statuses(&spec.containers), statuses(spec.init_containers.as_deref().unwrap_or_default()));
    let ended = matches!(pod.phase(), Phase::Succeeded | Phase::Failed);
    let names = |wanted: &dyn Fn(&str) -> bool| {
        let names: Vec<_> = spec.containers.iter().map(|container| container.name.as_str()).filter(|name| wanted(name)).collect();
        names.join(" ")
    };
    let unready = names(&|name| !pod.container(name).is_some_and(|container| container.is_ready()));
    let not_ready = match ended {
        true => (pod.phase() == Phase::Succeeded).then_some("PodCompleted").or(Some("PodFailed")).map(|reason| (reason, String::new())),
        false => Some(("ContainersNotReady", format!("containers with unready status: [{unready}]"))),
    };
    let uninitialized = Some(("ContainersNotInitialized", {
        let names: Vec<_> = spec.init_containers.iter().flatten().map(|init| init.name.as_str()).collect();
        format!("containers with incomplete status: [{}]", names.join(" "))
    }));
    let generation = api.metadata.generation;
    let mut condition = |kind: &'static str, holds: bool, why: Option<(&str, String)>| {
        let since = match times.conditions.get(kind) {
            Some((before, since)) if *before == holds => since.clone(),
            _ => super::now(),
        };
        times.conditions.insert(kind, (holds, since.clone()));
        let mut shown = json!({"type": kind, "status": if holds { "True" } else { "False" }, "observedGeneration": generation,
            "lastProbeTime": null, "lastTransitionTime": since});
        let why = if holds { (ended && kind == "Initialized").then(|| ("PodCompleted", String::new())) } else { why };
        if let Some((reason, message)) = why {
            shown["reason"] = json!(reason);
            if !message.is_empty() {
                shown["message"] = json!(message);
            }
        }
        shown
    };
    let mut conditions = vec![
        condition("PodReadyToStartContainers", pod.sandbox, None),
        condition("Initialized", pod.initialized(), uninitialized),
        condition("Ready", pod.ready(), not_ready.clone()),
        condition("ContainersReady", pod.ready(), not_ready),
    ];
    let ours = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];
    let theirs = api.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.extend(theirs.filter(|condition| !ours.contains(&condition.type_.as_str())).map(|condition| json!(condition)));
    let mut status = json!({
        "phase": phase, "observedGeneration": generation, "conditions": conditions, "startTime": times.started,
        "hostIP": ip, "hostIPs": [{"ip": ip}], "qosClass": qos_class(&spec), "containerStatuses": main,
    });
    if pod.sandbox || ended {
        status["podIP"] = json!(ip);
        status["podIPs"] = json!([{"ip": ip}]);
    }
    if !init.is_empty() {
        status["initContainerStatuses"] = json!(init);
    }
    if let Some((reason, message)) = &pod.verdict {
        status["reason"] = json!(reason);
        status["message"] = json!(message);
    }
    status
}

fn container_status(pod: &Pod, spec: &k8s_openapi::api::core::v1::Container, times: &Times, uid: &str) -> Value {
    let name = &spec.name;
    let waiting_for_init = !pod.initialized() && pod.spec.containers.iter().any(|container| container.name == *name);
    let creating =
        json!({"waiting": {"reason": if waiting_for_init && !pod.spec.init.is_empty() { "PodInitializing" } else { "ContainerCreating" }}});
    let Some(container) = pod.container(name) else { return json!({"name": name, "state": creating}) };
    let run = times.current.get(name);
    let terminated = |exit: &Exit, run: Option<&Run>| {
        let mut shown = json!({"exitCode": exit.code, "reason": exit.reason});
        if let Some(run) = run {
            shown["startedAt"] = json!(run.started);
            shown["finishedAt"] = json!(run.finished);
            shown["containerID"] = json!(container_id(uid, name, run.attempt));
        }
        let words = run.and_then(|run| run.words.clone()).filter(|_| exit.message.is_empty());
        if let Some(message) = words.or_else(|| Some(exit.message.clone()).filter(|message| !message.is_empty())) {
            shown["message"] = json!(message);
        }
        json!({"terminated": shown})
    };
    // Between two runs the current times are those of the run that ended.
    let between = matches!(&container.state, State::Waiting { .. } | State::Starting);
    let state = match &container.state {
        State::Waiting { reason, .. } if reason == "ContainerCreating" => creating,
        State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        State::Starting => creating,
        State::Running => json!({"running": {"startedAt": run.and_then(|run| run.started.clone())}}),
        State::Exited(exit) => terminated(exit, run),
    };
    let last_run = if between { run } else { times.last.get(name) };
    let last_state = container.last.as_ref().map_or_else(|| json!({}), |exit| terminated(exit, last_run));
    let (ready, started) = (container.is_ready(), container.is_started());
    let image = spec.image.clone().unwrap_or_default();
    let mounts: Vec<_> = spec
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| {
            let mut shown = json!({"name": mount.name, "mountPath": mount.mount_path});
            if mount.read_only == Some(true) {
                shown["readOnly"] = json!(true);
                shown["recursiveReadOnly"] = json!(mount.recursive_read_only.as_deref().unwrap_or("Disabled"));
            }
            shown
        })
        .collect();
    let mut shown = json!({
        "name": name, "state": state, "lastState": last_state, "ready": ready, "started": started, "restartCount": container.attempt,
        "image": image, "imageID": if run.is_some() { image.as_str() } else { "" }, "volumeMounts": mounts,
    });
    if let Some(run) = run {
        shown["containerID"] = json!(container_id(uid, name, run.attempt));
    }
    shown
}

/// Guaranteed, Burstable or BestEffort, by the containers' resources.
fn qos_class(spec: &k8s_openapi::api::core::v1::PodSpec) -> &'static str {
    let all: Vec<_> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    let resources = |container: &k8s_openapi::api::core::v1::Container| container.resources.clone().unwrap_or_default();
    let counted = ["cpu", "memory"];
    let any = |map: &Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        map.iter().flatten().any(|(name, _)| counted.contains(&name.as_str()))
    };
    if !all.iter().any(|container| any(&resources(container).requests) || any(&resources(container).limits)) {
        return "BestEffort";
    }
    let guaranteed = all.iter().all(|container| {
        let (limits, requests) = (resources(container).limits.unwrap_or_default(), resources(container).requests.unwrap_or_default());
        counted.iter().all(|name| limits.contains_key(*name) && requests.get(*name).is_none_or(|asked| Some(asked) == limits.get(*name)))
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}
