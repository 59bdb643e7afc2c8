//! What a runner asks of a world, virtual or real.

use std::time::Duration;

use serde_json::Value;

use crate::invariants::{Facts, Found};
use crate::language::{Fault, Target};

/// Why a world did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// AWS answered with an error: what the aws CLI prints.
    #[error("An error occurred ({code}) when calling {command}: {message}")]
    Aws { command: String, code: String, message: String },
    /// The Kubernetes API answered with an error: what kubectl prints.
    #[error("Error from server ({reason}): {message}")]
    Kubernetes { reason: String, message: String },
    /// This world cannot do that at all.
    #[error("{0}")]
    Unsupported(String),
    /// Whoever started the run ended it.
    #[error("interrupted")]
    Interrupted,
    /// The other side could not be reached or made no sense.
    #[error("{operation}: {message}")]
    Transport { operation: String, message: String },
}

impl EngineError {
    /// Whether asking again later can help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Unsupported(_) | Self::Interrupted)
    }
}

/// What `apply` did, in kubectl's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Created,
    Configured,
    Unchanged,
}

impl std::fmt::Display for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        })
    }
}

/// What a command in a container gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: i32,
}

/// A world. The futures of the virtual one are ready at once.
#[allow(async_fn_in_trait)] // used with static dispatch only, so the futures' auto traits are known where they are used
pub trait Engine {
    /// Time since the run began, in this world's time.
    fn now(&self) -> Duration;
    /// How long to wait between two looks.
    fn poll_every(&self) -> Duration;
    /// Whether things made here outlive the run, so that a failed run must be taken down.
    fn is_live(&self) -> bool;
    /// Whether whoever started the run wants it to end: nothing more is begun, and what was made is taken down.
    fn stopped(&self) -> bool {
        false
    }
    /// Lets time pass; less of it when the run is to end meanwhile.
    async fn pause(&mut self, span: Duration);
    /// A call to AWS; the answer is what the aws CLI prints.
    async fn aws(&mut self, service: &str, command: &str, parameters: &Value) -> Result<Value, EngineError>;
    /// An object, if it is there.
    async fn get(&mut self, target: &Target) -> Result<Option<Value>, EngineError>;
    /// All objects of a kind; in one namespace where the kind has namespaces.
    async fn list(&mut self, api_version: Option<&str>, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>, EngineError>;
    /// Makes an object, or changes it to what is given.
    async fn apply(&mut self, object: &Value) -> Result<Applied, EngineError>;
    /// Starts the deletion of an object.
    async fn delete(&mut self, target: &Target, grace_seconds: Option<u32>) -> Result<(), EngineError>;
    /// Runs a command in a pod's container to its end.
    async fn exec(&mut self, namespace: &str, pod: &str, container: Option<&str>, command: &[String]) -> Result<Output, EngineError>;
    /// Causes trouble, or ends it.
    async fn fault(&mut self, fault: &Fault) -> Result<(), EngineError> {
        Err(EngineError::Unsupported(format!("the fault {fault} is not known in this world")))
    }
    /// What a world that watches itself saw not to hold since it was last asked.
    async fn violations(&mut self) -> Vec<Found> {
        Vec::new()
    }
    /// The play is over and had its time: what must have happened by now is looked at.
    async fn settled(&mut self) {}
    /// How many inputs the machines took so far; none where they run elsewhere.
    fn inputs(&self) -> Option<u64> {
        None
    }
    /// What the invariants look at.
    async fn facts(&mut self) -> Result<Facts, EngineError>;
}
