//! An EFS driver in the nodes of an ebbtide, and the calls that the kubelet and csi-provisioner make to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, last_lines, program, text, wait_for};
use emulator_common::csi::client;
use model_common::csi::{
    Access, AccessMode, CapacityRange, Code, ControllerCall, ControllerReply, Error, NodeCall, NodeReply, Volume, VolumeCapability,
};
use serde_json::Value;
use tonic::transport::Channel;

/// The kubelet's limit for a call.
pub const CALL: Duration = Duration::from_secs(120);
/// Where the kubelet publishes: the directory that driver and node share.
const TARGETS: &str = "/var/lib/kubelet/test";

/// Programs in a node, as root on it would run them.
pub fn in_node(ebbtide: &Ebbtide, node: &str, argv: &[&str]) -> Command {
    let mut command = ebbtide.command(program().to_str().expect("a path in UTF-8"));
    command.args(["node", "exec", node, "--data-dir"]).arg(ebbtide.dir()).arg("--").args(argv);
    command
}

/// The node plugin of one node.
pub struct Plugin {
    pub node: String,
    channel: Channel,
    real: Option<RealDriver>,
}

/// A driver under test, on both nodes of the default world.
pub struct Driver<'a> {
    pub ebbtide: &'a Ebbtide,
    pub plugins: Vec<Plugin>,
    controller: Channel,
    runtime: tokio::runtime::Runtime,
}

/// Which driver, and how it is started.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    BuiltIn,
    /// With further arguments.
    Real(&'static [&'static str]),
}

impl<'a> Driver<'a> {
    /// Started on each node, and each answers.
    pub fn start(ebbtide: &'a Ebbtide, which: Which) -> Self {
        // The connections belong to it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let inside = runtime.enter();
        let output = ebbtide.ebbtide(&["node", "ls", "-o", "json"]);
        let nodes: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON of node ls");
        let plugin = |node: &Value| {
            let name = node["name"].as_str().expect("a name").to_owned();
            // A socket's path is short; the node's own is, by whatever directory this ebbtide runs in.
            let root = PathBuf::from(format!("/proc/{}/root", node["pid"]));
            let (real, socket) = match which {
                Which::BuiltIn => (None, "/var/lib/kubelet/plugins/efs.csi.aws.com/csi.sock"),
                Which::Real(args) => (Some(RealDriver::start(ebbtide, &name, args)), RealDriver::SOCKET),
            };
            let socket = root.join(&socket[1..]);
            (Plugin { node: name, channel: client::connect(&socket), real }, socket)
        };
        let (plugins, sockets): (Vec<_>, Vec<_>) = nodes.iter().map(plugin).unzip();
        let controller = match which {
            Which::BuiltIn => client::connect(&controller_socket(ebbtide)),
            Which::Real(_) => client::connect(&sockets[0]),
        };
        drop(inside);
        let driver = Self { ebbtide, plugins, controller, runtime };
        for plugin in &driver.plugins {
            driver.wait_until_it_serves(plugin);
        }
        driver
    }

    /// Is `mount.efs` the real one?
    pub fn has_real_helper(&self) -> bool {
        self.ebbtide.is_up_with("--faithful")
    }

