//! From an applied claim to a running pod, as a user of kubectl sees it (mkfs included).

use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, wait_for};

const MANIFESTS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
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
  - {name: app, image: centos, command: [sleep, "600"], volumeMounts: [{name: data, mountPath: /data}]}
  volumes: [{name: data, persistentVolumeClaim: {claimName: claim-N}}]
"#;

pub fn run() {
    let ebbtide = Ebbtide::up(&[]);
    let mut times = Vec::new();
    for n in 0..5 {
        let started = Instant::now();
        ebbtide.kubectl_with(&["apply", "--validate=false", "-f", "-"], &MANIFESTS.replace("-N", &format!("-{n}")));
        ebbtide.kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", &format!("pod/app-{n}"), "--timeout=60s"]);
        times.push(started.elapsed().as_secs_f64());
        ebbtide.kubectl(&["delete", &format!("pod/app-{n}"), &format!("pvc/claim-{n}"), "--timeout=60s"]);
        wait_for("the volume to go", Duration::from_secs(30), || ebbtide.kubectl(&["get", "pv", "-o", "name"]).is_empty());
    }
    times.sort_by(f64::total_cmp);
    println!(
        "PVC applied to pod Running (10 GiB gp3, mkfs.ext4; two kubectl processes included): median {:.3} s, best {:.3} s, worst {:.3} s of {}",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1],
        times.len()
    );
}
