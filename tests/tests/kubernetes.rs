//! A real Kubernetes: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd and kubelet as processes in namespaces
//! of their own (scripts/kubernetes), with ebbtide's agent in the node, the drivers (real ones where EBBTIDE_TEST_EBS_DRIVER and
//! EBBTIDE_TEST_EFS_DRIVER name them, else the built-in ones) and the sidecars. `make test-kubernetes` runs it.

#[path = "exercises/mod.rs"]
// The other stacks' beginnings are not used here.
#[allow(dead_code)]
mod exercises;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use ebbtide_tests::Ebbtide;

/// Needs that are not met; none: the cluster can be brought up.
fn missing(work: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    if !ebbtide_tests::root() {
        missing.push("root".to_owned());
    }
    for program in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "pause", "e2e.test", "ginkgo"] {
        if !work.join("bin").join(program).is_file() {
            missing.push(format!("{} (scripts/kubernetes/build.sh)", work.join("bin").join(program).display()));
        }
    }
    if !work.join("images.tar").is_file() {
        missing.push(format!("{} (scripts/kubernetes/build.sh images)", work.join("images.tar").display()));
    }
    for program in ["containerd", "runc", "nsenter", "unshare", "openssl", "curl", "ip", "losetup", "mkfs.xfs"] {
        if !found(program) {
            missing.push(format!("the program {program} (scripts/kubernetes/build.sh apt)"));
        }
    }
    for program in ["kubectl", "aws", "csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter", "snapshot-controller"] {
        if !found(program) {
            missing.push(format!("the program {program} (scripts/setup sidecars)"));
        }
    }
    missing
}

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).any(|dir| dir.join(program).is_file())
}

/// The cluster; it ends with this.
struct Cluster(PathBuf);

impl Cluster {
    fn script(&self, name: &str, args: &[&str], input: Option<&str>) -> Output {
        let mut command = Command::new(self.0.join(name));
        command.args(args);
        let Some(input) = input else { return command.output().expect("a script runs") };
        let mut file = tempfile::tempfile().expect("a file for the input");
        std::io::Write::write_all(&mut file, input.as_bytes()).expect("writing the input");
        std::io::Seek::rewind(&mut file).expect("rewinding the input");
        command.stdin(file).output().expect("a script runs")
    }

    /// Runs a script that must succeed; what it printed.
    fn must(&self, name: &str, args: &[&str], input: Option<&str>) -> String {
        let output = self.script(name, args, input);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name} {args:?}: {}\n{out}\n{err}", output.status);
        out.trim().to_owned()
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.must("in.sh", &[&["kubectl"], args].concat(), None)
    }

    fn apply(&self, yaml: &str) {
        self.must("in.sh", &["kubectl", "apply", "-f", "-"], Some(yaml));
    }

    fn aws(&self, args: &[&str]) -> String {
        let environment = ["env", "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_DEFAULT_REGION=us-east-1"];
        let endpoint = ["AWS_ENDPOINT_URL=http://127.0.0.1:4566", "aws", "--output", "text"];
        self.must("in.sh", &[&environment[..], &endpoint, args].concat(), None)
    }

    fn ready(&self, pod: &str) {
        let wait = format!("pod/{pod}");
        let output = self.script("in.sh", &["kubectl", "wait", "--for=condition=Ready", &wait, "--timeout=150s"], None);
        if !output.status.success() {
            panic!("{pod} is not Ready:\n{}", self.kubectl(&["describe", "pod", pod]));
        }
    }

    fn gone(&self, kinds: &str) {
        ebbtide_tests::wait_for(&format!("the end of {kinds}"), std::time::Duration::from_secs(150), || {
            self.kubectl(&["get", kinds, "-o", "name"]).is_empty()
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = self.script("down.sh", &[], None);
        if !std::thread::panicking() {
            assert!(down.status.success(), "down.sh: {}", String::from_utf8_lossy(&down.stderr));
        }
    }
}

fn pod(name: &str, claim: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    \
         image: registry.k8s.io/e2e-test-images/busybox:1.37.0-1\n    command: [sh, -c, \"echo $(hostname) >>/data/out.txt; sleep 100000\"]\n    \
         volumeMounts: [{{name: v, mountPath: /data}}]\n  volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]\n"
    )
}

/// F02: an access point for each claim.
fn dynamic_efs(cluster: &Cluster) {
    let file_system = cluster.aws(&["efs", "create-file-system", "--creation-token", "f02", "--query", "FileSystemId"]);
    let subnet = ["ec2", "describe-subnets", "--filters", "Name=availability-zone,Values=us-east-1a", "--query", "Subnets[0].SubnetId"];
    let subnet = cluster.aws(&subnet);
    cluster.aws(&["efs", "create-mount-target", "--file-system-id", &file_system, "--subnet-id", &subnet]);
    cluster.apply(&format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: efs-sc}}\nprovisioner: efs.csi.aws.com\n\
         parameters: {{provisioningMode: efs-ap, fileSystemId: {file_system}, directoryPerms: \"700\"}}\n---\n\
         apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: f02}}\n\
         spec: {{accessModes: [ReadWriteMany], storageClassName: efs-sc, resources: {{requests: {{storage: 5Gi}}}}}}\n"
    ));
    cluster.apply(&pod("f02", "f02"));
    cluster.apply(&pod("f02-second", "f02"));
    cluster.ready("f02");
    cluster.ready("f02-second");
    let lines = cluster.kubectl(&["exec", "f02", "--", "sort", "/data/out.txt"]);
    assert_eq!(lines, "f02\nf02-second");
    cluster.kubectl(&["delete", "pod/f02", "pod/f02-second", "pvc/f02", "sc/efs-sc", "--wait"]);
    cluster.gone("pv");
    assert_eq!(cluster.aws(&["efs", "describe-access-points", "--query", "AccessPoints[].AccessPointId"]), "");
}