    pub fn is_real(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.real.is_some())
    }

    fn wait_until_it_serves(&self, plugin: &Plugin) {
        wait_for(&format!("the driver on {}", plugin.node), Duration::from_secs(60), || {
            self.runtime.block_on(client::probe(&plugin.channel, Duration::from_secs(2))).is_ok()
        });
    }

    /// Kills the driver's process on a node, with all in its PID namespace, and waits for the next.
    pub fn restart(&self, node: usize) {
        let plugin = &self.plugins[node];
        let real = plugin.real.as_ref().expect("only a process of its own can be restarted");
        let old = real.pid();
        let killed = in_node(self.ebbtide, &plugin.node, &["kill", "-9", &old]).output().expect("running ebbtide");
        assert!(killed.status.success(), "{}", text(&killed));
        wait_for("another process", Duration::from_secs(20), || real.pid() != old);
        self.wait_until_it_serves(plugin);
    }

    pub fn create(&self, name: &str, parameters: &[(&str, &str)]) -> Result<Volume, Error> {
        let call = ControllerCall::CreateVolume {
            name: name.to_owned(),
            capacity: CapacityRange { required_bytes: 5 << 30, limit_bytes: 0 },
            capabilities: vec![capability(&[])],
            parameters: map(parameters),
            mutable_parameters: BTreeMap::new(),
            content_source: None,
            topology: None,
        };
        match self.runtime.block_on(client::controller_call(&self.controller, call, CALL))? {
            ControllerReply::CreateVolume(volume) => Ok(volume),
            other => panic!("another answer: {other:?}"),
        }
    }

    pub fn delete(&self, volume_id: &str) -> Result<(), Error> {
        let call = ControllerCall::DeleteVolume { volume_id: volume_id.to_owned() };
        self.runtime.block_on(client::controller_call(&self.controller, call, CALL)).map(drop)
    }

    /// Publishes at a target of this name, which it returns.
    pub fn publish(&self, node: usize, target: &str, volume_id: &str) -> Result<String, Error> {
        self.publish_with(node, target, volume_id, &Publish::default())
    }

    pub fn publish_with(&self, node: usize, target: &str, volume_id: &str, how: &Publish<'_>) -> Result<String, Error> {
        let target = target_path(target);
        let parent = Path::new(&target).parent().expect("a parent").display().to_string();
        self.run(node, &format!("mkdir -p {parent}"));
        let call = NodeCall::NodePublishVolume {
            volume_id: volume_id.to_owned(),
            publish_context: BTreeMap::new(),
            staging_target_path: String::new(),
            target_path: target.clone(),
            capability: capability(how.flags),
            readonly: how.readonly,
            volume_context: map(how.context),
        };
        let limit = how.limit.unwrap_or(CALL);
        match self.runtime.block_on(client::node_call(&self.plugins[node].channel, call, limit))? {
            NodeReply::NodePublishVolume => Ok(target),
            other => panic!("another answer: {other:?}"),
        }
    }

    pub fn unpublish(&self, node: usize, volume_id: &str, target: &str) -> Result<(), Error> {
        let call = NodeCall::NodeUnpublishVolume { volume_id: volume_id.to_owned(), target_path: target.to_owned() };
        self.runtime.block_on(client::node_call(&self.plugins[node].channel, call, CALL)).map(drop)
    }

    /// A shell in a node that must succeed; what it printed.
    pub fn run(&self, node: usize, script: &str) -> String {
        let output = self.try_run(node, script);
        assert!(output.status.success(), "on {}: {script}:\n{}", self.plugins[node].node, text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_run(&self, node: usize, script: &str) -> Output {
        in_node(self.ebbtide, &self.plugins[node].node, &["sh", "-c", script]).output().expect("running ebbtide")
    }

    /// A shell in a node that runs beside the test.
    pub fn spawn(&self, node: usize, script: &str) -> Child {
        let mut command = in_node(self.ebbtide, &self.plugins[node].node, &["sh", "-c", script]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("running ebbtide")
    }

    /// How often something is mounted at a path in a node, and what: the rows of `/proc/self/mounts`.
    pub fn mounts(&self, node: usize, target: &str) -> Vec<String> {
        let table = self.run(node, "cat /proc/self/mounts");
        table.lines().filter(|line| line.split(' ').nth(1) == Some(target)).map(str::to_owned).collect()
    }
}

/// The path of a target, as a kubelet's: below a directory for each volume.
pub fn target_path(name: &str) -> String {
    format!("{TARGETS}/{name}/mount")
}

/// How to publish, where it is not the usual way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Publish<'a> {
    pub flags: &'a [&'a str],
    pub context: &'a [(&'a str, &'a str)],
    pub readonly: bool,
    pub limit: Option<Duration>,
}

