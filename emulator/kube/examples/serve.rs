//! Serves the Kubernetes API alone, for trying kubectl on it: `cargo run -p emulator-kube --example serve [DATA-DIR]`.

use std::collections::{BTreeMap, BTreeSet};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = match std::env::args().nth(1) {
        Some(dir) => std::path::absolute(dir)?,
        None => std::env::temp_dir().join(format!("ebbtide-serve-{}", std::process::id())),
    };
    let running = emulator_kube::start(emulator_kube::Config {
        listener: std::net::TcpListener::bind("127.0.0.1:0")?,
        places: emulator_common::places::Places::new(data),
        drivers: BTreeMap::new(),
        controllers_off: BTreeSet::new(),
        journal: false,
    })
    .await?;
    println!("{}", running.kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    running.stop().await;
    Ok(())
}
