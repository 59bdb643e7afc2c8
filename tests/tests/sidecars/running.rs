//! The sidecars as processes beside an ebbtide, with logs that are read for complaints.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use ebbtide_tests::{Ebbtide, wait_for};

/// Running sidecars; they end before their ebbtide does.
pub struct Sidecars<'a> {
    ebbtide: &'a Ebbtide,
    running: Vec<(PathBuf, Child)>,
    /// Parts of the lines that the test's own mistakes make.
    pub expected: Vec<&'static str>,
}

impl<'a> Sidecars<'a> {
    pub fn new(ebbtide: &'a Ebbtide) -> Self {
        Self { ebbtide, running: Vec::new(), expected: Vec::new() }
    }

    /// The sidecars of the EBS driver with the arguments of its manifests.
    pub fn ebs(&mut self, socket: &Path) {
        let limits = ["--kube-api-qps=20", "--kube-api-burst=100"];
        let provisioner = ["--timeout=60s", "--worker-threads=100", "--retry-interval-max=30m", "--feature-gates=Topology=true"];
        let creates = ["--extra-create-metadata", "--default-fstype=ext4"];
        self.start("csi-provisioner", socket, &[&limits[..], &provisioner, &creates].concat());
        let attacher = ["--timeout=6m", "--worker-threads=100", "--retry-interval-max=5m"];
        self.start("csi-attacher", socket, &[&limits[..], &attacher, &["--feature-gates=MutableCSINodeAllocatableCount=true"]].concat());
        let resizer = ["--timeout=60s", "--workers=100", "--retry-interval-max=30m", "--handle-volume-inuse-error=false"];
        self.start("csi-resizer", socket, &[&limits[..], &resizer].concat());
    }

    /// The EBS driver's snapshotter with the arguments of its manifests, and what the cluster has: the definitions and the controller.
    pub fn snapshots(&mut self, socket: &Path) {
        let definitions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/snapshot-crds");
        self.ebbtide.kubectl(&["apply", "-f", definitions.to_str().expect("a path in UTF-8")]);
        let snapshotter =
            ["--worker-threads=100", "--retry-interval-max=30m", "--extra-create-metadata", "--kube-api-qps=20", "--kube-api-burst=100"];
        self.start("csi-snapshotter", socket, &snapshotter);
        self.start_any("snapshot-controller", &[]);
    }

    /// Those of the EFS driver: it only provisions.
    pub fn efs(&mut self) {
        let socket = socket(self.ebbtide, "efs");
        self.start("csi-provisioner", &socket, &["--timeout=15s", "--worker-threads=100", "--extra-create-metadata"]);
    }

    /// Starts a sidecar; all elect their leader, as in a cluster. Its index.
    pub fn start(&mut self, program: &str, socket: &Path, args: &[&str]) -> usize {
        self.start_any(program, &[&[&*format!("--csi-address={}", socket.display())], args].concat())
    }

    pub fn start_any(&mut self, program: &str, args: &[&str]) -> usize {
        let host = format!("{}-{program}", self.running.len());
        self.start_on(&host, program, args)
    }

    /// volume-modifier-for-k8s, in the pod of the csi-resizer that was started: it works while that one leads.
    pub fn modifier(&mut self, socket: &Path) {
        let (log, _) = self.running.iter().find(|(log, _)| log.ends_with("2-csi-resizer.log")).expect("a csi-resizer");
        let host = log.file_stem().expect("a name").to_string_lossy().into_owned();
        let address = format!("--csi-address={}", socket.display());
        self.start_on(&host, "volume-modifier", &[&*address, "--timeout=60s", "--retry-interval-max=30m"]);
    }

