//! A node as a process: a new PID, mount and UTS namespace, started by [`spawn`], living on when its starter dies.
//!
//! ```text
//! ebbtide up ─clone(NEWPID|NEWNS|NEWUTS)─▶ ebbtide node run   PID 1: sets the namespaces up, then only reaps
//!                                             └─ fork ─▶ the node: agent, CSI plugins, EFS server, kubelet
//! ```
//!
//! Killing PID 1 kills everything in the node, and its mounts vanish with the mount namespace: a crash of the machine.

mod dev;
mod exec;
mod init;
mod record;
mod spawn;
mod work;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::NodeConfig;

pub use exec::exec;
pub use init::run;
pub use record::find;
pub use spawn::{NodeProcess, spawn, stop};

/// What the node process runs for others, so that this crate need not know them.
#[derive(Default)]
pub struct NodeHooks {
    /// Serves EFS mounts on the configuration's `efs_socket` until the token is cancelled; called on a thread of its own.
    pub efs: Option<EfsHook>,
}

/// See [`NodeHooks::efs`].
pub type EfsHook = Box<dyn FnOnce(&NodeConfig, CancellationToken) + Send>;

/// Why a node could not be started, found or entered.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("a node needs root: it has namespaces, mounts and devices of its own; run as root, or serve the APIs only with --no-nodes")]
    NotRoot,
    #[error("{operation} {path}", path = path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{operation}")]
    System {
        operation: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the node {0} runs already")]
    Runs(String),
    #[error("the node {0} does not run; `ebbtide status` shows the nodes")]
    NotRunning(String),
    #[error("the node {name} did not start: {why}; its log is {log}", log = log.display())]
    DidNotStart { name: String, why: String, log: PathBuf },
    #[error("this must be the first process of a new PID namespace; nodes are started by `ebbtide up`")]
    NotFirst,
    #[error("the node's configuration: {0}")]
    Config(String),
    #[error("the AWS side refused this node: {0}")]
    Refused(String),
    #[error("the kubelet ended: {0}")]
    Kubelet(String),
}

impl NodeError {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { operation, path, source }
    }

    pub(crate) fn system(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::System { operation, source }
    }
}

/// An error with its causes, for logs and for the pipe to the starter.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
