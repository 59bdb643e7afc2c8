//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use emulator_kube::controllers::Controller;

/// The EBS and EFS storage path of Amazon EKS on one machine: real AWS API, real block devices, real mounts.
#[derive(Parser)]
#[command(name = "ebbtide", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// What the log shows: error, warn, info, debug, trace, or a filter such as `emulator_aws=debug`.
    #[arg(long, global = true, env = "EBBTIDE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start the AWS endpoint, the Kubernetes API and the nodes.
    Up(UpArgs),
    /// Stop a running ebbtide with its nodes, pods, mounts and loop devices. The state stays.
    Down(DataArgs),
    /// Show what runs: endpoints, nodes, volumes, file systems.
    Status(DataArgs),
    /// Print the environment that points the aws CLI, the SDKs and kubectl here: `eval "$(ebbtide env)"`.
    Env(EnvArgs),
    /// Stop what runs and delete all state of a data directory: volumes, file systems, Kubernetes objects.
    Reset(ResetArgs),
    /// Check kernel, loop devices, FUSE, overlayfs and tools, and say what to do.
    Doctor(DoctorArgs),
    /// Run the workshop's four exercises on real devices and clean up.
    Demo(DemoArgs),
    /// Run a scenario in virtual time, or on real devices with --live.
    Run(RunArgs),
    Search(crate::search::SearchArgs),
    Replay(crate::search::ReplayArgs),
    Trace(crate::search::TraceArgs),
    Check(crate::check::CheckArgs),
    Report(crate::campaign::ReportArgs),
    Import(crate::import::ImportArgs),
    /// Work with nodes.
    Node(NodeArgs),
    /// Make trouble: throttled, lost and late API calls, stuck attachments, devices that come late, nodes out of reach.
    Fault(crate::fault::FaultArgs),
    /// A kind cluster, or any other, with the unmodified drivers of AWS on ebbtide's volumes and file systems.
    Kind(crate::kind::KindArgs),
    CsiRegistrar(crate::registrar::RegistrarArgs),
    /// Print a completion script for a shell.
    Completion {
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// The variable that stands for `--data-dir`.
pub const DATA_DIR: &str = "EBBTIDE_DATA_DIR";

#[derive(Args, Clone)]
pub struct DataArgs {
    /// Where the state lies; without it where EBBTIDE_DATA_DIR says, which `ebbtide env` sets. Several ebbtides run side by side with
    /// different directories and ports.
    // Not clap's `env`: a variable that stands in the shell would then conflict with options that name another place.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
}

impl DataArgs {
    /// The data directory, absolute.
    pub fn places(&self) -> anyhow::Result<emulator_common::places::Places> {
        let said = self.data_dir.clone().or_else(|| std::env::var_os(DATA_DIR).filter(|dir| !dir.is_empty()).map(PathBuf::from));
        let dir = match said {
            Some(dir) => std::path::absolute(dir)?,
            None => default_data_dir()?,
        };
        Ok(emulator_common::places::Places::new(dir))
    }
}

fn default_data_dir() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/ebbtide"));
    }
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .ok_or_else(|| anyhow::anyhow!("neither XDG_DATA_HOME nor HOME is set; say --data-dir DIR"))?;
    Ok(base.join("ebbtide"))
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Every transition happens at once.
    Instant,
    /// Transitions take the time they take on AWS.
    Aws,
}

impl From<Profile> for model_aws::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Instant => Self::Instant,
            Profile::Aws => Self::Aws,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Any signature is accepted.
    Accept,
    /// Signatures are checked against --access-key and --secret-key.
    Verify,
}

fn controllers_help() -> String {
    format!(
        "Switch controllers off, to run others in their place, such as the real sidecars: --controllers=-provisioner,-attacher. Names: {}",
        Controller::NAMES.join(", ")
    )
}

/// `-provisioner` → `provisioner`, the way kube-controller-manager writes it.
fn controller_off(given: &str) -> Result<String, String> {
    let name = given.strip_prefix('-');
    match name.filter(|name| Controller::NAMES.contains(name)) {
        Some(name) => Ok(name.to_owned()),
        None if Controller::NAMES.contains(&given) => Err(format!("controllers are only switched off: write -{given}")),
        None => Err(format!("there is no such controller; there are: -{}", Controller::NAMES.join(", -"))),
    }
}

