//! `ebbtide node --agent-only`: the agent by itself, in a node of another Kubernetes.

use std::process::ExitCode;

use anyhow::{Context, bail};
use emulator_node::NodeHooks;
use emulator_node::alone::{self, Alone, Who};
use tokio_util::sync::CancellationToken;

use crate::args::AgentArgs;
use crate::up::Signals;

/// Runs the agent until SIGTERM or SIGINT.
pub fn agent(args: AgentArgs) -> anyhow::Result<ExitCode> {
    if !args.agent_only {
        bail!("say --agent-only to be the agent of the node that this runs in, or a subcommand: ls, exec, kill, start");
    }
    let who = match (args.instance_id, args.node_name) {
        (Some(id), _) => Who::Instance(id),
        (None, Some(name)) => Who::Node { name, kubeconfig: args.kubeconfig },
        (None, None) => {
            bail!("which instance is this node? say --node-name NAME (its Kubernetes Node has the providerID) or --instance-id i-…")
        }
    };
    let alone = Alone {
        endpoint: args.endpoint,
        who,
        dev: args.dev,
        data: args.data_dir.map(std::path::absolute).transpose().context("reading --data-dir")?,
        efs_socket: args.efs_socket,
        metadata: args.metadata,
        plugins: args.plugins,
        first_loop: args.first_loop,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        tokio::spawn(async move {
            signals.wait().await;
            tracing::info!("told to stop");
            stopping.cancel();
        });
        let hooks = NodeHooks { efs: Some(Box::new(crate::efs::serve)) };
        alone::run(alone, hooks, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}
