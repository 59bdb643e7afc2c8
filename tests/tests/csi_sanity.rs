//! csi-sanity (csi-test v5.6.0) against CSI drivers inside a node of ebbtide: real EC2 and EFS calls, real loop devices, real mounts.
//!
//! One test body, several drivers: the built-in ones always, a real driver where `EBBTIDE_TEST_EBS_DRIVER` or `EBBTIDE_TEST_EFS_DRIVER` gives
//! its binary. What csi-sanity skips, it skips by itself, because the driver does not have the capability; nothing is filtered here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_tests::{Ebbtide, last_lines, program, root, text, wait_for};
use serde_json::{Value, json};

/// How long one call of a driver may take, and how long all specs together.
const CALL_LIMIT: &str = "--deadline=45s";
const RUN_LIMIT: &str = "400";

const EBS_PARAMETERS: &str = r#"{"type": "gp3", "iops": "3000"}"#;
const EBS_MUTABLE: &str = r#"{"iops": "3014", "throughput": "153"}"#;

/// What the EBS driver 1.64 answers against CSI, whatever EC2 it has (real-drivers.md §2).
const EBS_KNOWN: &[(&str, &str)] = &[
    ("ValidateVolumeCapabilities should fail when the requested volume does not exist", "InvalidVolume.NotFound becomes Internal"),
    ("ModifyVolume [Controller Server] should fail if volume does not exist", "InvalidVolume.NotFound becomes Internal"),
    ("should return empty when the specified snapshot id does not exist", "InvalidSnapshot.NotFound becomes Internal"),
    ("should return next token when a limited number of entries are requested", "it refuses MaxResults below 5"),
    ("NodeExpandVolume should fail when volume is not found", "a path that does not exist becomes Internal"),
];

/// The same with `--batching=true`: a batch that fails is taken apart for the next try only, and the caller sees Internal.
const EBS_BATCHING_KNOWN: &[(&str, &str)] = &[
    EBS_KNOWN[0],
    EBS_KNOWN[1],
    EBS_KNOWN[2],
    EBS_KNOWN[3],
    EBS_KNOWN[4],
    ("ControllerPublishVolume should fail when the volume does not exist", "the batched DescribeInstances fails as Internal"),
    ("ControllerPublishVolume should fail when the node does not exist", "the batched DescribeInstances fails as Internal"),
];

/// What the EFS driver 3.4 answers against CSI.
const EFS_KNOWN: &[(&str, &str)] = &[
    ("with already existing name and different capacity", "a file system has no capacity, and the driver keeps none"),
    ("should not fail when creating volume with maximum-length name", "the name is the client token, of which EFS takes 64 characters"),
    ("NodeUnpublishVolume should remove target path", "the driver unmounts and leaves the directory to the kubelet"),
];

/// The same with `reuseAccessPoint`, where the token is a hash.
const EFS_REUSE_KNOWN: &[(&str, &str)] = &[EFS_KNOWN[0], EFS_KNOWN[2]];

/// A driver under test.
struct Driver {
    /// Its sockets; both the same where one process has both services.
    node_socket: PathBuf,
    controller_socket: PathBuf,
    /// csi-sanity's arguments for it.
    args: Vec<String>,
    /// Specs that it is known to fail, by a part of their names, with the cause. None for a built-in one.
    known: &'static [(&'static str, &'static str)],
}

/// What csi-sanity reported.
#[derive(Debug, Default)]
struct Report {
    passed: Vec<String>,
    skipped: Vec<String>,
    /// With what was said.
    failed: BTreeMap<String, String>,
}

impl Report {
    fn read(path: &Path) -> Option<Self> {
        let suites: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let mut report = Self::default();
        for spec in suites[0]["SpecReports"].as_array()? {
            let mut words: Vec<&str> = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            words.extend(spec["LeafNodeText"].as_str());
            let name = words.join(" ");
            match spec["State"].as_str()? {
                "passed" => report.passed.push(name),
                // "pending" is switched off by csi-test itself.
                "skipped" | "pending" => report.skipped.push(name),
                _ => drop(report.failed.insert(name, format!("{:#}", spec["Failure"]["Message"]).replace("\\n", "\n"))),
            }
        }
        Some(report)
    }
}

