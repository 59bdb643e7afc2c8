//! The real EBS driver in the place of the built-in one: its controller service as a process beside ebbtide, its node service in each
//! node with a registrar, as the driver's manifests start them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_tests::{Ebbtide, program, wait_for};

use super::answers::Answers;

const BINARY: &str = "EBBTIDE_TEST_EBS_DRIVER";
const NODE_SOCKET: &str = "/var/lib/kubelet/plugins/ebs.csi.aws.com/csi.sock";

/// The driver's processes and their logs.
pub struct RealEbs {
    running: Vec<(PathBuf, Child)>,
    /// Of its controller service.
    pub socket: PathBuf,
}

/// The driver's binary; says `skipped` where there is none.
pub fn given() -> Option<PathBuf> {
    let Some(binary) = std::env::var_os(BINARY) else {
        eprintln!("skipped: no driver binary ({BINARY})");
        return None;
    };
    Some(std::fs::canonicalize(&binary).unwrap_or_else(|error| panic!("{BINARY}={binary:?}: {error}")))
}

/// A program of the tests by its whole path: a node has a PATH of its own.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in PATH (scripts/setup sidecars builds it)"))
}

impl RealEbs {
    /// Starts all of it, and waits until each node's kubelet has registered the driver.
    pub fn start(ebbtide: &Ebbtide, binary: &Path) -> Self {
        let socket = ebbtide.dir().join("real-ebs.sock");
        let mut driver = Self { running: Vec::new(), socket: socket.clone() };
        let mut controller = ebbtide.command(binary.to_str().expect("a path in UTF-8"));
        controller.env_remove("AWS_ENDPOINT_URL").env("AWS_EC2_ENDPOINT", ebbtide.endpoint());
        controller.args(["controller", "--batching=true", "--aws-sdk-debug-log=true", "--v=5"]);
        controller.arg(format!("--endpoint=unix://{}", socket.display()));
        driver.spawn(ebbtide, "real-controller", controller);
        for node in ebbtide.nodes() {
            let run = |argv: &[&str]| {
                let mut command = ebbtide.command(program().to_str().expect("a path in UTF-8"));
                command.env_remove("AWS_EC2_METADATA_DISABLED").env_remove("AWS_ENDPOINT_URL").env("CSI_NODE_NAME", &node);
                command.args(["node", "exec", &node, "--data-dir"]).arg(ebbtide.dir()).arg("--").args(argv);
                command
            };
            let prefix = "--csi-mount-point-prefix=/var/lib/kubelet/plugins/kubernetes.io/csi/ebs.csi.aws.com/";
            let endpoint = format!("--endpoint=unix://{NODE_SOCKET}");
            let script = r#"mkdir -p /var/lib/kubelet/plugins/ebs.csi.aws.com && exec "$@""#;
            let binary = binary.to_str().expect("a path in UTF-8");
            let plugin = run(&["sh", "-c", script, "sh", binary, "node", &endpoint, prefix, "--metadata-sources=imds", "--v=5"]);
            driver.spawn(ebbtide, &format!("real-node-{node}"), plugin);
            let registrar = tool("csi-registrar");
            let addresses = [format!("--csi-address={NODE_SOCKET}"), format!("--kubelet-registration-path={NODE_SOCKET}")];
            let registry = "--plugin-registration-path=/var/lib/kubelet/plugins_registry";
            let registrar = run(&[registrar.to_str().expect("a path in UTF-8"), &addresses[0], &addresses[1], registry]);
            driver.spawn(ebbtide, &format!("registrar-{node}"), registrar);
        }
        for node in ebbtide.nodes() {
            let wanted = r#"jsonpath={.spec.drivers[?(@.name=="ebs.csi.aws.com")].nodeID}"#;
            wait_for("the kubelet to register the driver", Duration::from_secs(60), || {
                ebbtide.kubectl(&["get", "csinode", &node, "-o", wanted]).starts_with("i-")
            });
        }
        driver
    }

    fn spawn(&mut self, ebbtide: &Ebbtide, name: &str, mut command: Command) {
        let log = ebbtide.dir().join(format!("{name}.log"));
        let out = File::create(&log).expect("a log file");
        let err = out.try_clone().expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("starting a part of the driver");
        self.running.push((log, child));
    }

    /// What its processes logged, all together.
    pub fn answers(&self, mistakes: &[&str]) -> Answers {
        let log: String = self.running.iter().map(|(path, _)| std::fs::read_to_string(path).unwrap_or_default()).collect();
        Answers::read(&log, mistakes)
    }
}

impl Drop for RealEbs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (log, _) in &self.running {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(['E', 'W', 'F', '2'])).collect();
                eprintln!("{}:\n{}", log.display(), lines[lines.len().saturating_sub(20)..].join("\n"));
            }
        }
        for (_, child) in &mut self.running {
            // What it runs in a node ends with the node; it may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
