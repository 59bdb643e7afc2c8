//! The AWS endpoint alone: `cargo run -p emulator-aws --example serve -- [--listen 127.0.0.1:0] [--data DIR] [--no-devices]
//! [--profile aws] [--no-journal] [--verify KEY=SECRET]`. Prints its address on the first line; Ctrl-C ends it.

use std::collections::BTreeMap;

use emulator_aws::{Auth, Config, start};
use emulator_common::places::Places;
use model_aws::Profile;
use model_aws::world::World;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut listen = "127.0.0.1:0".to_owned();
    let mut data = std::env::temp_dir().join(format!("ebbtide-serve-{}", std::process::id()));
    let (mut devices, mut journal, mut profile, mut auth) = (true, true, Profile::Instant, Auth::Accept);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--listen" => listen = value()?,
            "--data" => data = value()?.into(),
            "--no-devices" => devices = false,
            "--no-journal" => journal = false,
            "--profile" if value()? == "aws" => profile = Profile::Aws,
            "--verify" => {
                let pair = value()?;
                let (key, secret) = pair.split_once('=').ok_or("--verify needs KEY=SECRET")?;
                auth = Auth::Verify { keys: BTreeMap::from([(key.to_owned(), secret.to_owned())]) };
            }
            _ => return Err(format!("unknown argument {arg}").into()),
        }
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let config = Config {
            listener: std::net::TcpListener::bind(&listen)?,
            places: Places::new(data),
            world: World::default(),
            profile,
            auth,
            devices,
            no_devices: None,
            journal,
            journal_effects: false,
            hosts: Vec::new(),
            metadata: Vec::new(),
            identity_providers: Vec::new(),
        };
        let running = start(config).await?;
        println!("http://{}", running.addr);
        tokio::signal::ctrl_c().await?;
        running.stop().await;
        Ok(())
    })
}