    fn start_on(&mut self, host: &str, program: &str, args: &[&str]) -> usize {
        let name = format!("{}-{program}", self.running.len());
        // The leader's identity is the host's name: a name of its own each, as pods have.
        let script = r#"hostname "$0" && exec "$@""#;
        let log = self.ebbtide.dir().join(format!("{name}.log"));
        let out = File::create(&log).expect("a log file");
        let child = self
            .ebbtide
            .command("unshare")
            .args(["--uts", "sh", "-c", script, host, program, "--v=5", "--leader-election"])
            .env("POD_NAMESPACE", "kube-system")
            .arg(format!("--kubeconfig={}", self.ebbtide.info["kubeconfig"].as_str().expect("kubeconfig")))
            .args(["--leader-election-namespace=kube-system"])
            .args(["--leader-election-lease-duration=6s", "--leader-election-renew-deadline=4s", "--leader-election-retry-period=1s"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out)
            .spawn()
            .expect("starting a sidecar");
        self.running.push((log, child));
        self.running.len() - 1
    }

    pub fn kill(&mut self, which: usize) {
        let (_, child) = &mut self.running[which];
        child.kill().expect("killing a sidecar");
        child.wait().expect("a killed sidecar ends");
    }

    pub fn log(&self, which: usize) -> String {
        std::fs::read_to_string(&self.running[which].0).expect("the log of a sidecar")
    }

    /// What the sidecars complain of: each text that klog marks as error or warning and that comes [`AGAIN`] times, but for those that a
    /// real cluster shows too. They act on caches that lag behind each other (a claim is seen bound to a volume that is not seen yet), say
    /// so, and try again; what an API server does wrong they meet each time that they try.
    pub fn complaints(&self) -> Vec<String> {
        let usual = |line: &str| {
            self.expected.iter().any(|part| line.contains(part)) || USUAL.iter().any(|parts| parts.iter().all(|part| line.contains(part)))
        };
        let logs = (0..self.running.len()).map(|which| (&self.running[which].0, self.log(which)));
        let lines = logs.flat_map(|(path, log)| {
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let bad = |line: &&str| line.starts_with(['E', 'W', 'F']) && !usual(line);
            let mut texts = BTreeMap::<&str, u32>::new();
            for line in log.lines().filter(bad) {
                // After date, time, process and place.
                *texts.entry(line.split_once("] ").map_or(line, |(_, text)| text)).or_default() += 1;
            }
            let again = texts.into_iter().filter(|(_, times)| *times >= AGAIN);
            again.map(|(text, times)| format!("{name}: {times} times: {text}")).collect::<Vec<_>>()
        });
        lines.collect()
    }

    /// All still run and none complained.
    pub fn are_content(&mut self) {
        for (log, child) in &mut self.running {
            assert!(child.try_wait().expect("the state of a sidecar").is_none(), "a sidecar ended; see {}", log.display());
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "the sidecars complain:\n{}", complaints.join("\n"));
    }
}

/// How often a text must come to be a complaint.
const AGAIN: u32 = 3;

/// Complaints that the sidecars have on a real cluster as well: each tells of a race between them that they themselves settle.
/// All parts of one must be in the line.
const USUAL: [&[&str]; 9] = [
    // The attacher removes its finalizer by its position in the list, while provisioner and pv-protection remove theirs.
    &["csi_handler.go", "Failed to remove finalizer from PersistentVolume", "error in our request"],
    // Or a second time, before the watch tells it of the first.
    &["csi_handler.go", "Failed to remove finalizer from PersistentVolume", "not found"],
    // The provisioner looks once more at the volume that it just deleted, before the watch tells it.
    &["error syncing volume", "persistentvolumes", "not found"],
    // A claim goes while the provisioner has it in its queues.
    &["claim ", "in work queue no longer exists"],
    &["clone_controller.go", "in work queue no longer exists"],
    // It takes its finalizer from a cloned claim with an update of what it saw, while pvc-protection takes its own.
    &["clone_controller.go", "Retrying to sync claim"],
    // A claim that goes with its pod goes before the volume is detached; the provisioner tries again.
    &["persistentvolume pvc-", "is still attached to node"],
    // The controller deletes what its cache still has, and for its metrics asks for the content of a snapshot that goes after it.
    &["could not sync snapshot", "failed to delete VolumeSnapshotContent", "not found"],
    &["getSnapshotDriverName: failed to get snapshotContent"],
];

impl Drop for Sidecars<'_> {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            // It may have been killed by the test.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for which in 0..self.running.len() {
                let log = self.log(which);
                let lines: Vec<&str> = log.lines().filter(|line| !line.contains("[core]")).collect();
                eprintln!("{}:\n{}", self.running[which].0.display(), lines[lines.len().saturating_sub(30)..].join("\n"));
            }
        }
    }
}

/// The socket of a driver's controller service, as the log of `up` tells it.
pub fn socket(ebbtide: &Ebbtide, short: &str) -> PathBuf {
    let mut found = None;
    wait_for("the CSI driver's line in the log", Duration::from_secs(10), || {
        let log = std::fs::read_to_string(ebbtide.dir().join("up.log")).unwrap_or_default();
        let line = log.lines().filter(|line| line.contains("the CSI driver is ready"));
        let sockets = line.flat_map(|line| line.split(['=', ' ']).filter(|word| word.ends_with(&format!("/{short}.sock"))));
        found = sockets.map(PathBuf::from).next();
        found.is_some()
    });
    found.expect("found above")
}
