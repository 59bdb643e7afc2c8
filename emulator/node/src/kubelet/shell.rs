//! The shell around the machine: one task feeds it, others carry out its effects and report back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use model_common::fixes::Fixes;
use model_node::kubelet::{Effect, Input, Kubelet};
use model_node::pod::{Phase, PodEffect, PodSpec, PodTimer, ProbeKind, StartError};
use model_node::volume_manager::{self as vm, Layout, PodUid, PodVolume, VolumeName};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::drivers::Drivers;
use super::events::{Note, Recorder};
use super::journal::Journal;
use super::requests::{attach_limit, patch_status, resolve};
use super::server::Registry;
use super::status::{Times, pod_status};
use super::volumes::{Executor, find_mounts};
use super::{KubeletConfig, api_message, containers, local};
use crate::pods::log::{LogDir, LogWriter};
use crate::pods::{Container, Runtime, probe};

/// What arrives at the shell.
pub enum Message {
    Pod(Box<Pod>),
    Gone(String),
    Listed(Vec<Pod>),
    Attached(BTreeSet<VolumeName>),
    Input(Input),
    /// An [`Input::Resolved`] with what the shell keeps of it.
    Resolved(PodUid, Result<Vec<PodVolume>, String>),
    Running(PodUid, String, u32, Arc<Container>),
    /// The status of a pod was written, or is to be tried again.
    Wrote(PodUid),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum TimerKey {
    Volume(vm::Timer),
    Pod(PodUid, PodTimer),
}

/// What the shell keeps of a pod.
struct Record {
    api: Arc<Pod>,
    volumes: Arc<Vec<PodVolume>>,
    times: Times,
    running: BTreeMap<String, Arc<Container>>,
    writing: bool,
    dirty: bool,
    written: Option<serde_json::Value>,
}

pub struct Shell {
    config: KubeletConfig,
    client: kube::Client,
    executor: Arc<Executor>,
    runtime: Runtime,
    recorder: Recorder,
    registry: Registry,
    machine: Kubelet,
    pods: HashMap<PodUid, Record>,
    timers: HashMap<TimerKey, AbortHandle>,
    sender: mpsc::UnboundedSender<Message>,
    journal: Option<Journal>,
}

impl Shell {
    pub fn new(
        config: KubeletConfig,
        client: kube::Client,
        drivers: Drivers,
        registry: Registry,
        sender: mpsc::UnboundedSender<Message>,
    ) -> Self {
        let executor =
            Arc::new(Executor { client: client.clone(), node: config.node_name.clone(), kubelet_dir: config.kubelet_dir.clone(), drivers });
        let layout = Layout { root: config.kubelet_dir.display().to_string() };
        let begin = vm::Config { node: config.node_name.clone(), layout, eager: config.eager, fixes: Fixes::default() };
        // One that cannot be opened is evidence lost, and nothing else.
        let open = |directory: &PathBuf| {
            Journal::open(directory, &begin).inspect_err(|error| tracing::warn!(%error, "cannot open the kubelet's journal")).ok()
        };
        let journal = config.journal.as_ref().and_then(open);
        let machine = Kubelet::new(begin);
        let recorder = Recorder::start(client.clone(), config.node_name.clone());
        let runtime = Runtime { helper: config.container_helper.clone() };
        Self {
            config,
            client,
            executor,
            runtime,
            recorder,
            registry,
            machine,
            pods: HashMap::new(),
            timers: HashMap::new(),
            sender,
            journal,
        }
    }

