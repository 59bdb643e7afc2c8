//! `ebbtide check`: a cluster in order, and one in which somebody broke something by hand.

#[path = "exercises/mod.rs"]
mod exercises;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use ebbtide_tests::{Ebbtide, POD, program, root, text, wait_for};
use serde_json::Value;

/// A PersistentVolume and a claim that are bound to each other, without any device.
const BOUND: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  csi: {driver: ebs.csi.aws.com, volumeHandle: vol-0123456789abcdef0}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: first}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: disk, resources: {requests: {storage: 1Gi}}}
"#;

/// A second claim for the volume, and what a user does who wants it to have that.
const SECOND: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: second}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", volumeName: disk, resources: {requests: {storage: 1Gi}}}
"#;

fn bind_first(ebbtide: &Ebbtide) {
    ebbtide.kubectl_with(&["apply", "-f", "-"], BOUND);
    ebbtide.kubectl(&["wait", "--for=jsonpath={.status.phase}=Bound", "pvc/first", "--timeout=20s"]);
}

/// The claim is told that it is bound, as by a controller gone wrong.
fn bind_second_too(ebbtide: &Ebbtide) {
    ebbtide.kubectl_with(&["apply", "-f", "-"], SECOND);
    let status = r#"{"status": {"phase": "Bound"}}"#;
    ebbtide.kubectl(&["patch", "pvc", "second", "--subresource=status", "--type=merge", "-p", status]);
}

#[test]
fn a_cluster_in_order_passes() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    bind_first(&ebbtide);
    ebbtide.aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1a"]);
    let checked = ebbtide.ebbtide(&["check", "-o", "json"]);
    assert!(checked.status.success(), "{}", text(&checked));
    let report: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    assert_eq!((&report["found"], &report["volumes"]), (&serde_json::json!([]), &serde_json::json!(1)));
    assert!(report["objects"].as_u64().is_some_and(|objects| objects >= 4), "{report}");
    let unseen: Vec<&str> = report["unseen"].as_array().expect("a list").iter().filter_map(|row| row["invariant"].as_str()).collect();
    assert!(unseen.contains(&"single-writer") && !unseen.contains(&"single-attach"), "{unseen:?}");
    let refused = ebbtide.ebbtide(&["check", "--only", "single-writer"]);
    assert!(!refused.status.success() && text(&refused).contains("cannot be seen from outside"), "{}", text(&refused));
}

#[test]
fn two_claims_on_one_volume_are_found() {
    let ebbtide = Ebbtide::up(&["--no-nodes", "--controllers=-pv-binder"]);
    ebbtide.kubectl_with(&["apply", "-f", "-"], BOUND);
    let uid = ebbtide.kubectl(&["get", "pvc", "first", "-o", "jsonpath={.metadata.uid}"]);
    let claim = format!(r#"{{"spec": {{"claimRef": {{"namespace": "default", "name": "first", "uid": "{uid}"}}}}}}"#);
    ebbtide.kubectl(&["patch", "pv", "disk", "--type=merge", "-p", &claim]);
    let status = r#"{"status": {"phase": "Bound"}}"#;
    ebbtide.kubectl(&["patch", "pvc", "first", "--subresource=status", "--type=merge", "-p", status]);
    bind_second_too(&ebbtide);
    let kubeconfig = ebbtide.info["kubeconfig"].as_str().expect("a path");
    // As with any cluster: by its kubeconfig, without EC2.
    let checked =
        ebbtide.command(program().to_str().expect("UTF-8")).args(["check", "--kubeconfig", kubeconfig]).output().expect("ebbtide");
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("pv-bound-once: PersistentVolume disk is bound to default/first and default/second"), "{said}");
    assert!(said.contains("EC2 not asked") && said.contains("not seen from outside: single-attach"), "{said}");
}

/// An `ebbtide check --for` that goes on beside the test.
struct Looking {
    child: Child,
    /// What it finds, a JSON object a line.
    found: Receiver<String>,
}

impl Looking {
    /// Starts it, and waits until it has had its first look.
    fn at(ebbtide: &Ebbtide) -> Self {
        let mut child = ebbtide
            .command(program().to_str().expect("UTF-8"))
            .args(["check", "--for", "1h", "-o", "json", "--data-dir"])
            .arg(ebbtide.dir())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ebbtide");
        let (tell, found) = std::sync::mpsc::channel();
        let stdout = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let ready = stderr.find(|line| line.starts_with("looking on"));
        assert!(ready.is_some(), "it ended before it had looked");
        // What it says later would otherwise fill the pipe.
        std::thread::spawn(move || stderr.for_each(drop));
        Self { child, found }
    }

    /// The next thing that it finds: id and message.
    fn next(&self) -> (String, String) {
        let line = self.found.recv_timeout(Duration::from_secs(30)).expect("it finds something");
        let found: Value = serde_json::from_str(&line).expect("JSON");
        let part = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        (part("id"), part("message"))
    }

    /// Ends it as Ctrl-C does: what it found that was not taken, and its exit code.
    fn end(mut self) -> (Vec<String>, Option<i32>) {
        let interrupted = std::process::Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill");
        assert!(interrupted.success());
        let code = self.child.wait().expect("its end").code();
        (self.found.iter().collect(), code)
    }
}

#[test]
fn a_claim_ref_that_changes_hands_is_told_as_it_happens() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    bind_first(&ebbtide);
    let looking = Looking::at(&ebbtide);
    let thief = r#"{"spec": {"claimRef": {"name": "thief", "uid": "uid-of-the-thief"}}}"#;
    ebbtide.kubectl(&["patch", "pv", "disk", "--type=merge", "-p", thief]);
    let (id, message) = looking.next();
    assert!(id == "S11" && message.contains("claimRef of PersistentVolume disk"), "{id} {message}");
    assert_eq!(looking.end().1, Some(1));
}

#[test]
fn the_exercises_break_nothing_and_a_finalizer_taken_by_force_is_told() {
    if !root() {
        return;
    }
    let ebbtide = exercises::stack::up(&[]);
    let looking = Looking::at(&ebbtide);
    exercises::all::all(&ebbtide);
    let (found, code) = looking.end();
    assert_eq!((found, code), (Vec::new(), Some(0)));

    let claim = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: forced}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: forced}
spec: {accessModes: [ReadWriteOnce], storageClassName: forced, resources: {requests: {storage: 1Gi}}}
"#;
    ebbtide.kubectl_with(&["apply", "-f", "-"], claim);
    ebbtide.kubectl_with(&["apply", "-f", "-"], &POD.replace("CLAIM", "forced"));
    ebbtide.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=60s"]);
    let looking = Looking::at(&ebbtide);
    // What administrators do to a claim that does not go: here the pod still writes to it.
    ebbtide.kubectl(&["delete", "pvc", "forced", "--wait=false"]);
    ebbtide.kubectl(&["patch", "pvc", "forced", "--type=merge", "-p", r#"{"metadata": {"finalizers": null}}"#]);
    let mut told = vec![looking.next(), looking.next()];
    told.sort();
    let (ids, messages): (Vec<String>, Vec<String>) = told.into_iter().unzip();
    assert_eq!(ids, ["S13", "S29"], "{messages:?}");
    assert!(messages.iter().all(|message| message.contains("default/forced") && message.contains("default/app")), "{messages:?}");
    assert_eq!(looking.end().1, Some(1));
    ebbtide.kubectl(&["delete", "pod", "app", "--timeout=60s"]);
    wait_for("the volume to go", Duration::from_secs(60), || {
        ebbtide.aws(&["ec2", "describe-volumes"])["Volumes"].as_array().is_some_and(Vec::is_empty)
    });
}
