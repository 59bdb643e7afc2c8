//! The real world: a running ebbtide, or anything else that answers the AWS API and the Kubernetes API.

mod aws;
pub(crate) mod changes;
pub mod check;
mod kubernetes;
mod nodes;
mod query;
mod stop;
pub(crate) mod trouble;
mod xml;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use emulator_common::csi::faults::Rule;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::engine::{Applied, Engine, EngineError, Output};
use crate::invariants::{Facts, Found};
use crate::language::{Fault, ProfileName, Scenario, Target as ObjectTarget};
use crate::report::{Observer, Report};
use crate::runner;
use nodes::Nodes;
pub use stop::Stop;
use trouble::Troubles;

/// The machines below a cluster, for who started them: what a live run can do to them.
pub trait Machines: Send + Sync {
    /// Cuts a node's power, as `ebbtide node kill`.
    fn power_off(&self, node: &str) -> Result<(), String>;
    /// Gives it back.
    fn power_on(&self, node: &str) -> Result<(), String>;
    /// What calls to the built-in drivers meet from now on.
    fn meet(&self, rules: &[Rule]) -> Result<(), String>;
}

/// Where a live run happens.
#[derive(Clone)]
pub struct Target {
    /// `http://127.0.0.1:4566`.
    pub aws_endpoint: String,
    pub kubeconfig: PathBuf,
    /// `us-east-1`.
    pub region: String,
    /// Access key and secret; ebbtide takes any unless it was started with `--auth verify`.
    pub credentials: (String, String),
    /// None: not known, and no scenario that needs one is played.
    pub profile: Option<ProfileName>,
    /// None: nobody can make trouble below the cluster.
    pub machines: Option<Arc<dyn Machines>>,
}

impl Target {
    /// A target with the credentials that `ebbtide env` sets.
    pub fn new(aws_endpoint: impl Into<String>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            aws_endpoint: aws_endpoint.into(),
            kubeconfig: kubeconfig.into(),
            region: "us-east-1".into(),
            credentials: ("test".into(), "test".into()),
            profile: None,
            machines: None,
        }
    }

    /// What a scenario needs that is not here; none where it can be played.
    pub fn lacks(&self, scenario: &Scenario) -> Option<String> {
        let needed = scenario.spec.needs.profile.filter(|needed| self.profile != Some(*needed))?;
        Some(format!("it needs an ebbtide that runs with `up --profile {needed}`"))
    }
}

/// Plays a scenario on real devices, until `stop` at most. A run that fails or is stopped takes down what it made.
pub async fn run(scenario: &Scenario, target: &Target, stop: &Stop, observer: &mut dyn Observer) -> Report {
    let start = Instant::now();
    let begun = match target.lacks(scenario) {
        Some(why) => Err(EngineError::Unsupported(why)),
        None => Live::new(scenario, target, start, stop).await,
    };
    let played = match begun {
        Ok(mut live) => {
            let played = runner::play(scenario, &mut live, observer).await;
            if let Err(error) = live.end().await {
                observer.note(&format!("a fault of this run is still at work: {error}"));
            }
            played
        }
        Err(error) => runner::Played::not_begun(error.to_string()),
    };
    Report {
        scenario: scenario.metadata.name.clone(),
        engine: "live",
        passed: played.passed,
        interrupted: played.interrupted,
        steps: played.steps,
        violations: played.violations,
        error: played.error,
        left: played.left,
        seed: None,
        digest: None,
        inputs: None,
        virtual_time: None,
        wall: start.elapsed(),
    }
}

struct Live {
    start: Instant,
    /// Since the Unix epoch.
    began: Duration,
    /// The invariants that can be seen from outside, and the task that keeps looking.
    check: Arc<Mutex<check::Check>>,
    looking: tokio::task::JoinHandle<()>,
    nodes: Nodes,
    troubles: Troubles,
    aws: aws::Client,
    kubernetes: kubernetes::Cluster,
    stop: Stop,
    /// The nodes that were Ready when the run began.
    ready: BTreeSet<String>,
}

/// How long nodes that had no power may take to be Ready again.
const BOOT: Duration = Duration::from_secs(60);

