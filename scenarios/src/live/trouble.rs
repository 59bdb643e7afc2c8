//! Trouble in a live world, as far as it can be made for real: AWS's table of faults, the power of the nodes, the calls to the built-in
//! drivers. The rest says why not.

use std::collections::BTreeSet;
use std::sync::Arc;

use emulator_common::csi::faults::Rule;
use model_common::csi::Code;
use reqwest::Method;
use serde_json::Value;

use super::nodes::Nodes;
use super::{Machines, Target};
use crate::engine::EngineError;
use crate::language::{Fault, Span, Trouble, code_of};

/// How long a question about faults may take.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// What this run has done to the world.
pub(super) struct Troubles {
    machines: Option<Arc<dyn Machines>>,
    endpoint: String,
    http: reqwest::Client,
    /// The rules in AWS's table.
    aws: Vec<String>,
    csi: Vec<Rule>,
    /// Nodes without power.
    off: BTreeSet<String>,
    /// Nodes without power for a while, with who waits to give it back.
    waiting: Vec<(String, tokio::task::JoinHandle<()>)>,
    made: u64,
}

fn unsupported<T>(what: &str, why: &str) -> Result<T, EngineError> {
    Err(EngineError::Unsupported(format!("{what} cannot be done to a live cluster: {why}; without --live it can")))
}

const ONE_PROCESS: &str = "ebbtide's kubelets, drivers and controllers share their processes and do not end alone";
const ONE_NETWORK: &str = "ebbtide's nodes share the network of this machine and are not cut off alone";
/// Why no live cluster can have such trouble; none where one can.
pub(crate) fn why_not(trouble: &Trouble) -> Option<&'static str> {
    match trouble {
        Trouble::Crash { .. } | Trouble::Start { .. } | Trouble::Restart { .. } | Trouble::Pause { .. } => Some(ONE_PROCESS),
        Trouble::Partition { .. } | Trouble::Heal { .. } => Some(ONE_NETWORK),
        Trouble::Api { .. } => Some("its API server conflicts and loses answers only by itself"),
        Trouble::WatchLag { .. } => Some("its watches are as fast as they are"),
        Trouble::RemoveVolData { .. } | Trouble::Busy { .. } | Trouble::ManyFiles { .. } => {
            Some("nobody reaches into the files of its nodes")
        }
        Trouble::MountsEachTime { .. } => Some("its drivers see what they mounted already"),
        Trouble::DeletedIsAbsent { .. } => Some("its file systems answer ESTALE, as NFS does"),
        Trouble::Stop { .. } | Trouble::PowerOn { .. } | Trouble::Reboot { .. } | Trouble::Rpc { .. } | Trouble::Clear {} => None,
    }
}

const NO_MACHINES: &str = "its nodes are not ebbtide's";