/// The built-in CSI drivers.
const DRIVERS: [&str; 2] = ["ebs.csi.aws.com", "efs.csi.aws.com"];

/// `-ebs.csi.aws.com` → `ebs.csi.aws.com`.
fn driver_off(given: &str) -> Result<String, String> {
    match given.strip_prefix('-').filter(|name| DRIVERS.contains(name)) {
        Some(name) => Ok(name.to_owned()),
        None if DRIVERS.contains(&given) => Err(format!("built-in drivers are only switched off: write -{given}")),
        None => Err(format!("there is no such built-in driver; there are: -{}", DRIVERS.join(", -"))),
    }
}

#[derive(Args, Clone)]
pub struct UpArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Return when everything is ready; the log goes to `up.log` in the data directory.
    #[arg(short, long)]
    pub detach: bool,
    /// Address of the AWS endpoint. An address that is not loopback needs `--auth verify`.
    #[arg(long, default_value = "127.0.0.1:4566", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Address of the Kubernetes API; loopback only, since `exec` is root's shell.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR")]
    pub kube_listen: SocketAddr,
    /// Account, zones, network, instances and nodes to start with (YAML); read at the first start of a data directory.
    #[arg(long, value_name = "FILE")]
    pub world: Option<PathBuf>,
    /// How long transitions take.
    #[arg(long, value_enum, default_value = "instant")]
    pub profile: Profile,
    /// Whether signatures are checked.
    #[arg(long, value_enum, default_value = "accept")]
    pub auth: Auth,
    /// A further name by which clients call the AWS endpoint, such as host.docker.internal; other names are refused.
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// The access key id that `--auth verify` accepts.
    #[arg(long, env = "EBBTIDE_ACCESS_KEY", default_value = "test", value_name = "ID")]
    pub access_key: String,
    /// Its secret.
    #[arg(long, env = "EBBTIDE_SECRET_KEY", default_value = "test", value_name = "SECRET", hide_env_values = true)]
    pub secret_key: String,
    /// Serve the APIs only: no nodes, and attachments are records without a device.
    #[arg(long)]
    pub no_nodes: bool,
    /// Start no nodes: the instances of the world are nodes of another Kubernetes, in each of which `ebbtide node --agent-only` makes
    /// the devices.
    #[arg(long, conflicts_with = "no_nodes")]
    pub external_nodes: bool,
    #[arg(long = "controllers", help = controllers_help(), value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(value_name = "-NAME,…", value_parser = controller_off)]
    pub controllers_off: Vec<String>,
    /// Keep journals of the Kubernetes side too, in `journal` of the data directory: every write with its verdict, and what each
    /// controller and kubelet was told. `ebbtide replay` plays them again; the AWS side's is always kept.
    #[arg(long)]
    pub journal: bool,
    /// Switch built-in CSI drivers off, controller and node plugins, to run others in their place: --drivers=-ebs.csi.aws.com. Theirs
    /// register with the kubelet of each node in /var/lib/kubelet/plugins_registry, as on any cluster.
    #[arg(long = "drivers", value_delimiter = ',', allow_hyphen_values = true, value_name = "-NAME,…", value_parser = driver_off)]
    pub drivers_off: Vec<String>,
    /// Mount EFS with the real mount.efs of efs-utils instead of ebbtide's own: its option parsing, certificates, name resolution, state
    /// files and watchdog; only the NFS client and the tunnel are ebbtide's. DIR: where it is installed (/), or its sources.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "/")]
    #[arg(conflicts_with_all = ["no_nodes", "external_nodes"])]
    pub faithful: Option<PathBuf>,
    /// Use this EBS CSI driver's controller service instead of the built-in one: `unix:///path/csi.sock`.
    #[arg(long, value_name = "SOCKET")]
    pub ebs_driver: Option<String>,
    /// Use this EFS CSI driver's controller service instead of the built-in one.
    #[arg(long, value_name = "SOCKET")]
    pub efs_driver: Option<String>,
}