/// The names of those of these nodes that are Ready.
fn ready(nodes: &[Value]) -> BTreeSet<String> {
    let is_ready = |node: &&Value| {
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    nodes.iter().filter(is_ready).map(|node| text(node, "/metadata/name")).collect()
}

impl Drop for Live {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// Looks on, whatever the scenario does meanwhile.
async fn look_on(check: Arc<Mutex<check::Check>>) {
    loop {
        tokio::time::sleep(check::ROUND).await;
        if let Err(error) = check.lock().await.advance().await {
            tracing::warn!(%error, "the invariants are no longer looked at");
            return;
        }
    }
}

impl Live {
    async fn new(scenario: &Scenario, target: &Target, start: Instant, stop: &Stop) -> Result<Self, EngineError> {
        let mut kubernetes = kubernetes::Cluster::connect(&target.kubeconfig).await?;
        let cluster = kubernetes.list(None, "Node", None).await?;
        let (nodes, ready) = (Nodes::find(scenario, &cluster)?, ready(&cluster));
        let place = check::Place { kubeconfig: target.kubeconfig.clone(), ec2: Some(target.clone()), names: None };
        let mut check = check::Check::begin(&place).await?;
        // What did not hold before is not this scenario's.
        check.take();
        let check = Arc::new(Mutex::new(check));
        let looking = tokio::spawn(look_on(check.clone()));
        let (troubles, aws) = (Troubles::new(target), aws::Client::new(target));
        Ok(Self { start, began: check::now(), check, looking, nodes, troubles, aws, kubernetes, stop: stop.clone(), ready })
    }

    /// Ends all trouble of this run; the nodes are Ready again afterwards, for whoever comes next.
    async fn end(&mut self) -> Result<(), EngineError> {
        self.troubles.clear().await?;
        let since = Instant::now();
        loop {
            let now = ready(&self.kubernetes.list(None, "Node", None).await?);
            let away: Vec<&str> = self.ready.difference(&now).map(String::as_str).collect();
            if away.is_empty() {
                return Ok(());
            }
            if since.elapsed() > BOOT {
                let message = format!("not Ready after {BOOT:?}: {}", away.join(", "));
                return Err(EngineError::Transport { operation: "wait for the nodes".into(), message });
            }
            tokio::time::sleep(self.poll_every()).await;
        }
    }

    /// All items of a describe that answers in pages.
    async fn all(&self, command: &str, list: &str, parameters: Value) -> Result<Vec<Value>, EngineError> {
        let mut items = Vec::new();
        let mut parameters = parameters;
        loop {
            let mut page = self.aws.call("efs", command, &parameters).await?;
            if let Some(Value::Array(found)) = page.get_mut(list).map(Value::take) {
                items.extend(found);
            }
            let next = [("NextMarker", "Marker"), ("NextToken", "NextToken")];
            match next.into_iter().find_map(|(answer, request)| Some((request, page.get(answer)?.as_str()?.to_owned()))) {
                Some((request, token)) if !token.is_empty() => parameters[request] = json!(token),
                _ => return Ok(items),
            }
        }
    }

    async fn ids(&self, command: &str, list: &str, id: &str, parameters: Value) -> Result<BTreeSet<String>, EngineError> {
        let items = self.all(command, list, parameters).await?;
        Ok(items.iter().filter_map(|item| item.get(id)?.as_str().map(str::to_owned)).collect())
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Whether an event was told, for the last time, since then. Most of their times have no more than seconds.
fn told_since(event: &Value, began: Duration) -> bool {
    let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/metadata/creationTimestamp"];
    let last = times.iter().filter_map(|pointer| event.pointer(pointer)?.as_str()?.parse::<jiff::Timestamp>().ok()).max();
    last.is_none_or(|last| i128::from(last.as_second()) >= i128::from(began.as_secs()))
}

impl Engine for Live {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
    fn poll_every(&self) -> Duration {
        Duration::from_millis(100)
    }
    fn is_live(&self) -> bool {
        true
    }
    fn stopped(&self) -> bool {
        self.stop.is_stopped()
    }
    async fn pause(&mut self, span: Duration) {
        if self.stopped() {
            // What is taken down is waited for.
            return tokio::time::sleep(span).await;
        }
        tokio::select! {
            () = tokio::time::sleep(span) => {}
            () = self.stop.stopped() => {}
        }
    }
    async fn aws(&mut self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError> {
        self.aws.call(service, command, parameters).await
    }
    async fn get(&mut self, target: &ObjectTarget) -> Result<Option<Value>, EngineError> {
        let found = self.kubernetes.get(&self.nodes.target(target)).await?;
        Ok(found.map(|object| self.nodes.inward(&object)))
    }
    async fn list(&mut self, api_version: Option<&str>, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, EngineError> {
        let found = self.kubernetes.list(api_version, kind, namespace).await?;
        // Events outlive what they tell of: those of another run say nothing of this one.
        let ours = |object: &&Value| kind != "Event" || told_since(object, self.began);
        Ok(found.iter().filter(ours).map(|object| self.nodes.inward(object)).collect())
    }
    async fn apply(&mut self, object: &Value) -> Result<Applied, EngineError> {
        self.kubernetes.apply(&self.nodes.outward(object)).await
    }
    async fn delete(&mut self, target: &ObjectTarget, grace_seconds: Option<u32>) -> Result<(), EngineError> {
        self.kubernetes.delete(&self.nodes.target(target), grace_seconds).await
    }
    async fn exec(&mut self, namespace: &str, pod: &str, container: Option<&str>, command: &[String]) -> Result<Output, EngineError> {
        tokio::select! {
            output = self.kubernetes.exec(namespace, pod, container, command) => output,
            // A command may wait for ever, and nobody wants its output any more.
            () = self.stop.stopped() => Err(EngineError::Interrupted),
        }
    }

    async fn fault(&mut self, fault: &Fault) -> Result<(), EngineError> {
        let done = self.troubles.cause(fault, &self.nodes).await;
        self.check.lock().await.faults(self.troubles.active());
        done
    }

    async fn violations(&mut self) -> Vec<Found> {
        let mut found = self.check.lock().await.take();
        found.iter_mut().for_each(|found| found.at = found.at.saturating_sub(self.began));
        found
    }

    /// What began in this run and is still due gets the time that it has, and no more.
    async fn settled(&mut self) {
        let mut check = self.check.lock().await;
        let mut last = None;
        loop {
            if let Err(error) = check.catch_up().await {
                tracing::warn!(%error, "the invariants were not looked at to the end");
                return;
            }
            let due = check.due(self.began);
            let last = *last.get_or_insert(due);
            if due.is_none() || last.is_none_or(|last| check::now() > last) || self.stop.is_stopped() {
                return;
            }
        }
    }

    /// Devices and mounts are inside the nodes and not visible from here; what is visible is what any user sees.
    async fn facts(&mut self) -> Result<Facts, EngineError> {
        let mut facts = Facts::default();
        let volumes = self.aws.call("ec2", "describe-volumes", &json!({})).await?;
        for volume in volumes["Volumes"].as_array().into_iter().flatten() {
            let id = text(volume, "/VolumeId");
            let attachments = volume["Attachments"].as_array().into_iter().flatten().filter(|of| of["State"] != "detached");
            facts.attachments.extend(attachments.map(|of| format!("{id} on {}", text(of, "/InstanceId"))));
            facts.volumes.insert(id);
        }
        facts.file_systems = self.ids("describe-file-systems", "FileSystems", "FileSystemId", json!({})).await?;
        for id in &facts.file_systems {
            // A file system may go between the two calls.
            match self.ids("describe-mount-targets", "MountTargets", "MountTargetId", json!({"FileSystemId": id})).await {
                Ok(found) => facts.mount_targets.extend(found),
                Err(EngineError::Aws { code, .. }) if code == "FileSystemNotFound" => {}
                Err(error) => return Err(error),
            }
        }
        facts.access_points = self.ids("describe-access-points", "AccessPoints", "AccessPointId", json!({})).await?;
        let names = |objects: Vec<Value>| objects.iter().map(|object| text(object, "/metadata/name")).collect();
        facts.persistent_volumes = names(self.kubernetes.list(None, "PersistentVolume", None).await?);
        let claims = self.kubernetes.list_everywhere("PersistentVolumeClaim").await?;
        let path = |claim: &Value| format!("{}/{}", text(claim, "/metadata/namespace"), text(claim, "/metadata/name"));
        facts.claims = claims.iter().map(path).collect();
        facts.volume_attachments = names(self.kubernetes.list(None, "VolumeAttachment", None).await?);
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_profile_is_played_on_that_alone() {
        let written = "{apiVersion: ebbtide.dev/v1alpha1, kind: Scenario, metadata: {name: s}, \
                       spec: {needs: {profile: aws}, steps: [{name: a, try: [{sleep: 1s}]}]}}";
        let needs = crate::language::parse("s.yaml", written).unwrap();
        let any = crate::language::parse("s.yaml", &written.replace("needs: {profile: aws}, ", "")).unwrap();
        for (profile, plays) in [(None, false), (Some(ProfileName::Instant), false), (Some(ProfileName::Aws), true)] {
            let target = Target { profile, ..Target::new("http://127.0.0.1:1", "none") };
            assert_eq!(target.lacks(&needs).is_none(), plays, "{profile:?}");
            assert_eq!(target.lacks(&any), None);
        }
        assert!(crate::language::parse("s.yaml", &written.replace("aws", "slow")).is_err());
    }

    #[test]
    fn events_of_another_run_are_not_of_this_one() {
        let began = Duration::from_millis(1_790_000_000_700);
        let event = |time: &str| json!({"lastTimestamp": time, "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}});
        let at = |seconds: i64| event(&jiff::Timestamp::from_second(seconds).unwrap().to_string());
        assert!(told_since(&at(1_790_000_000), began), "its time was cut to seconds");
        assert!(!told_since(&at(1_789_999_999), began));
        assert!(told_since(&json!({}), began), "nothing says that it is old");
    }

    #[test]
    fn a_node_is_ready_when_it_says_so() {
        let node = |name: &str, status: &str| {
            let conditions = json!([{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": status}]);
            json!({"metadata": {"name": name}, "status": {"conditions": conditions}})
        };
        assert_eq!(ready(&[node("a", "True"), node("b", "Unknown"), node("c", "False")]), BTreeSet::from(["a".to_owned()]));
    }
}