/// csi-sanity runs where the node's devices and mounts are, as the kubelet would.
fn in_node(ebbtide: &Ebbtide, node: &str, argv: &[String]) -> Command {
    let mut command = ebbtide.command(program().to_str().expect("a path in UTF-8"));
    command.args(["node", "exec", node, "--data-dir"]).arg(ebbtide.dir()).arg("--").args(argv);
    command
}

/// The tool that `scripts/setup test` builds, by its whole path: a node has a PATH of its own.
fn tool() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("csi-sanity")).find(|file| file.is_file());
    found.expect("csi-sanity is not in PATH (make test installs it)").display().to_string()
}

/// Runs all specs. At least `least` must pass, and none fail but the known; nothing may be left in the directory or mounted.
fn sanity(ebbtide: &Ebbtide, node: &str, driver: &Driver, access: &str, least: usize) {
    let dir = ebbtide.dir().join(format!("csi-sanity-{access}"));
    std::fs::create_dir(&dir).expect("a directory");
    let report = dir.with_extension("json");
    let mut argv: Vec<String> = ["timeout", "-s", "KILL", RUN_LIMIT].map(str::to_owned).into();
    argv.extend([
        tool(),
        format!("--endpoint=unix://{}", driver.node_socket.display()),
        format!("--controller-endpoint=unix://{}", driver.controller_socket.display()),
        format!("--access={access}"),
        format!("--dir={}", dir.display()),
        CALL_LIMIT.to_owned(),
        format!("--ginkgo.json-report={}", report.display()),
        "--ginkgo.no-color".to_owned(),
        // The order is another with each run unless it is given; a failure must be met again.
        "--ginkgo.seed=1".to_owned(),
    ]);
    argv.extend(driver.args.iter().cloned());
    let output = in_node(ebbtide, node, &argv).output().expect("running ebbtide");
    let report = Report::read(&report).unwrap_or_else(|| panic!("csi-sanity did not report:\n{}", text(&output)));
    eprintln!(
        "csi-sanity, {access}: {} passed, {} failed, {} skipped (the driver has not the capability)",
        report.passed.len(),
        report.failed.len(),
        report.skipped.len()
    );
    let mut unexpected = String::new();
    for (spec, why) in &report.failed {
        match driver.known.iter().find(|(part, _)| spec.contains(part)) {
            Some((_, cause)) => eprintln!("known to fail: {spec}: {cause}"),
            None => unexpected += &format!("\n--- {spec}\n{why}\n"),
        }
    }
    assert!(unexpected.is_empty(), "these specs failed:{unexpected}");
    assert!(report.passed.len() >= least, "only {} specs passed: {:#?}\n{}", report.passed.len(), report.skipped, text(&output));
    let mounts = in_node(ebbtide, node, &["cat".to_owned(), "/proc/self/mounts".to_owned()]).output().expect("running ebbtide");
    let dir = dir.to_str().expect("a path in UTF-8");
    let mounts: String = text(&mounts).lines().filter(|line| line.contains(dir)).map(|line| format!("{line}\n")).collect();
    assert!(mounts.is_empty(), "left mounted in the node:\n{mounts}");
}

/// Every spec deletes what it made, and so must the cloud have.
fn nothing_left_in_ec2(ebbtide: &Ebbtide) {
    let volumes = ebbtide.aws(&["ec2", "describe-volumes"]);
    let snapshots = ebbtide.aws(&["ec2", "describe-snapshots", "--owner-ids", "self"]);
    assert_eq!((&volumes["Volumes"], &snapshots["Snapshots"]), (&json!([]), &json!([])));
}

/// The address of a built-in controller, which the log tells.
fn controller_socket(ebbtide: &Ebbtide, driver: &str) -> PathBuf {
    let log = std::fs::read_to_string(ebbtide.dir().join("up.log")).expect("up.log");
    let line = log.lines().find(|line| line.contains("the CSI driver is ready") && line.contains(driver));
    let socket = line.and_then(|line| line.split("socket=").nth(1)).and_then(|rest| rest.split_whitespace().next());
    PathBuf::from(socket.unwrap_or_else(|| panic!("up.log does not tell the socket of {driver}:\n{log}")))
}

fn parameters(ebbtide: &Ebbtide, name: &str, json: &str) -> String {
    // JSON is YAML.
    let path = ebbtide.dir().join(name);
    std::fs::write(&path, json).expect("writing parameters");
    path.display().to_string()
}