#[derive(Args, Clone)]
pub struct EnvArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Print what takes the variables away again.
    #[arg(long)]
    pub unset: bool,
    /// The shell to write for; guessed from SHELL.
    #[arg(long, value_enum)]
    pub shell: Option<EnvShell>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EnvShell {
    Sh,
    Fish,
}

#[derive(Args, Clone)]
pub struct ResetArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Args, Clone)]
pub struct DoctorArgs {
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
}

#[derive(Args, Clone)]
pub struct DemoArgs {
    /// Keep everything running afterwards, to look around.
    #[arg(long)]
    pub keep: bool,
}

#[derive(Args, Clone)]
pub struct RunArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Scenario files, directories of them, or names in the library.
    #[arg(required_unless_present_any = ["list", "schema", "invariants", "world"], value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// Run on the real devices of a running ebbtide (start one with `ebbtide up`).
    #[arg(long)]
    pub live: bool,
    /// With --live, of a directory or the whole library: also those scenarios that take longer than 5 minutes. One that is named is
    /// played, however long it takes.
    #[arg(long, requires = "live")]
    pub long: bool,
    /// The seed of all choices in virtual time.
    #[arg(long, conflicts_with = "live")]
    pub seed: Option<u64>,
    /// Run with every seed of a range, until one fails: `1..100`.
    #[arg(long, conflicts_with_all = ["live", "seed", "trace"], value_name = "A..B")]
    pub seeds: Option<String>,
    /// As of which day of upstream: 1.36.2, whose behaviour the machines have; `fixed`, with the changes that are proposed there for what
    /// is open; or the names of some of them, as `kubernetes#124334`. (Virtual time only.)
    #[arg(long, conflicts_with = "live", value_name = "VERSION|fixed")]
    pub as_of: Option<scenarios::language::AsOf>,
    /// How many runs at a time with --seeds; as many as there are cores when absent.
    #[arg(long, requires = "seeds", value_name = "N")]
    pub jobs: Option<usize>,
    #[command(flatten)]
    pub part: crate::campaign::SeedArgs,
    /// Record what happens in a file, for `ebbtide replay` and `ebbtide trace`.
    #[arg(long, conflicts_with = "live", value_name = "FILE")]
    pub trace: Option<std::path::PathBuf>,
    /// Draw what happens: one page for a browser, with a timeline and the same in words.
    #[arg(long, conflicts_with_all = ["live", "seeds"], value_name = "FILE.html")]
    pub report: Option<std::path::PathBuf>,
    /// Write the verdicts as JUnit XML, for CI.
    #[arg(long, conflicts_with = "seeds", value_name = "FILE.xml")]
    pub junit: Option<std::path::PathBuf>,
    /// List the scenarios of the library.
    #[arg(long)]
    pub list: bool,
    /// Print the JSON schema of scenario files.
    #[arg(long)]
    pub schema: bool,
    /// List the invariants that are watched, and who can see them.
    #[arg(long)]
    pub invariants: bool,
    /// Print the world with which `ebbtide up --world` has the nodes that the library's live runs need.
    #[arg(long)]
    pub world: bool,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    #[command(flatten)]
    pub agent: AgentArgs,
}