    /// Runs for ever.
    pub async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let found = find_mounts(&self.config.kubelet_dir);
        if !found.is_empty() {
            tracing::info!(mounts = found.len(), "found mounts of an earlier run");
        }
        self.feed(Input::Booted(found));
        let mut housekeeping = tokio::time::interval(Duration::from_secs(2));
        let mut listed = false;
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => {
                        listed |= matches!(message, Message::Listed(_));
                        self.receive(message);
                    }
                    None => return,
                },
                _ = housekeeping.tick() => if listed { self.remove_orphans() },
            }
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.see(*pod),
            Message::Gone(uid) => self.gone(&uid),
            Message::Listed(pods) => {
                let listed: BTreeSet<String> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
                let known: Vec<_> = self.pods.keys().filter(|uid| !listed.contains(&***uid)).cloned().collect();
                known.iter().for_each(|uid| self.gone(uid));
                pods.into_iter().for_each(|pod| self.see(pod));
                self.feed(Input::Synced);
            }
            Message::Attached(attached) => self.feed(Input::Volume(vm::Input::NodeAttached(attached))),
            Message::Input(input) => {
                self.note_times(&input);
                self.feed(input);
            }
            Message::Resolved(pod, result) => {
                if let (Some(record), Ok(volumes)) = (self.pods.get_mut(&pod), &result) {
                    record.volumes = Arc::new(volumes.clone());
                }
                self.feed(Input::Resolved { pod, result });
            }
            Message::Running(pod, name, attempt, container) => {
                if let Some(record) = self.pods.get_mut(&pod) {
                    self.registry.started(&record.api, &name, attempt, container.clone());
                    record.running.insert(name.clone(), container);
                }
                self.receive(Message::Input(Input::Started { pod, container: name, result: Ok(()) }));
            }
            Message::Wrote(uid) => {
                if let Some(record) = self.pods.get_mut(&uid) {
                    record.writing = false;
                    if std::mem::take(&mut record.dirty) {
                        self.write_status(&uid);
                    }
                }
            }
        }
    }

    fn see(&mut self, pod: Pod) {
        let spec = Arc::new(PodSpec::from_api(&pod));
        let status = pod.status.clone().unwrap_or_default();
        let ended = match status.phase.as_deref() {
            Some("Succeeded") => Some(Phase::Succeeded),
            Some("Failed") => Some(Phase::Failed),
            _ => None,
        };
        let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let ran = all.filter(|status| status.container_id.is_some());
        let restarts = ran.map(|status| (status.name.clone(), u32::try_from(status.restart_count).unwrap_or(0))).collect();
        let deleting = pod.metadata.deletion_timestamp.as_ref().map(|_| {
            Duration::from_secs(pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30))
        });
        self.registry.pod(&pod);
        let api = Arc::new(pod);
        let record = self.pods.entry(spec.uid.clone()).or_insert_with(|| Record {
            api: api.clone(),
            volumes: Arc::default(),
            times: Times::new(status.start_time.as_ref().map_or_else(super::now, |time| super::status::time(&time.0))),
            running: BTreeMap::new(),
            writing: false,
            dirty: false,
            written: None,
        });
        record.api = api;
        // The containers of this node end with its first process, the kubelet's: none is left from an earlier life.
        self.feed(Input::Pod { spec, deleting, ended, restarts, running: BTreeMap::new() });
    }

    fn gone(&mut self, uid: &str) {
        self.feed(Input::PodGone(uid.into()));
        self.forget_if_gone(&uid.into());
    }

    fn forget_if_gone(&mut self, uid: &PodUid) {
        if self.machine.pod(uid).is_none()
            && let Some(record) = self.pods.remove(uid)
        {
            self.registry.forget(&record.api);
            self.timers.retain(|key, handle| {
                let keep = !matches!(key, TimerKey::Pod(of, _) if of == uid);
                if !keep {
                    handle.abort();
                }
                keep
            });
        }
    }

    /// The times that a status shows are the shell's.
    fn note_times(&mut self, input: &Input) {
        match input {
            Input::Started { pod, container, result } => {
                if let Some(record) = self.pods.get_mut(pod) {
                    let attempt = self.machine.pod(pod).and_then(|pod| pod.container(container)).map_or(0, |state| state.attempt);
                    record.times.started(container, attempt);
                    if result.is_err() {
                        record.times.finished(container, None);
                    }
                }
            }
            Input::Exited { pod, container, .. } => {
                if let Some(record) = self.pods.get_mut(pod) {
                    record.running.remove(container);
                    let attempt = self.machine.pod(pod).and_then(|pod| pod.container(container)).map_or(0, |state| state.attempt);
                    let own = local::pod_dir(&self.config.kubelet_dir, pod).join("containers").join(container);
                    let words = std::fs::read(containers::termination_log(&own, attempt)).unwrap_or_default();
                    let words = String::from_utf8_lossy(&words[..words.len().min(4096)]).into_owned();
                    record.times.finished(container, Some(words).filter(|words| !words.is_empty()));
                    self.registry.ended(&record.api, container);
                    let _ = std::fs::remove_dir(own.join(attempt.to_string()));
                }
            }
            _ => {}
        }
    }

    fn feed(&mut self, input: Input) {
        let mut effects = Vec::new();
        let verdict = self.machine.step(&input, &mut effects);
        if let Some(journal) = &mut self.journal {
            journal.append(&input, &verdict, &effects);
        }
        if let Err(reject) = verdict {
            tracing::debug!(%reject, ?input, "an input did not fit");
        }
        for effect in effects {
            match effect {
                Effect::Volume(effect) => self.volume_effect(effect),
                Effect::Pod(uid, effect) => self.pod_effect(uid, effect),
            }
        }
    }

    fn volume_effect(&mut self, effect: vm::Effect) {
        match effect {
            vm::Effect::Do { op, action } => {
                let (executor, sender) = (self.executor.clone(), self.sender.clone());
                tracing::debug!(volume = %op.volume, pod = %op.pod, ?action, "volume action");
                tokio::spawn(async move {
                    let result = executor.perform(action).await;
                    if let Err(failure) = &result {
                        tracing::info!(volume = %op.volume, %failure, "volume action failed");
                    }
                    let _ = sender.send(Message::Input(Input::Volume(vm::Input::Done { op, result })));
                });
            }
            vm::Effect::ReportInUse(volumes) => {
                let (client, node, sender) = (self.client.clone(), self.config.node_name.clone(), self.sender.clone());
                tokio::spawn(async move {
                    let patch = json!({"status": {"volumesInUse": volumes}});
                    let nodes = Api::<Node>::all(client);
                    let mut wait = Duration::from_millis(50);
                    while let Err(error) = nodes.patch_status(&node, &PatchParams::default(), &Patch::Merge(&patch)).await {
                        tracing::debug!(error = api_message(&error), "volumesInUse was not written");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(Duration::from_secs(2));
                    }
                    let _ = sender.send(Message::Input(Input::Volume(vm::Input::Reported(volumes))));
                });
            }
            vm::Effect::Record(event) => {
                let about = match &event.target {
                    vm::Target::Pod(uid) => self.pods.get(uid).map(|record| pod_reference(&record.api, None)),
                    vm::Target::Claim(claim) => Some(ObjectReference {
                        kind: Some("PersistentVolumeClaim".into()),
                        api_version: Some("v1".into()),
                        namespace: Some(claim.namespace.clone()),
                        name: Some(claim.name.clone()),
                        uid: Some(claim.uid.clone()),
                        ..ObjectReference::default()
                    }),
                };
                if let Some(about) = about {
                    self.recorder.note(Note { about, warning: event.warning, reason: event.reason, message: event.message });
                }
            }
            vm::Effect::Arm(timer, wait) => {
                let input = Input::Volume(vm::Input::Fired(timer.clone()));
                self.arm(TimerKey::Volume(timer), input, wait);
            }
            vm::Effect::Disarm(timer) => self.disarm(&TimerKey::Volume(timer)),
        }
    }

    fn arm(&mut self, key: TimerKey, input: Input, wait: Duration) {
        let sender = self.sender.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = sender.send(Message::Input(input));
        });
        if let Some(old) = self.timers.insert(key, task.abort_handle()) {
            old.abort();
        }
        if self.timers.len() > 1024 {
            self.timers.retain(|_, handle| !handle.is_finished());
        }
    }

    fn disarm(&mut self, key: &TimerKey) {
        if let Some(handle) = self.timers.remove(key) {
            handle.abort();
        }
    }

    fn pod_effect(&mut self, uid: PodUid, effect: PodEffect) {
        let Some(record) = self.pods.get(&uid) else { return };
        let api = record.api.clone();
        match effect {
            PodEffect::Resolve => {
                let (client, node, sender) = (self.client.clone(), self.config.node_name.clone(), self.sender.clone());
                tokio::spawn(async move {
                    let result = resolve(&client, &node, &api).await;
                    let _ = sender.send(Message::Resolved(uid, result));
                });
            }
            PodEffect::AttachLimit => {
                let (client, node, sender) = (self.client.clone(), self.config.node_name.clone(), self.sender.clone());
                let waiting: Vec<_> = self.machine.volumes().waiting(&uid).map(|volume| volume.spec.clone()).collect();
                tokio::spawn(async move {
                    let exhausted = attach_limit(&client, &node, &waiting).await;
                    let _ = sender.send(Message::Input(Input::AttachLimit { pod: uid, exhausted }));
                });
            }
            PodEffect::SetUpLocal => {
                let (client, dir, sender) = (self.client.clone(), self.config.kubelet_dir.clone(), self.sender.clone());
                tokio::spawn(async move {
                    let result = local::set_up(&client, &dir, &api).await;
                    let ready = result.is_ok();
                    let _ = sender.send(Message::Input(Input::LocalReady { pod: uid, result }));
                    if ready {
                        // Ends with the pod's directory, or with the node.
                        local::renew_tokens(&client, &dir, &api).await;
                    }
                });
            }
            PodEffect::Start { container, attempt } => self.start(uid, container, attempt),
            PodEffect::Signal { container, kill } => {
                if let Some(running) = record.running.get(&container) {
                    running.signal(kill);
                }
            }
            PodEffect::Probe { container, kind, attempt } => self.probe(uid, container, kind, attempt),
            PodEffect::TearDownLocal => {
                let (dir, sender) = (self.config.kubelet_dir.clone(), self.sender.clone());
                tokio::task::spawn_blocking(move || {
                    let result = local::tear_down(&dir, &uid);
                    // What is left of a driver's volume there is the housekeeping's to wait for, not the pod's.
                    if let Err(why) = result.clone().and_then(|()| local::remove_dir(&dir, &uid)) {
                        tracing::info!(pod = %uid, why, "the pod's directory stays for now");
                    }
                    let _ = sender.send(Message::Input(Input::Cleaned { pod: uid, result }));
                });
            }
            PodEffect::Status => self.write_status(&uid),
            PodEffect::Delete => self.delete(uid),
            PodEffect::Record { container, warning, reason, message } => {
                let init = |name: &String| {
                    let spec = api.spec.as_ref();
                    spec.is_some_and(|spec| spec.init_containers.iter().flatten().any(|init| init.name == *name))
                };
                let path = container.map(|name| format!("spec.{}{{{name}}}", if init(&name) { "initContainers" } else { "containers" }));
                self.recorder.note(Note { about: pod_reference(&api, path), warning, reason, message });
            }
            PodEffect::Arm(timer, wait) => {
                let input = Input::PodTimer { pod: uid.clone(), timer: timer.clone() };
                self.arm(TimerKey::Pod(uid, timer), input, wait);
            }
            PodEffect::Disarm(timer) => self.disarm(&TimerKey::Pod(uid, timer)),
        }
    }

    fn probe(&self, uid: PodUid, name: String, kind: ProbeKind, attempt: u32) {
        let Some(record) = self.pods.get(&uid) else { return };
        // Without the process it ended meanwhile, and its probes with it.
        let Some(running) = record.running.get(&name).cloned() else { return };
        let (api, runtime, sender) = (record.api.clone(), self.runtime.clone(), self.sender.clone());
        let own = local::pod_dir(&self.config.kubelet_dir, &uid).join("containers").join(&name);
        tokio::spawn(async move {
            let spec = containers::find(&api, &name).and_then(|spec| Some((spec, probe::find(spec, kind)?)));
            let Some((spec, asked)) = spec else { return };
            let result = probe::run(&runtime, &running, spec, asked, &own.join(format!("probe-{kind:?}-{attempt}"))).await;
            let _ = sender.send(Message::Input(Input::Probed { pod: uid, container: name, kind, attempt, result }));
        });
    }

    fn start(&mut self, uid: PodUid, name: String, attempt: u32) {
        let Some(record) = self.pods.get(&uid) else { return };
        let (client, dir, sender, runtime) =
            (self.client.clone(), self.config.kubelet_dir.clone(), self.sender.clone(), self.runtime.clone());
        let (api, volumes, metadata) = (record.api.clone(), record.volumes.clone(), self.config.metadata.clone());
        let logs = log_dir(&self.config.log_dir, &api, &name);
        tokio::spawn(async move {
            let begin = async {
                let metadata = metadata.as_ref();
                let context = containers::Context { client: &client, kubelet_dir: &dir, volumes: &volumes, attempt, metadata };
                let config = containers::build(&context, &api, &name).await?;
                let log = LogWriter::open(logs, attempt).map_err(|error| StartError::Config(format!("open the log: {error}")))?;
                let file = local::pod_dir(&dir, &uid).join("containers").join(&name).join(format!("{attempt}.json"));
                runtime.start(&config, &file, log).await
            };
            match begin.await {
                Ok(started) => {
                    let _ = sender.send(Message::Running(uid.clone(), name.clone(), attempt, started.container.clone()));
                    let code = started.wait().await;
                    let _ = sender.send(Message::Input(Input::Exited { pod: uid, container: name, code }));
                }
                Err(error) => {
                    tracing::info!(pod = %uid, container = name, ?error, "a container did not start");
                    let _ = sender.send(Message::Input(Input::Started { pod: uid, container: name, result: Err(error) }));
                }
            }
        });
    }

    /// Writes the pod's status as it is now; one write at a time.
    fn write_status(&mut self, uid: &PodUid) {
        let (Some(pod), Some(record)) = (self.machine.pod(uid), self.pods.get_mut(uid)) else { return };
        if std::mem::replace(&mut record.writing, true) {
            record.dirty = true;
            return;
        }
        let status = pod_status(pod, &record.api, &mut record.times, &self.config.internal_ip);
        if record.written.as_ref() == Some(&status) {
            record.writing = false;
            return;
        }
        record.written = Some(status.clone());
        let (client, sender, api, uid) = (self.client.clone(), self.sender.clone(), record.api.clone(), uid.clone());
        tokio::spawn(async move {
            patch_status(&client, &api, status).await;
            let _ = sender.send(Message::Wrote(uid));
        });
    }

    /// The final status, then the object.
    fn delete(&mut self, uid: PodUid) {
        let (Some(pod), Some(record)) = (self.machine.pod(&uid), self.pods.get_mut(&uid)) else { return };
        let status = pod_status(pod, &record.api, &mut record.times, &self.config.internal_ip);
        let (client, sender, api) = (self.client.clone(), self.sender.clone(), record.api.clone());
        tokio::spawn(async move {
            patch_status(&client, &api, status).await;
            let pods = Api::<Pod>::namespaced(client, api.metadata.namespace.as_deref().unwrap_or("default"));
            let preconditions = Preconditions { uid: api.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
            let name = api.metadata.name.clone().unwrap_or_default();
            loop {
                match pods.delete(&name, &params).await {
                    Ok(_) => break,
                    // Gone already, or another pod of that name (409: the uid does not match).
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => break,
                    Err(error) => {
                        tracing::debug!(error = api_message(&error), pod = name, "the pod was not deleted");
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                }
            }
            let _ = sender.send(Message::Input(Input::Deleted(uid)));
        });
    }

    /// Housekeeping: directories of pods that are known neither here nor to the API.
    fn remove_orphans(&mut self) {
        let gone: Vec<_> = self.pods.keys().filter(|uid| self.machine.pod(uid).is_none()).cloned().collect();
        gone.iter().for_each(|uid| self.forget_if_gone(uid));
        let keeps = self.machine.keeps();
        for entry in std::fs::read_dir(self.config.kubelet_dir.join("pods")).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !keeps.contains(uid.as_str())
                && !self.machine.volumes().possibly_mounted(&uid)
                && let Err(why) =
                    local::tear_down(&self.config.kubelet_dir, &uid).and_then(|()| local::remove_dir(&self.config.kubelet_dir, &uid))
            {
                tracing::debug!(pod = uid, why, "an orphaned pod's directory stays");
            }
        }
    }
}

/// Where the logs of a pod's container lie: `<namespace>_<pod>_<uid>/<container>`.
pub fn log_dir(root: &std::path::Path, pod: &Pod, container: &str) -> LogDir {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let dir: PathBuf = format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid)).into();
    LogDir(root.join(dir).join(container))
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        api_version: Some("v1".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}
