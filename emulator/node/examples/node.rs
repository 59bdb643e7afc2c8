//! Runs one node against a given endpoint, for manual tests:
//!
//! ```text
//! cargo run -p emulator-node --example node -- up DATA-DIR http://127.0.0.1:4566 [INSTANCE-ID ZONE NAME [KUBECONFIG]]
//! cargo run -p emulator-node --example node -- exec DATA-DIR NAME COMMAND…
//! cargo run -p emulator-node --example node -- down DATA-DIR NAME
//! cargo run -p emulator-node --example node -- controllers RUN-DIR http://127.0.0.1:4566
//! ```
//!
//! The EFS server is not part of it; `mount.efs` answers that there is none.

use std::path::PathBuf;
use std::time::Duration;

use emulator_common::places::Places;
use emulator_node::{ControllersConfig, NodeConfig, NodeHooks};
use tokio_util::sync::CancellationToken;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |n: usize| args.get(n).cloned();
    let need = |n: usize, what: &str| arg(n).ok_or_else(|| format!("{what} is missing; see the top of emulator/node/examples/node.rs"));
    match need(0, "the command")?.as_str() {
        // What `spawn` executes.
        "node" => {
            let config: NodeConfig = serde_json::from_slice(&std::fs::read(need(3, "the configuration")?)?)?;
            match emulator_node::run(config, NodeHooks::default())? {}
        }
        "up" => {
            let data = std::path::absolute(need(1, "the data directory")?)?;
            let config = NodeConfig {
                name: arg(5).unwrap_or_else(|| "ip-10-0-1-10.ec2.internal".into()),
                instance_id: arg(3).unwrap_or_else(|| "i-0123456789abcdef0".into()),
                region: "us-east-1".into(),
                zone: arg(4).unwrap_or_else(|| "us-east-1a".into()),
                instance_type: "m5.large".into(),
                internal_ip: "10.0.1.10".into(),
                labels: Default::default(),
                aws_endpoint: need(2, "the endpoint")?,
                kubeconfig: arg(6).map(PathBuf::from),
                metadata: None,
                data,
                drivers_off: Default::default(),
                first_loop: 1000,
                efs_socket: emulator_node::config::inside::EFS_SOCKET.into(),
                efs_utils: None,
                journal: false,
            };
            let node = emulator_node::spawn(&config, &std::env::current_exe()?)?;
            println!("{} runs as process {}{}", node.name, node.process.pid, if node.adopted { " (it ran before)" } else { "" });
            Ok(())
        }
        "down" => {
            let places = Places::new(std::path::absolute(need(1, "the data directory")?)?);
            println!("stopped: {}", emulator_node::stop(&places, &need(2, "the node's name")?, Duration::from_secs(20)));
            println!("loop devices gone, busy: {:?}", emulator_node::loops::remove_all_under(&places.volumes()));
            Ok(())
        }
        "exec" => {
            let places = Places::new(std::path::absolute(need(1, "the data directory")?)?);
            let command: Vec<_> = args.iter().skip(3).map(Into::into).collect();
            let status = emulator_node::exec(&places, &need(2, "the node's name")?, &command)?;
            std::process::exit(status.code().unwrap_or(1))
        }
        "controllers" => {
            let dir = PathBuf::from(need(1, "the directory for the sockets")?);
            let config = ControllersConfig {
                ebs_socket: Some(dir.join("ebs.sock")),
                efs_socket: Some(dir.join("efs.sock")),
                aws_endpoint: need(2, "the endpoint")?,
                region: "us-east-1".into(),
                credentials: ("test".into(), "test".into()),
                faults: dir.join("csi-faults.json"),
            };
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            Ok(runtime.block_on(emulator_node::serve_controllers(config, CancellationToken::new()))?)
        }
        other => Err(format!("there is no command {other}").into()),
    }
}