fn ebs_args(ebbtide: &Ebbtide) -> Vec<String> {
    vec![
        format!("--parameters={}", parameters(ebbtide, "ebs.yaml", EBS_PARAMETERS)),
        format!("--mutable-parameters={}", parameters(ebbtide, "ebs-mutable.yaml", EBS_MUTABLE)),
        format!("--expand-size={}", 12_u64 << 30),
        "--ids=ec2".to_owned(),
    ]
}

/// A file system with a mount target in each zone, and the storage class that upstream's own sanity test uses.
fn efs_args(ebbtide: &Ebbtide) -> Vec<String> {
    efs_args_with(ebbtide, json!({}))
}

/// The same with further parameters of the storage class.
fn efs_args_with(ebbtide: &Ebbtide, more: Value) -> Vec<String> {
    let created = ebbtide.aws(&["efs", "create-file-system"]);
    let id = created["FileSystemId"].as_str().expect("an id");
    let subnets = ebbtide.aws(&["ec2", "describe-subnets"]);
    for subnet in subnets["Subnets"].as_array().into_iter().flatten() {
        let subnet = subnet["SubnetId"].as_str().expect("an id");
        ebbtide.aws(&["efs", "create-mount-target", "--file-system-id", id, "--subnet-id", subnet]);
    }
    wait_for("the mount targets", Duration::from_secs(20), || {
        let targets = ebbtide.aws(&["efs", "describe-mount-targets", "--file-system-id", id]);
        targets["MountTargets"].as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["LifeCycleState"] == "available"))
    });
    let mut class = json!({"provisioningMode": "efs-ap", "fileSystemId": id, "directoryPerms": "777", "subPathPattern": "/foo"});
    class.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    vec![format!("--parameters={}", parameters(ebbtide, "efs.yaml", &class.to_string()))]
}

fn nothing_left_in_efs(ebbtide: &Ebbtide) {
    assert_eq!(ebbtide.aws(&["efs", "describe-access-points"])["AccessPoints"], json!([]));
}

fn built_in(ebbtide: &Ebbtide, name: &str, args: Vec<String>) -> Driver {
    Driver {
        node_socket: Path::new("/var/lib/kubelet/plugins").join(name).join("csi.sock"),
        controller_socket: controller_socket(ebbtide, name),
        args,
        known: &[],
    }
}

/// 103 specs; 23 ask for a capability that the driver does not have (ListVolumes, GetCapacity, groups, health …) or are pending upstream.
#[test]
fn built_in_ebs_driver() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let node = &ebbtide.nodes()[0];
    let mut args = ebs_args(&ebbtide);
    args.push("--attach-limit".to_owned());
    let driver = built_in(&ebbtide, "ebs.csi.aws.com", args);
    for access in ["mount", "block"] {
        sanity(&ebbtide, node, &driver, access, 80);
    }
    nothing_left_in_ec2(&ebbtide);
}

/// The driver takes file system access only, and of the controller it has CreateVolume and DeleteVolume only.
#[test]
fn built_in_efs_driver() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let driver = built_in(&ebbtide, "efs.csi.aws.com", efs_args(&ebbtide));
    sanity(&ebbtide, &ebbtide.nodes()[0], &driver, "mount", 32);
    nothing_left_in_efs(&ebbtide);
}

/// A real driver's process in a node, started again whenever it ends, as its pod would be.
struct RealDriver {
    wrapper: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl RealDriver {
    /// Starts what the environment variable names; says `skipped` and answers none without it.
    fn start(ebbtide: &Ebbtide, node: &Value, variable: &str, args: &[&str], environment: &[(&str, &str)]) -> Option<Self> {
        let binary = std::env::var_os(variable)?;
        let binary = std::fs::canonicalize(&binary).unwrap_or_else(|error| panic!("{variable}={binary:?}: {error}"));
        let socket = ebbtide.dir().join("real.sock");
        let log = ebbtide.dir().join("real.log");
        // What it writes below /etc stays in the node.
        let script = r#"
            set -e
            mkdir -p "$0/etc" "$0/work"
            mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" /etc
            while :; do
                "$@" || true
                echo "=== the driver ended; starting it again"
                sleep 0.2
            done"#;
        let dir = ebbtide.dir().join("real");
        let mut argv: Vec<String> = ["sh", "-c", script].map(str::to_owned).into();
        argv.extend([dir.display().to_string(), binary.display().to_string()]);
        argv.extend(args.iter().map(|arg| arg.replace("SOCKET", &format!("unix://{}", socket.display()))));
        let output = std::fs::File::create(&log).expect("a log");
        let wrapper = in_node(ebbtide, node["name"].as_str().expect("a name"), &argv)
            .env_remove("AWS_EC2_METADATA_DISABLED")
            .env_remove("AWS_ENDPOINT_URL")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", node["metadata"]["node"].as_str().expect("an address of the metadata service"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log"))
            .stderr(output)
            .spawn()
            .expect("running ebbtide");
        let driver = Self { wrapper, socket, log };
        wait_for("the real driver to serve", Duration::from_secs(60), || std::os::unix::net::UnixStream::connect(&driver.socket).is_ok());
        Some(driver)
    }

    fn under_test(&self, args: Vec<String>, known: &'static [(&'static str, &'static str)]) -> Driver {
        Driver { node_socket: self.socket.clone(), controller_socket: self.socket.clone(), args, known }
    }
}