fn capability(flags: &[&str]) -> VolumeCapability {
    let mount_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let access = Access::Mount { fs_type: String::new(), mount_flags, volume_mount_group: String::new() };
    VolumeCapability { access, mode: AccessMode::MultiNodeMultiWriter }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The address of the built-in controller, which the log tells.
fn controller_socket(ebbtide: &Ebbtide) -> PathBuf {
    let log = std::fs::read_to_string(ebbtide.dir().join("up.log")).expect("up.log");
    let line = log.lines().find(|line| line.contains("the CSI driver is ready") && line.contains("efs.csi.aws.com"));
    let socket = line.and_then(|line| line.split("socket=").nth(1)).and_then(|rest| rest.split_whitespace().next());
    PathBuf::from(socket.unwrap_or_else(|| panic!("up.log does not tell the controller's socket:\n{log}")))
}

/// A real driver's process in a node, in a container of its own as far as a driver notices: PID and mount namespaces that end with
/// it, `/etc` of its own, and the kubelet's directory shared both ways. It is started again whenever it ends, as its pod would be.
struct RealDriver {
    wrapper: Child,
    dir: PathBuf,
    log: PathBuf,
}

impl RealDriver {
    const SOCKET: &'static str = "/var/lib/kubelet/plugins/real-efs/csi.sock";

    fn start(ebbtide: &Ebbtide, node: &str, args: &[&str]) -> Self {
        let binary = std::env::var_os(BINARY).expect("asked before");
        let binary = std::fs::canonicalize(&binary).unwrap_or_else(|error| panic!("{BINARY}={binary:?}: {error}"));
        let script = r#"
            mkdir -p "$0/etc" "$0/work" "$0/static" /var/lib/kubelet/plugins/real-efs
            while :; do
                unshare --mount --propagation unchanged --pid --fork --kill-child --mount-proc sh -c '
                    mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" /etc && exec "$@"' "$0" "$@" &
                echo $! > "$0/pid.new" && mv "$0/pid.new" "$0/pid"
                wait $!
                echo "=== the driver ended; starting it again"
                sleep 0.1
            done"#;
        let dir = ebbtide.dir().join(format!("real-{node}"));
        std::fs::create_dir_all(dir.join("static")).expect("a directory");
        // What the driver's image has of efs-utils, from the sources or from where it is installed.
        let roots = std::env::var_os(EFS_UTILS).map(PathBuf::from);
        let certificates = roots.iter().flat_map(|root| ["dist/efs-utils.crt", "etc/amazon/efs/efs-utils.crt"].map(|file| root.join(file)));
        if let Some(found) = certificates.into_iter().find(|file| file.is_file()) {
            std::fs::copy(found, dir.join("static/efs-utils.crt")).expect("a copy");
        }
        let log = dir.join("log");
        let output = std::fs::File::create(&log).expect("a log");
        let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let (place, binary) = (path(&dir), path(&binary));
        // It copies whatever is in there.
        let files = format!("--efs-utils-static-files-path={place}/static");
        let endpoint = format!("--endpoint=unix://{}", Self::SOCKET);
        let mut argv = vec!["sh", "-c", script, &place, &binary, &endpoint, "--logtostderr", "--v=5", &files];
        argv.extend(args);
        let wrapper = in_node(ebbtide, node, &argv)
            .env_remove("AWS_EC2_METADATA_DISABLED")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log"))
            .stderr(output)
            .spawn()
            .expect("running ebbtide");
        Self { wrapper, dir, log }
    }

    /// In the node's PID namespace. The file is replaced at once, so that it is never read half.
    fn pid(&self) -> String {
        let path = self.dir.join("pid");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match std::fs::read_to_string(&path) {
                Ok(pid) => return pid.trim().to_owned(),
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
        }
    }
}

impl Drop for RealDriver {
    fn drop(&mut self) {
        // What it runs in the node ends with the node.
        let _ = self.wrapper.kill();
        let _ = self.wrapper.wait();
        if std::thread::panicking() {
            eprintln!("the log of the real driver in {} ends with:\n{}", self.dir.display(), last_lines(&self.log, 40));
        }
    }
}

/// The environment variable that gives a real driver.
pub const BINARY: &str = "EBBTIDE_TEST_EFS_DRIVER";
/// The environment variable that gives the real efs-utils: its sources, or `/` where it is installed.
pub const EFS_UTILS: &str = "EBBTIDE_TEST_EFS_UTILS";

/// The argument of `ebbtide up` for the efs-utils that is given; says so when none is.
pub fn faithful() -> Option<String> {
    let given = std::env::var(EFS_UTILS).ok();
    if given.is_none() {
        eprintln!("skipped: no efs-utils ({EFS_UTILS})");
    }
    given.map(|root| format!("--faithful={root}"))
}

/// A file system with a mount target in each zone, or in the first `zones` of them, with a security group if one is given.
pub fn file_system(ebbtide: &Ebbtide, zones: usize, group: Option<&str>) -> String {
    let created = ebbtide.aws(&["efs", "create-file-system"]);
    let id = created["FileSystemId"].as_str().expect("an id").to_owned();
    let mut subnets = ebbtide.aws(&["ec2", "describe-subnets"])["Subnets"].as_array().expect("subnets").clone();
    subnets.sort_by_key(|subnet| subnet["AvailabilityZone"].to_string());
    for subnet in subnets.iter().take(zones) {
        let subnet = subnet["SubnetId"].as_str().expect("an id");
        let mut args = vec!["efs", "create-mount-target", "--file-system-id", &id, "--subnet-id", subnet];
        if let Some(group) = group {
            args.extend(["--security-groups", group]);
        }
        ebbtide.aws(&args);
    }
    wait_for("the mount targets", Duration::from_secs(20), || {
        let targets = ebbtide.aws(&["efs", "describe-mount-targets", "--file-system-id", &id]);
        let targets = targets["MountTargets"].as_array().expect("a list");
        targets.len() == zones.min(subnets.len()) && targets.iter().all(|target| target["LifeCycleState"] == "available")
    });
    id
}

/// What a failed mount says through the driver: k8s.io/mount-utils around the words of mount.efs.
pub fn mount_failed(source: &str, target: &str, options: &str, status: u8, output: &str) -> Error {
    let message = format!(
        "Could not mount {source:?} at {target:?}: mount failed: exit status {status}\nMounting command: mount\n\
         Mounting arguments: -t efs -o {options} {source} {target}\nOutput: {output}\n"
    );
    Error::new(Code::Internal, message)
}
