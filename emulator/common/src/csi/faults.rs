//! Trouble on purpose with CSI calls: what a driver's services meet before and after they work.
//!
//! The rules lie in a file of the data directory, which whoever makes trouble writes and every driver's process reads before each call:
//! there is no file as a rule, and then nothing else happens. Each process counts its own hits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model_common::csi::{Code, ControllerCall, ControllerCapability, ControllerReply, Error, NodeCall, NodeReply};
use serde::{Deserialize, Serialize};

use super::server::{ControllerService, NodeService};

/// What calls meet. The first rule that fits uses up one of its count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// By which hits are counted; another rule has another one.
    pub id: String,
    /// `NodeStageVolume`.
    pub call: String,
    /// Only calls on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Only calls about this volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// So many calls; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(default)]
    pub delay_millis: u64,
    /// The error in the place of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The driver does what it was asked before the error.
    #[serde(default)]
    pub applied: bool,
    /// No answer ever comes, and nothing is done.
    #[serde(default)]
    pub hang: bool,
}

/// Where a process finds the rules, and how often each hit.
#[derive(Debug)]
pub struct Table {
    file: PathBuf,
    node: Option<String>,
    hits: Mutex<BTreeMap<String, u64>>,
}

impl Table {
    /// `node`: where the driver's service is, when it is a node's.
    pub fn new(file: PathBuf, node: Option<String>) -> Arc<Self> {
        Arc::new(Self { file, node, hits: Mutex::default() })
    }

    fn meet(&self, call: &str, subject: &str) -> Option<Rule> {
        let text = std::fs::read(&self.file).ok()?;
        let rules: Vec<Rule> = match serde_json::from_slice(&text) {
            Ok(rules) => rules,
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "no table of faults");
                return None;
            }
        };
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        hits.retain(|id, _| rules.iter().any(|rule| rule.id == *id));
        let fits = |rule: &Rule| {
            rule.call == call
                && (rule.node.is_none() || rule.node == self.node)
                && rule.volume.as_deref().is_none_or(|volume| volume == subject)
                && rule.count.is_none_or(|count| hits.get(&rule.id).is_none_or(|hits| *hits < count))
        };
        let rule = rules.iter().find(|rule| fits(rule))?.clone();
        *hits.entry(rule.id.clone()).or_default() += 1;
        Some(rule)
    }

    /// Carries out a call under what it meets. A driver goes on with its work when its caller is gone, so the work has its own task.
    async fn carry_out<R: Send + 'static>(
        &self,
        call: &str,
        subject: &str,
        work: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R, Error> {
        let Some(rule) = self.meet(call, subject) else { return work.await };
        tracing::warn!(call, subject, ?rule, "a fault");
        let error = rule.code.map(|code| Error::new(code, "a fault that was asked for"));
        if rule.hang {
            return std::future::pending().await;
        }
        let wait = Duration::from_millis(rule.delay_millis);
        let late = async move {
            tokio::time::sleep(wait).await;
            match error {
                Some(error) if !rule.applied => Err(error),
                Some(error) => work.await.and(Err(error)),
                None => work.await,
            }
        };
        match tokio::spawn(late).await {
            Ok(result) => result,
            Err(error) => Err(Error::new(Code::Internal, error.to_string())),
        }
    }
}

/// A driver's service that meets faults.
pub struct Faulty<S: ?Sized> {
    pub service: Arc<S>,
    pub table: Arc<Table>,
}

#[tonic::async_trait]
impl ControllerService for Faulty<dyn ControllerService> {
    fn capabilities(&self) -> Vec<ControllerCapability> {
        self.service.capabilities()
    }

    async fn call(&self, call: ControllerCall) -> Result<ControllerReply, Error> {
        let (service, name, subject) = (self.service.clone(), call.name(), call.subject().to_owned());
        self.table.carry_out(name, &subject, async move { service.call(call).await }).await
    }

    async fn probe(&self) -> Result<bool, Error> {
        self.service.probe().await
    }
}

#[tonic::async_trait]
impl NodeService for Faulty<dyn NodeService> {
    async fn call(&self, call: NodeCall) -> Result<NodeReply, Error> {
        let (service, name, subject) = (self.service.clone(), call.name(), call.volume_id().to_owned());
        self.table.carry_out(name, &subject, async move { service.call(call).await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what it was asked.
    struct Counts(Mutex<u32>);

    #[tonic::async_trait]
    impl NodeService for Counts {
        async fn call(&self, _: NodeCall) -> Result<NodeReply, Error> {
            *self.0.lock().unwrap() += 1;
            Ok(NodeReply::NodeUnstageVolume)
        }
    }

    fn rule(id: &str) -> Rule {
        Rule {
            id: id.into(),
            call: "NodeUnstageVolume".into(),
            node: None,
            volume: None,
            count: Some(1),
            delay_millis: 0,
            code: Some(Code::Internal),
            applied: false,
            hang: false,
        }
    }

    #[tokio::test]
    async fn calls_meet_what_fits_so_often_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("faults.json");
        let counts = Arc::new(Counts(Mutex::new(0)));
        let service: Arc<dyn NodeService> = counts.clone();
        let faulty = Faulty { service, table: Table::new(file.clone(), Some("n1".into())) };
        let unstage = || NodeCall::NodeUnstageVolume { volume_id: "vol-1".into(), staging_target_path: "/s".into() };
        let asked = || *counts.0.lock().unwrap();
        assert!(faulty.call(unstage()).await.is_ok(), "there is no file");

        let elsewhere = Rule { node: Some("n2".into()), ..rule("a") };
        let other = Rule { volume: Some("vol-2".into()), ..rule("b") };
        let rules = vec![elsewhere, other, rule("refused"), Rule { applied: true, ..rule("lost") }];
        std::fs::write(&file, serde_json::to_vec(&rules).unwrap()).unwrap();
        assert_eq!(faulty.call(unstage()).await.unwrap_err().code, Code::Internal);
        assert_eq!(asked(), 1, "refused before it was done");
        assert_eq!(faulty.call(unstage()).await.unwrap_err().code, Code::Internal);
        assert_eq!(asked(), 2, "done, and its answer lost");
        assert!(faulty.call(unstage()).await.is_ok(), "both are used up");

        std::fs::write(&file, serde_json::to_vec(&[rule("new")]).unwrap()).unwrap();
        assert!(faulty.call(unstage()).await.is_err(), "a new rule has hits of its own");
    }
}