impl Drop for RealDriver {
    fn drop(&mut self) {
        // What it runs in the node ends with the node.
        let _ = self.wrapper.kill();
        let _ = self.wrapper.wait();
        if std::thread::panicking() {
            eprintln!("the real driver's log ends with:\n{}", last_lines(&self.log, 60));
        }
    }
}

/// Whether a real driver is given, and this machine can run it.
fn given(variable: &str) -> bool {
    if std::env::var_os(variable).is_none() {
        eprintln!("skipped: no driver binary ({variable})");
        return false;
    }
    root()
}

/// The first node, as `ebbtide node ls` shows it.
fn first_node(ebbtide: &Ebbtide) -> Value {
    let output = ebbtide.ebbtide(&["node", "ls", "-o", "json"]);
    let nodes: Value = serde_json::from_slice(&output.stdout).expect("JSON of node ls");
    nodes[0].clone()
}

fn real_ebs(batching: &str, known: &'static [(&'static str, &'static str)]) {
    const BINARY: &str = "EBBTIDE_TEST_EBS_DRIVER";
    if !given(BINARY) {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let node = first_node(&ebbtide);
    let (endpoint, batching) = (ebbtide.endpoint(), format!("--batching={batching}"));
    let args = ["all", "--endpoint=SOCKET", "--metadata-sources=imds", &batching];
    let Some(driver) = RealDriver::start(&ebbtide, &node, BINARY, &args, &[("AWS_EC2_ENDPOINT", &endpoint)]) else { return };
    let under_test = driver.under_test(ebs_args(&ebbtide), known);
    for access in ["mount", "block"] {
        sanity(&ebbtide, node["name"].as_str().expect("a name"), &under_test, access, 79 - known.len());
    }
    nothing_left_in_ec2(&ebbtide);
}

#[test]
fn real_ebs_driver() {
    real_ebs("false", EBS_KNOWN);
}

#[test]
fn real_ebs_driver_that_batches() {
    real_ebs("true", EBS_BATCHING_KNOWN);
}

fn real_efs(parameters: Value, known: &'static [(&'static str, &'static str)]) {
    const BINARY: &str = "EBBTIDE_TEST_EFS_DRIVER";
    if !given(BINARY) {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let node = first_node(&ebbtide);
    // It copies whatever is in there; efs-utils is not needed, as `mount.efs` is ebbtide's.
    let files = ebbtide.dir().join("no-static-files");
    std::fs::create_dir(&files).expect("a directory");
    let (endpoint, files) = (ebbtide.endpoint(), format!("--efs-utils-static-files-path={}", files.display()));
    let args = ["--endpoint=SOCKET", "--logtostderr", "--vol-metrics-opt-in=true", &files];
    let Some(driver) = RealDriver::start(&ebbtide, &node, BINARY, &args, &[("AWS_ENDPOINT_URL", &endpoint)]) else { return };
    let under_test = driver.under_test(efs_args_with(&ebbtide, parameters), known);
    sanity(&ebbtide, node["name"].as_str().expect("a name"), &under_test, "mount", 32 - known.len());
    nothing_left_in_efs(&ebbtide);
}

#[test]
fn real_efs_driver() {
    real_efs(json!({}), EFS_KNOWN);
}

/// The client token is then a hash of the claim's name, not the volume's name.
#[test]
fn real_efs_driver_that_reuses_access_points() {
    real_efs(json!({"reuseAccessPoint": "true", "csi.storage.k8s.io/pvc/name": "claim"}), EFS_REUSE_KNOWN);
}