/// The exercises' way to the cluster: into the namespaces of its node.
fn inside(work: &Path) -> Ebbtide {
    let init = std::fs::read_to_string(work.join("run/init.pid")).expect("the node's first process");
    let kubeconfig = work.join("run/admin.kubeconfig");
    let info = serde_json::json!({"aws": "127.0.0.1:4566", "kubeconfig": kubeconfig});
    let image = "registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0";
    Ebbtide::guest(info, &["nsenter", "-t", init.trim(), "-m", "-p", "-n", "-u", "--"], image)
}

/// Says what is done, and how long it took.
fn step(what: &str, does: impl FnOnce()) {
    println!("--- {what}");
    let started = Instant::now();
    does();
    println!("--- {what}: done in {:.0} s", started.elapsed().as_secs_f64());
}

#[test]
fn a_real_kubernetes() {
    let Some(work) = std::env::var_os("EBBTIDE_KUBERNETES").map(PathBuf::from) else {
        println!("skipped: a real Kubernetes is brought up by `make test-kubernetes` only");
        return;
    };
    let missing = missing(&work);
    if !missing.is_empty() {
        println!("skipped: this machine has not got what a real Kubernetes needs:\n  {}", missing.join("\n  "));
        return;
    }
    let cluster = Cluster(Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kubernetes"));
    step("up.sh: a node with its control plane", || println!("{}", cluster.must("up.sh", &[], None)));
    step("join.sh: ebbtide, the drivers and the sidecars", || println!("{}", cluster.must("join.sh", &[], None)));
    step("the exercises", || exercises::all::all(&inside(&work)));
    step("F02", || dynamic_efs(&cluster));
    // Every write of the storage path that the real components made up to here.
    step("ebbtide check --audit", || {
        let log = work.join("run/log/audit.log");
        let output = Command::new(ebbtide_tests::program()).arg("check").arg("--audit").arg(&log).output().expect("ebbtide runs");
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    // Of the upstream suites what needs neither growth online nor minutes.
    let focus = r"External.Storage.*\((ext4|default fs|block volmode)\)\] (volumes|fsgroupchangepolicy|provisioning)|External.Storage.*volumeLimits";
    let definition = cluster.0.join("ebs.yaml");
    let args = [definition.to_str().expect("a path in UTF-8"), focus, r"\[Disruptive\]|\[Serial\]|\[Slow\]|\[Feature:"];
    step("of the External.Storage suites (results/run/log.txt grows meanwhile)", || {
        let said = cluster.must("e2e.sh", &args, None);
        println!("{said}");
        assert!(said.contains("SUCCESS!") && said.contains(" 0 Failed"), "{said}");
    });
    step("down.sh", || drop(cluster));
    let run = work.join("run");
    assert!(!run.exists(), "{} is left", run.display());
    let loops = Command::new("losetup").args(["-n", "-O", "BACK-FILE"]).output().expect("losetup");
    let loops = String::from_utf8_lossy(&loops.stdout);
    assert!(!loops.contains(&*run.to_string_lossy()), "loop devices are left:\n{loops}");
}
