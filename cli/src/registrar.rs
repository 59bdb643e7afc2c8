//! `ebbtide csi-registrar`: tells the kubelet of the node it runs in that a CSI driver is there, as node-driver-registrar does in a
//! driver's DaemonSet. For drivers that are started by hand.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use emulator_common::csi::client::{connect, plugin_info};
use emulator_common::registration::{self, PluginInfo, RegistrationStatus};
use tokio::sync::mpsc;

use crate::up::Signals;

/// Register a CSI driver with the kubelet of the node that this runs in, until it is stopped.
///
/// Run it in the node, beside the driver's node service: ebbtide node exec NODE -- ebbtide csi-registrar --csi-address SOCKET. The
/// built-in driver of this name has to be switched off: ebbtide up --drivers=-ebs.csi.aws.com.
#[derive(Args)]
pub struct RegistrarArgs {
    /// The driver's socket, as it is seen in the node.
    #[arg(long, value_name = "SOCKET")]
    csi_address: PathBuf,
    /// Where the kubelet looks for registrars.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/plugins_registry")]
    plugin_registration_path: PathBuf,
    /// How long to wait for the driver to answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

/// Registers and stays until SIGTERM or SIGINT; then the driver is taken out of CSINode.
pub fn run(args: &RegistrarArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let address = args.csi_address.strip_prefix("unix:").unwrap_or(&args.csi_address);
        let name = driver(address, Duration::from_secs(args.timeout)).await?;
        let socket = args.plugin_registration_path.join(registration::socket_name(&name));
        let info = PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: name.clone(),
            endpoint: address.display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        };
        let (told, mut hears) = mpsc::unbounded_channel::<RegistrationStatus>();
        tokio::spawn(async move {
            while let Some(status) = hears.recv().await {
                match status.plugin_registered {
                    true => eprintln!("the kubelet has registered {name}"),
                    false => eprintln!("the kubelet refuses {name}: {}", status.error),
                }
            }
        });
        registration::serve(&socket, info, told, async { signals.wait().await })
            .await
            .with_context(|| format!("serving {}; is this a node? (ebbtide node exec NODE -- …)", socket.display()))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The driver's name, asked until it answers.
async fn driver(socket: &std::path::Path, limit: Duration) -> anyhow::Result<String> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match plugin_info(&connect(socket), Duration::from_secs(1)).await {
            Ok((name, _)) => return Ok(name),
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(anyhow::Error::new(error))
                    .with_context(|| format!("no CSI driver answered on {} in {} s", socket.display(), limit.as_secs()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
