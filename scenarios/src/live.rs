//! The real world: a running ebbtide, or anything else that answers the AWS API and the Kubernetes API.

mod aws;
mod kubernetes;
mod query;
mod xml;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::engine::{Applied, Engine, EngineError, Output};
use crate::invariants::{ClaimFact, Facts, PvFact, VolumeFact};
use crate::language::{Scenario, Target as ObjectTarget};
use crate::report::{Observer, Report};
use crate::runner;

/// Where a live run happens.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://127.0.0.1:4566`.
    pub aws_endpoint: String,
    pub kubeconfig: PathBuf,
    /// `us-east-1`.
    pub region: String,
    /// Access key and secret; ebbtide takes any unless it was started with `--auth verify`.
    pub credentials: (String, String),
}

impl Target {
    /// A target with the credentials that `ebbtide env` sets.
    pub fn new(aws_endpoint: impl Into<String>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            aws_endpoint: aws_endpoint.into(),
            kubeconfig: kubeconfig.into(),
            region: "us-east-1".into(),
            credentials: ("test".into(), "test".into()),
        }
    }
}

/// Plays a scenario on real devices. A run that fails takes down what it made.
pub async fn run(scenario: &Scenario, target: &Target, observer: &mut dyn Observer) -> Report {
    let start = Instant::now();
    let played = match Live::new(target, start).await {
        Ok(mut live) => runner::play(scenario, &mut live, observer).await,
        Err(error) => runner::Played::not_begun(error.to_string()),
    };
    Report {
        scenario: scenario.metadata.name.clone(),
        engine: "live",
        passed: played.passed,
        steps: played.steps,
        violations: played.violations,
        error: played.error,
        seed: None,
        digest: None,
        virtual_time: None,
        wall: start.elapsed(),
    }
}

struct Live {
    start: Instant,
    aws: aws::Client,
    kubernetes: kubernetes::Cluster,
}

impl Live {
    async fn new(target: &Target, start: Instant) -> Result<Self, EngineError> {
        Ok(Self { start, aws: aws::Client::new(target), kubernetes: kubernetes::Cluster::connect(&target.kubeconfig).await? })
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
    async fn pause(&mut self, span: Duration) {
        tokio::time::sleep(span).await;
    }
    async fn aws(&mut self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError> {
        self.aws.call(service, command, parameters).await
    }
    async fn get(&mut self, target: &ObjectTarget) -> Result<Option<Value>, EngineError> {
        self.kubernetes.get(target).await
    }
    async fn list(&mut self, api_version: Option<&str>, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, EngineError> {
        self.kubernetes.list(api_version, kind, namespace).await
    }
    async fn apply(&mut self, object: &Value) -> Result<Applied, EngineError> {
        self.kubernetes.apply(object).await
    }
    async fn delete(&mut self, target: &ObjectTarget, grace_seconds: Option<u32>) -> Result<(), EngineError> {
        self.kubernetes.delete(target, grace_seconds).await
    }
    async fn exec(&mut self, namespace: &str, pod: &str, container: Option<&str>, command: &[String]) -> Result<Output, EngineError> {
        self.kubernetes.exec(namespace, pod, container, command).await
    }

    /// Devices and mounts are inside the nodes and not visible from here; what is visible is what any user sees.
    async fn facts(&mut self) -> Result<Facts, EngineError> {
        let mut facts = Facts::default();
        let volumes = self.aws.call("ec2", "describe-volumes", &json!({})).await?;
        for volume in volumes["Volumes"].as_array().into_iter().flatten() {
            let attachments = volume["Attachments"].as_array().into_iter().flatten();
            facts.volumes.push(VolumeFact {
                id: text(volume, "/VolumeId"),
                multi_attach: volume["MultiAttachEnabled"] == json!(true),
                instances: attachments.filter(|a| a["State"] != "detached").map(|a| text(a, "/InstanceId")).collect(),
            });
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
        for pv in self.kubernetes.list(None, "PersistentVolume", None).await? {
            let claim = pv
                .pointer("/spec/claimRef")
                .map(|claim| (format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")), text(claim, "/uid")));
            facts.persistent_volumes.push(PvFact { name: text(&pv, "/metadata/name"), claim });
        }
        for claim in self.kubernetes.list_everywhere("PersistentVolumeClaim").await? {
            facts.claims.push(ClaimFact {
                name: format!("{}/{}", text(&claim, "/metadata/namespace"), text(&claim, "/metadata/name")),
                uid: text(&claim, "/metadata/uid"),
                bound: claim.pointer("/status/phase") == Some(&json!("Bound")),
                volume: claim.pointer("/spec/volumeName").and_then(Value::as_str).map(str::to_owned),
            });
        }
        let attachments = self.kubernetes.list(None, "VolumeAttachment", None).await?;
        facts.volume_attachments = attachments.iter().map(|attachment| text(attachment, "/metadata/name")).collect();
        Ok(facts)
    }
}