/// The agent in a node of another Kubernetes (kind, k3d, a kubelet of your own), as a process or a privileged DaemonSet.
///
/// It needs, in that node: root, the node's /dev, the PID namespace of its kubelet (hostPID), the endpoint's data directory at the same
/// path, and for EFS the directory of --efs-socket, shared with the pods in which `mount.efs` runs.
#[derive(Args)]
pub struct AgentArgs {
    /// Be the agent of the node that this runs in: claim its instance from an `ebbtide up --external-nodes`, make and remove its devices,
    /// serve EFS mounts. On SIGTERM what is not in use is taken away again.
    #[arg(long)]
    pub agent_only: bool,
    /// The AWS endpoint.
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL", default_value = "http://127.0.0.1:4566")]
    pub endpoint: String,
    /// The instance that this node is. Without it the providerID of the Kubernetes Node tells it (aws:///ZONE/INSTANCE).
    #[arg(long, env = "EBBTIDE_INSTANCE_ID", value_name = "i-…", conflicts_with = "node_name")]
    pub instance_id: Option<String>,
    /// The name of the Kubernetes Node that this is; a DaemonSet sets NODE_NAME from spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// How to reach the Kubernetes API, which is asked for the Node; without it by the pod's service account (get on nodes).
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where this node's devices are to appear.
    #[arg(long, value_name = "DIR", default_value = "/dev")]
    pub dev: PathBuf,
    /// Where the endpoint's data directory is found here, if it is not at the same path.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where `mount.efs` finds the EFS server; `mount.efs` looks here too, or at EBBTIDE_EFS_SOCKET.
    #[arg(long, value_name = "PATH", default_value = emulator_node::config::inside::EFS_SOCKET)]
    pub efs_socket: PathBuf,
    /// Serve the instance's metadata at this address, 169.254.169.254:80 as on EC2 (added to the link `lo` if the node has not got it).
    #[arg(long, value_name = "ADDR")]
    pub metadata: Option<SocketAddr>,
    /// Serve the built-in drivers' node services too, in DIR/<driver>/csi.sock: /var/lib/kubelet/plugins. A registrar tells the kubelet.
    #[arg(long, value_name = "DIR")]
    pub plugins: Option<PathBuf>,
    /// The first number of a loop device that may be taken, 1000 at least.
    #[arg(long, value_name = "N", default_value_t = emulator_node::config::first_loop(), value_parser = clap::value_parser!(u32).range(1000..))]
    pub first_loop: u32,
}

#[derive(Subcommand)]
pub enum NodeCommand {
    /// List the nodes and their processes.
    Ls(DataArgs),
    /// Run a command in a node, as SSM does on AWS.
    Exec {
        #[command(flatten)]
        data: DataArgs,
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Stop a node at once, as a power cut does.
    Kill {
        #[command(flatten)]
        data: DataArgs,
        node: String,
    },
    /// Start a node that is not running.
    Start {
        #[command(flatten)]
        data: DataArgs,
        node: String,
    },
    /// What runs inside a node's namespaces.
    #[command(hide = true)]
    Run {
        #[arg(long)]
        config: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(args: &[&str]) -> Result<UpArgs, String> {
        let line = ["ebbtide", "up"].iter().chain(args);
        match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Up(args) => Ok(args),
            _ => Err("not up".to_owned()),
        }
    }

    #[test]
    fn controllers_are_switched_off_by_a_minus() {
        assert!(up(&[]).unwrap().controllers_off.is_empty());
        assert_eq!(up(&["--controllers=-provisioner,-attacher"]).unwrap().controllers_off, ["provisioner", "attacher"]);
        assert_eq!(up(&["--controllers", "-pv-binder"]).unwrap().controllers_off, ["pv-binder"]);
        let refused = |given: &str| up(&[given]).err().unwrap();
        assert!(refused("--controllers=resizer").contains("write -resizer"));
        let unknown = refused("--controllers=-provisionr");
        assert!(Controller::NAMES.iter().all(|name| unknown.contains(&format!("-{name}"))), "{unknown}");
        assert!(refused("--controllers=--resizer").contains("no such controller"));
    }

    #[test]
    fn drivers_are_switched_off_by_a_minus() {
        assert!(up(&[]).unwrap().drivers_off.is_empty());
        assert_eq!(up(&["--drivers=-ebs.csi.aws.com,-efs.csi.aws.com"]).unwrap().drivers_off, DRIVERS);
        assert!(up(&["--drivers=efs.csi.aws.com"]).err().unwrap().contains("write -efs.csi.aws.com"));
        assert!(up(&["--drivers=-ebs"]).err().unwrap().contains("there are: -ebs.csi.aws.com, -efs.csi.aws.com"));
    }

    #[test]
    fn help_names_the_controllers() {
        use clap::CommandFactory;
        let help = Cli::command().find_subcommand_mut("up").unwrap().render_long_help().to_string();
        // The help is wrapped; names stand whole in it.
        assert!(Controller::NAMES.iter().all(|name| help.contains(name)), "{help}");
    }
}