impl Troubles {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            machines: target.machines.clone(),
            endpoint: target.aws_endpoint.trim_end_matches('/').to_owned(),
            http: reqwest::Client::new(),
            aws: Vec::new(),
            csi: Vec::new(),
            off: BTreeSet::new(),
            waiting: Vec::new(),
            made: 0,
        }
    }

    /// How many faults are at work.
    pub(super) fn active(&self) -> usize {
        self.aws.len() + self.csi.len() + self.off.len() + self.waiting.iter().filter(|(_, task)| !task.is_finished()).count()
    }

    pub(super) async fn cause(&mut self, fault: &Fault, nodes: &Nodes) -> Result<(), EngineError> {
        let trouble = match fault {
            Fault::Aws(rule) => {
                let mut rule = (**rule).clone();
                rule.node = rule.node.map(|node| nodes.there(&node).to_owned());
                let body = serde_json::to_value(&rule).unwrap_or_default();
                let made = self.ask(Method::POST, "", Some(&body)).await?;
                self.aws.extend(made["id"].as_str().map(str::to_owned));
                return Ok(());
            }
            Fault::Cluster(trouble) => trouble,
        };
        let what = fault.to_string();
        match trouble {
            Trouble::Stop { node, start_instances_after_duration: after } => {
                let node = nodes.there(node).to_owned();
                self.power_off(&what, &node).await?;
                if let Some(Span(after)) = *after {
                    self.off.remove(&node);
                    let (machines, name) = (self.machines(&what)?, node.clone());
                    let task = tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        if let Err(error) = on_the_machine(move || machines.power_on(&node)).await {
                            tracing::error!(%error, "a node stays without power");
                        }
                    });
                    self.waiting.push((name, task));
                }
                Ok(())
            }
            Trouble::PowerOn { node } => self.power_on(&what, nodes.there(node)).await,
            Trouble::Reboot { node } => {
                let node = nodes.there(node).to_owned();
                self.power_off(&what, &node).await?;
                self.power_on(&what, &node).await
            }
            Trouble::Rpc { call, node, volume, count, delay, code, applied, hang } => {
                self.made += 1;
                let code: Option<Code> = code.as_deref().map(code_of).transpose().map_err(EngineError::Unsupported)?;
                self.csi.push(Rule {
                    // Drivers outlive runs, and count the hits of a rule by its id.
                    id: format!("{:x}-{}", super::check::now().as_nanos(), self.made),
                    call: call.clone(),
                    node: node.as_deref().map(|node| nodes.there(node).to_owned()),
                    volume: volume.clone(),
                    count: *count,
                    delay_millis: delay.map_or(0, |Span(delay)| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
                    code,
                    applied: *applied,
                    hang: *hang,
                });
                self.tell_drivers(&what).await
            }
            Trouble::Clear {} => self.clear().await,
            Trouble::Crash { .. }
            | Trouble::Start { .. }
            | Trouble::Restart { .. }
            | Trouble::Pause { .. }
            | Trouble::Partition { .. }
            | Trouble::Heal { .. }
            | Trouble::Api { .. }
            | Trouble::WatchLag { .. }
            | Trouble::RemoveVolData { .. }
            | Trouble::Busy { .. }
            | Trouble::ManyFiles { .. }
            | Trouble::MountsEachTime { .. }
            | Trouble::DeletedIsAbsent { .. } => unsupported(&what, why_not(trouble).unwrap_or("it is not built")),
        }
    }

    /// All faults of this run are over.
    pub(super) async fn clear(&mut self) -> Result<(), EngineError> {
        for id in std::mem::take(&mut self.aws) {
            self.ask(Method::DELETE, &format!("/{id}"), None).await?;
        }
        if !self.csi.is_empty() {
            self.csi.clear();
            self.tell_drivers("local:clear").await?;
        }
        for (node, task) in self.waiting.drain(..) {
            // A node that was to come back later comes back now.
            task.abort();
            self.off.insert(node);
        }
        for node in self.off.clone() {
            self.power_on("local:clear", &node).await?;
        }
        Ok(())
    }

    fn machines(&self, what: &str) -> Result<Arc<dyn Machines>, EngineError> {
        match &self.machines {
            Some(machines) => Ok(machines.clone()),
            None => unsupported(what, NO_MACHINES),
        }
    }

    async fn power_off(&mut self, what: &str, node: &str) -> Result<(), EngineError> {
        let machines = self.machines(what)?;
        let name = node.to_owned();
        self.off.insert(name.clone());
        on_the_machine(move || machines.power_off(&name)).await
    }

    async fn power_on(&mut self, what: &str, node: &str) -> Result<(), EngineError> {
        let machines = self.machines(what)?;
        let name = node.to_owned();
        on_the_machine(move || machines.power_on(&name)).await?;
        self.off.remove(node);
        Ok(())
    }

    async fn tell_drivers(&self, what: &str) -> Result<(), EngineError> {
        let machines = self.machines(what)?;
        let rules = self.csi.clone();
        on_the_machine(move || machines.meet(&rules)).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, EngineError> {
        let url = format!("{}/_ebbtide/faults{path}", self.endpoint);
        let failed = |message: String| EngineError::Transport { operation: format!("{method} {url}"), message };
        let mut request = self.http.request(method.clone(), &url).timeout(TIMEOUT);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.map_err(|error| failed(super::kubernetes::chain(&error)))?;
        // A fault that is over is gone already.
        let gone = method == Method::DELETE && response.status() == reqwest::StatusCode::NOT_FOUND;
        let good = response.status().is_success() || gone;
        let text = response.text().await.map_err(|error| failed(super::kubernetes::chain(&error)))?;
        let answer: Value =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).map_err(|error| failed(error.to_string()))? };
        if good { Ok(answer) } else { Err(failed(super::text(&answer, "/message"))) }
    }
}

/// What takes its time is not done on the threads that watch.
async fn on_the_machine(act: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), EngineError> {
    let failed = |message: String| EngineError::Transport { operation: "reach the machine below the cluster".into(), message };
    tokio::task::spawn_blocking(act).await.map_err(|error| failed(error.to_string()))?.map_err(failed)
}
