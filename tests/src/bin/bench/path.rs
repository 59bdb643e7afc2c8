//! The way of a claim, as a user of kubectl sees it: applied to running (mkfs included), and deleted to detached.

use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, program, wait_for};

use crate::Kept;

/// A real EBS driver, to be measured too.
const BINARY: &str = "EBBTIDE_TEST_EBS_DRIVER";

const CLASS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
"#;

const CLAIM_AND_POD: &str = r#"
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim-N}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ebs-sc
  resources: {requests: {storage: 10Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: app-N}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: centos, command: [sh, -c, "trap exit TERM; sleep 600 & wait"], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: claim-N}}]
"#;

/// How many claims at once, and how often.
const SIZES: [(usize, usize); 2] = [(1, 5), (50, 3)];

pub fn run() {
    println!("\nseconds, 10 GiB gp3 and mkfs.ext4 each, kubectl's own time included: median (best to worst)");
    println!("{:<16} {:>6} {:>26} {:>26}", "EBS driver", "claims", "applied to all Running", "deleted to all detached");
    claims(&Ebbtide::up(&[]), "built-in");
    match std::env::var(BINARY) {
        Ok(binary) => real(&binary),
        Err(_) => println!("real             skipped: no driver binary ({BINARY})"),
    }
}

/// Measures a real EBS driver in the place of the built-in one: its controller service beside ebbtide, its node service in each node.
fn real(binary: &str) {
    let run = tempfile::Builder::new().prefix("ebbtide-bench-").tempdir().expect("a directory");
    let controller = format!("unix://{}", run.path().join("ebs.sock").display());
    let ebbtide = Ebbtide::up(&["--drivers=-ebs.csi.aws.com", "--ebs-driver", &controller]);
    let arguments = ["controller", "--batching=true", "--endpoint", &controller];
    let _controller = Kept::start(ebbtide.command(binary).args(arguments));
    let ours = program().canonicalize().expect("ebbtide was built");
    let in_node = |node: &str, script: &str| {
        let mut command = ebbtide.command(ours.to_str().expect("a path in UTF-8"));
        command.args(["node", "exec", node, "--data-dir"]).arg(ebbtide.dir()).args(["--", "sh", "-c", script]);
        Kept::start(&mut command)
    };
    let directory = "/var/lib/kubelet/plugins/ebs.csi.aws.com";
    let _in_nodes: Vec<Kept> = ebbtide
        .nodes()
        .iter()
        .flat_map(|node| {
            let driver = format!(
                "mkdir -p {directory}; unset AWS_EC2_METADATA_DISABLED; export CSI_NODE_NAME={node}; \
                 exec {binary} node --endpoint unix://{directory}/csi.sock --metadata-sources=imds"
            );
            let registrar = format!("exec {} csi-registrar --csi-address {directory}/csi.sock", ours.display());
            [in_node(node, &driver), in_node(node, &registrar)]
        })
        .collect();
    wait_for("the driver to be registered", Duration::from_secs(60), || {
        ebbtide.kubectl(&["get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[*].name}"]).matches("ebs.csi.aws.com").count() == 2
    });
    claims(&ebbtide, "real");
}

/// Measures claims through whatever driver this ebbtide has.
fn claims(ebbtide: &Ebbtide, driver: &str) {
    ebbtide.kubectl_with(&["apply", "-f", "-"], CLASS);
    for (count, rounds) in SIZES {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let manifests: String = (0..count).map(|n| CLAIM_AND_POD.replace("-N", &format!("-{n}"))).collect();
            let started = Instant::now();
            ebbtide.kubectl_with(&["apply", "--validate=false", "-f", "-"], &manifests);
            ebbtide.kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "pod", "--all", "--timeout=300s"]);
            up.push(started.elapsed().as_secs_f64());
            let started = Instant::now();
            ebbtide.kubectl(&["delete", "pod", "--all", "--wait=false"]);
            ebbtide.kubectl(&["wait", "--for=delete", "volumeattachment", "--all", "--timeout=300s"]);
            down.push(started.elapsed().as_secs_f64());
            ebbtide.kubectl(&["delete", "pvc", "--all", "--timeout=120s"]);
            wait_for("the volumes to go", Duration::from_secs(120), || ebbtide.kubectl(&["get", "pv", "-o", "name"]).is_empty());
        }
        println!("{driver:<16} {count:>6} {:>26} {:>26}", crate::spread(&mut up), crate::spread(&mut down));
    }
}
