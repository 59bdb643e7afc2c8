//! `kill -9` at random moments during create, attach, mount, detach and delete: nothing acknowledged is lost, nothing leaks, and
//! everything converges. `EBBTIDE_CRASH_ROUNDS` says how many rounds (default 6; the full run is 100), `EBBTIDE_CRASH_SEED` repeats one.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ebbtide_tests::{Ebbtide, root, text, wait_for};
use serde_json::Value;

const CLASS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs-sc}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
"#;

const APP: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: NAME}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ebs-sc
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: centos
    command: ["/bin/sh", "-c", "echo NAME >> /data/out.txt; sync; exec sleep 600"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: NAME}}]
"#;

/// What the server has acknowledged.
#[derive(Default)]
struct Acknowledged {
    volumes: BTreeSet<String>,
    apps: BTreeSet<String>,
    /// Apps that were asked for: of one whose answer was lost any part may be there.
    tried: BTreeSet<String>,
}

/// xorshift; the seed is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Fewer than one node can hold.
const MOST_APPS: usize = 8;

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    if !root() {
        return;
    }
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let rounds = number("EBBTIDE_CRASH_ROUNDS", 6);
    let seed = number("EBBTIDE_CRASH_SEED", SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64)).max(1);
    eprintln!("EBBTIDE_CRASH_SEED={seed} EBBTIDE_CRASH_ROUNDS={rounds}");
    let mut random = Random(seed);
    let mut ebbtide = Ebbtide::up(&[]);
    ebbtide.kubectl_with(&["apply", "-f", "-"], CLASS);
    let known = Mutex::new(Acknowledged::default());
    for round in 0..rounds {
        let wait = Duration::from_millis(random.below(2500));
        let kill_node = random.below(3) == 0;
        let node = ebbtide.nodes()[random.below(2) as usize].clone();
        eprintln!("round {round}: kill {} after {wait:?}", if kill_node { &node } else { "up" });
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(&ebbtide, round, &known, &stop));
            std::thread::sleep(wait);
            match kill_node {
                true => kill_node_of(&ebbtide, &node),
                false => ebbtide.kill(),
            }
            stop.store(true, Ordering::Relaxed);
            worker.join().expect("the worker");
        });
        if !kill_node {
            ebbtide.start();
        }
        check(&ebbtide, &mut known.lock().unwrap());
    }
    finish(&ebbtide, known.into_inner().unwrap());
}

/// Creates and deletes until told to stop; notes what was acknowledged. After a kill the calls fail, which is what they should.
fn work(ebbtide: &Ebbtide, round: u64, known: &Mutex<Acknowledged>, stop: &AtomicBool) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("app-{round}-{n}");
        known.lock().unwrap().tried.insert(name.clone());
        let mut apply = ebbtide.command("sh");
        let manifests = APP.replace("NAME", &name);
        apply.args(["-c", "kubectl apply -f - <<EOF\n$0\nEOF", &manifests]);
        if apply.output().is_ok_and(|output| output.status.success()) {
            known.lock().unwrap().apps.insert(name);
        }
        let create = ["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1a", "--cli-connect-timeout", "2"];
        let output = ebbtide.command("aws").args(create).args(["--output", "json"]).env("AWS_MAX_ATTEMPTS", "1").output();
        if let Some(output) = output.ok().filter(|output| output.status.success()) {
            let volume: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            known.lock().unwrap().volumes.insert(volume["VolumeId"].as_str().expect("an id").to_owned());
        }
        // Delete an app, so that detach and delete run too; always when they are many, since a node takes only so many volumes.
        let (first, many) = {
            let apps = &known.lock().unwrap().apps;
            (apps.first().cloned(), apps.len() > MOST_APPS)
        };
        if let Some(name) = first.filter(|_| many || n % 2 == 1 || round % 2 == 1) {
            known.lock().unwrap().apps.remove(&name);
            let _ = ebbtide.try_kubectl(&["delete", "--wait=false", "--ignore-not-found", &format!("pod/{name}"), &format!("pvc/{name}")]);
        }
    }
}

/// As a power cut: SIGKILL to the node's first process takes its whole PID namespace with it.
fn kill_node_of(ebbtide: &Ebbtide, node: &str) {
    let output = ebbtide.ebbtide(&["node", "ls", "-o", "json"]);
    let nodes: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let pid = nodes.as_array().into_iter().flatten().find(|entry| entry["name"] == node).map(|entry| entry["pid"].to_string());
    if let Some(pid) = pid.filter(|pid| pid != "null") {
        let _ = Command::new("kill").args(["-9", &pid]).status();
    }
}

fn check(ebbtide: &Ebbtide, known: &mut Acknowledged) {
    let volumes = ebbtide.aws(&["ec2", "describe-volumes"]);
    let there: BTreeSet<&str> =
        volumes["Volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["VolumeId"].as_str()).collect();
    for volume in &known.volumes {
        assert!(there.contains(volume.as_str()), "{volume} was acknowledged and is gone");
        assert!(ebbtide.dir().join("volumes").join(format!("{volume}.img")).exists(), "the blocks of {volume} are gone");
    }
    for name in &known.apps {
        wait_for(&format!("{name} to run"), Duration::from_secs(90), || {
            let output = ebbtide.try_kubectl(&["get", "pod", name, "-o", "jsonpath={.status.phase}"]);
            assert!(!text(&output).contains("NotFound"), "pod {name} was acknowledged and is gone: {}", text(&output));
            output.stdout == b"Running"
        });
    }
    // What was created or deleted without an answer may be there or not. It goes now, or it would fill the nodes.
    let rest: Vec<String> = known.tried.difference(&known.apps).flat_map(|name| [format!("pod/{name}"), format!("pvc/{name}")]).collect();
    if !rest.is_empty() {
        let rest = rest.iter().map(String::as_str);
        ebbtide.kubectl(&["delete", "--wait=false", "--ignore-not-found"].into_iter().chain(rest).collect::<Vec<_>>());
    }
    known.tried.clone_from(&known.apps);
}

/// Deletes everything and waits until nothing is left of it.
fn finish(ebbtide: &Ebbtide, known: Acknowledged) {
    for name in &known.tried {
        ebbtide.try_kubectl(&["delete", "--wait=false", "--ignore-not-found", &format!("pod/{name}"), &format!("pvc/{name}")]);
    }
    let names = |kind: &str| ebbtide.kubectl(&["get", kind, "-o", "name"]);
    for kind in ["pods", "pvc", "pv", "volumeattachments"] {
        wait_for(&format!("no {kind}"), Duration::from_secs(120), || names(kind).is_empty());
    }
    for volume in &known.volumes {
        ebbtide.aws(&["ec2", "delete-volume", "--volume-id", volume]);
    }
    // A create whose answer was lost may have left a volume that nobody knows of: that is the client's leak, not ours. Those of
    // the driver carry its tag and must be gone.
    let driver = ["ec2", "describe-volumes", "--filters", "Name=tag:ebs.csi.aws.com/cluster,Values=true"];
    wait_for("no volume of the driver", Duration::from_secs(60), || ebbtide.aws(&driver)["Volumes"].as_array().is_some_and(Vec::is_empty));
    wait_for("no loop device", Duration::from_secs(30), || !ebbtide.left_behind().iter().any(|left| left.starts_with("loop")));
}
