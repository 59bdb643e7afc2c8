//! csi-sanity (csi-test v5.6.0) against CSI drivers inside a node of ebbtide: real EC2 and EFS calls, real loop devices, real mounts.
//!
//! One test body, several drivers: the built-in ones always, a real driver where `EBBTIDE_TEST_EBS_DRIVER` or `EBBTIDE_TEST_EFS_DRIVER` gives
//! its binary. What csi-sanity skips, it skips by itself, because the driver does not have the capability; nothing is filtered here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ebbtide_tests::{Ebbtide, program, root, text, wait_for};
use serde_json::{Value, json};

/// How long one call of a driver may take, and how long all specs together.
const CALL_LIMIT: &str = "--deadline=45s";
const RUN_LIMIT: &str = "400";

const EBS_PARAMETERS: &str = r#"{"type": "gp3", "iops": "3000"}"#;
const EBS_MUTABLE: &str = r#"{"iops": "3014", "throughput": "153"}"#;

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
    let class = json!({"provisioningMode": "efs-ap", "fileSystemId": id, "directoryPerms": "777", "subPathPattern": "/foo"});
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
