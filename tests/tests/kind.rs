//! `ebbtide kind`: what it prints is checked against the AWS endpoint, what it applies against a Kubernetes API by kubectl, and each
//! thing that can be wrong is made wrong. The cluster is ebbtide's own API with Node objects as kind would register them.

use std::path::Path;
use std::process::{Command, Output};

use ebbtide_tests::{Ebbtide, address, program, text};
use serde_json::{Value, json};

/// The roles are objects like others to a cluster that has no RBAC.
const ROLES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: PLURAL.rbac.authorization.k8s.io, annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes/kubernetes/pull/1"}}
spec:
  group: rbac.authorization.k8s.io
  scope: Cluster
  names: {plural: PLURAL, singular: SINGULAR, kind: KIND}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
"#;

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", text(output)))
}

fn provider_id(worker: &Value) -> String {
    let patch = worker["kubeadmConfigPatches"][0].as_str().expect("a patch");
    assert!(patch.contains("kind: JoinConfiguration\nnodeRegistration:\n  kubeletExtraArgs:\n    provider-id: "), "{patch}");
    patch.lines().find_map(|line| line.trim().strip_prefix("provider-id: ")).expect("a provider-id").to_owned()
}

/// An ebbtide that pods could reach, and a cluster whose nodes are those of `ebbtide kind config`.
struct Kind {
    ebbtide: Ebbtide,
    endpoint: String,
}

impl Kind {
    fn begin() -> Option<Self> {
        let address = address()?;
        // Nobody is the kubelet of these nodes: pods of the agent's DaemonSet would never end, and their namespace neither.
        let ebbtide = Ebbtide::up(&["--no-nodes", "--listen", "0.0.0.0:0", "--auth", "verify", "--controllers=-daemonset"]);
        let port = ebbtide.endpoint().rsplit(':').next().expect("a port").to_owned();
        for (plural, singular, kind) in
            [("clusterroles", "clusterrole", "ClusterRole"), ("clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding")]
        {
            let crd = ROLES.replace("PLURAL", plural).replace("SINGULAR", singular).replace("KIND", kind);
            ebbtide.kubectl_with(&["apply", "-f", "-"], &crd);
        }
        ebbtide.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=20s"]);
        let config = json_of(&ebbtide.ebbtide(&["kind", "config", "-o", "json"]));
        let kind = Self { ebbtide, endpoint: format!("http://{address}:{port}") };
        kind.node("control-plane", "kind://docker/ebbtide/control-plane", &json!({"node-role.kubernetes.io/control-plane": ""}));
        for (at, worker) in config["nodes"].as_array().expect("nodes").iter().skip(1).enumerate() {
            kind.node(&format!("worker{at}"), &provider_id(worker), &worker["labels"]);
        }
        Some(kind)
    }

    fn node(&self, name: &str, provider: &str, labels: &Value) {
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {"providerID": provider}});
        self.ebbtide.kubectl_with(&["create", "-f", "-"], &node.to_string());
    }

    /// `ebbtide kind install` of the agent alone.
    fn install(&self, args: &[&str]) -> Output {
        let all = ["kind", "install", "--no-wait", "--drivers", "none", "--endpoint", &self.endpoint];
        self.ebbtide.ebbtide(&[&all[..], args].concat())
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.install(args);
        assert!(!output.status.success(), "{}", text(&output));
        text(&output)
    }

    fn get(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ebbtide.kubectl(&[&["get", "-o", "json"], args].concat())).expect("JSON")
    }
}

#[test]
fn workers_are_the_instances_of_the_world() {
    let ebbtide = Ebbtide::up(&["--no-nodes"]);
    let config = json_of(&ebbtide.ebbtide(&["kind", "config", "-o", "json"]));
    assert_eq!((&config["kind"], &config["apiVersion"]), (&json!("Cluster"), &json!("kind.x-k8s.io/v1alpha4")));
    let nodes = config["nodes"].as_array().expect("nodes");
    let roles: Vec<&str> = nodes.iter().filter_map(|node| node["role"].as_str()).collect();
    assert_eq!(roles, ["control-plane", "worker", "worker"]);
    let mut zones = Vec::new();
    for worker in &nodes[1..] {
        let provider = provider_id(worker);
        let (zone, id) = provider.strip_prefix("aws:///").and_then(|rest| rest.split_once('/')).expect("aws:///ZONE/ID");
        let query = "Reservations[].Instances[].[Placement.AvailabilityZone, InstanceType]";
        let known = ebbtide.aws(&["ec2", "describe-instances", "--instance-ids", id, "--query", query]);
        assert_eq!(known[0][0], zone);
        let labels = json!({"node.kubernetes.io/instance-type": known[0][1], "topology.kubernetes.io/region": "us-east-1",
            "topology.kubernetes.io/zone": zone});
        assert_eq!(worker["labels"], labels);
        assert_eq!(worker["extraMounts"], json!([{"hostPath": ebbtide.dir(), "containerPath": ebbtide.dir()}]));
        zones.push(zone.to_owned());
    }
    zones.dedup();
    assert_eq!(zones.len(), 2, "two zones: {zones:?}");
}

#[test]
fn install_applies_the_agent_again_and_again() {
    let Some(kind) = Kind::begin() else { return };
    let installed = json_of(&kind.install(&["-o", "json"]));
    let ids: Vec<&str> = installed["nodes"].as_array().expect("nodes").iter().filter_map(|node| node["node"].as_str()).collect();
    assert_eq!(ids, ["worker0", "worker1"]);
    assert_eq!(kind.get(&["configmap", "aws-meta", "-n", "kube-system"])["data"], json!({"endpoint": kind.endpoint}));
    let keys = kind.ebbtide.kubectl(&[
        "get",
        "secret",
        "aws-secret",
        "-n",
        "kube-system",
        "-o",
        "go-template={{range .data}}{{. | base64decode}} {{end}}",
    ]);
    assert_eq!(keys, "test test ");
    let role = kind.get(&["clusterrole", "ebbtide-agent"]);
    assert_eq!(role["rules"], json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]));
    let set = kind.get(&["daemonset", "agent", "-n", "ebbtide"]);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"], &pod["serviceAccountName"]), (&json!(true), &json!(true), &json!("agent")));
    let volumes = pod["volumes"].as_array().expect("volumes");
    assert!(volumes.contains(&json!({"name": "data", "hostPath": {"path": kind.ebbtide.dir(), "type": "Directory"}})), "{volumes:?}");
    let managers = kind.get(&["daemonset", "agent", "-n", "ebbtide", "--show-managed-fields"]);
    assert_eq!(managers["metadata"]["managedFields"][0]["manager"], "ebbtide");

    // Again: nothing is written. With another key the agents start anew.
    let version = |set: &Value| set["metadata"]["resourceVersion"].clone();
    json_of(&kind.install(&["-o", "json"]));
    assert_eq!(version(&kind.get(&["daemonset", "agent", "-n", "ebbtide"])), version(&set));
    json_of(&kind.install(&["-o", "json", "--secret-key", "other", "--image", "registry.example/ebbtide:2"]));
    let changed = kind.get(&["daemonset", "agent", "-n", "ebbtide"]);
    let access = |set: &Value| set["spec"]["template"]["metadata"]["annotations"]["ebbtide/access"].clone();
    assert_ne!(access(&changed), access(&set));
    assert_eq!(changed["spec"]["template"]["spec"]["containers"][0]["image"], "registry.example/ebbtide:2");

    let gone = kind.ebbtide.command(program().to_str().expect("UTF-8")).args(["kind", "uninstall"]).output().expect("ebbtide");
    assert!(gone.status.success(), "{}", text(&gone));
    for object in ["namespace/ebbtide", "clusterrole/ebbtide-agent", "clusterrolebinding/ebbtide-agent"] {
        assert!(!kind.ebbtide.try_kubectl(&["get", object]).status.success(), "{object} is still there");
    }
    assert!(
        kind.ebbtide
            .kubectl(&["get", "cm,secret", "-n", "kube-system", "-l", "app.kubernetes.io/part-of=ebbtide", "-o", "name"])
            .is_empty()
    );
}

#[test]
fn a_dry_run_prints_what_a_server_takes_and_writes_nothing() {
    let Some(kind) = Kind::begin() else { return };
    let printed = kind.ebbtide.ebbtide(&["kind", "install", "--dry-run", "--endpoint", &kind.endpoint]);
    assert!(printed.status.success(), "{}", text(&printed));
    let manifests = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(manifests.contains("# helm upgrade --install aws-ebs-csi-driver") && manifests.contains("--version 4.4.1"), "{manifests}");
    assert!(!kind.ebbtide.try_kubectl(&["get", "namespace", "ebbtide"]).status.success());
    kind.ebbtide.kubectl(&["create", "namespace", "ebbtide"]);
    let taken = kind.ebbtide.kubectl_with(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], &manifests);
    assert_eq!(taken.lines().filter(|line| line.ends_with("serverside-applied (server dry run)")).count(), 8, "{taken}");
    // A field that no DaemonSet has is refused: the server did read them.
    let wrong = manifests.replace("hostPID:", "hostPid:");
    let file = kind.ebbtide.dir().join("wrong.yaml");
    std::fs::write(&file, wrong).expect("a file");
    let refused = text(&kind.ebbtide.try_kubectl(&["apply", "--server-side", "--dry-run=server", "-f", file.to_str().expect("UTF-8")]));
    assert!(refused.contains("hostPid"), "{refused}");
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_applied() {
    let Some(kind) = Kind::begin() else { return };
    let loopback = kind.ebbtide.ebbtide(&["kind", "install", "--drivers", "none", "--endpoint", &kind.ebbtide.endpoint()]);
    assert!(!loopback.status.success() && text(&loopback).contains("--listen 0.0.0.0:4566 --auth verify"), "{}", text(&loopback));
    let host = kind.endpoint.rsplit_once(':').expect("a port").0;
    let closed = kind.ebbtide.ebbtide(&["kind", "install", "--drivers", "none", "--endpoint", &format!("{host}:1")]);
    assert!(!closed.status.success() && text(&closed).contains(&format!("nothing answers at {host}:1")), "{}", text(&closed));
    let nosuch = kind.refused(&["--context", "nosuch"]);
    assert!(nosuch.contains("`kubectl --context nosuch get nodes -o json` failed"), "{nosuch}");

    // An instance that the world has not got, beside those that it has.
    let labels = json!({"node.kubernetes.io/instance-type": "m5.large", "topology.kubernetes.io/region": "us-east-1",
        "topology.kubernetes.io/zone": "us-east-1a"});
    kind.node("stranger", "aws:///us-east-1a/i-0123456789abcdef0", &labels);
    let unknown = kind.refused(&[]);
    let instances = kind.ebbtide.aws(&["ec2", "describe-instances", "--query", "Reservations[].Instances[].InstanceId"]);
    assert!(unknown.contains("the node stranger says that it is i-0123456789abcdef0"), "{unknown}");
    assert!(instances.as_array().expect("ids").iter().all(|id| unknown.contains(id.as_str().expect("an id"))), "{unknown}");
    kind.ebbtide.kubectl(&["delete", "node", "stranger"]);
    kind.node("plain", "kind://docker/kind/kind-worker3", &json!({}));
    let foreign = kind.refused(&[]);
    assert!(
        foreign.contains("plain has the providerID \"kind://docker/kind/kind-worker3\"") && foreign.contains("ebbtide kind config"),
        "{foreign}"
    );
    kind.ebbtide.kubectl(&["delete", "node", "plain"]);
    kind.ebbtide.kubectl(&["label", "node", "worker1", "topology.kubernetes.io/zone=us-east-1c", "--overwrite"]);
    let command = "kubectl label node worker1 --overwrite topology.kubernetes.io/zone=us-east-1b";
    assert!(kind.refused(&[]).contains(command), "{}", kind.refused(&[]));
    assert!(!kind.ebbtide.try_kubectl(&["get", "namespace", "ebbtide"]).status.success(), "nothing was applied");
    // What it says to do helps.
    kind.ebbtide.kubectl(&command.split(' ').skip(1).collect::<Vec<_>>());
    json_of(&kind.install(&["-o", "json"]));
}

#[test]
fn a_program_that_is_missing_is_named() {
    let run = |path: &Path, args: &[&str]| {
        let output = Command::new(program()).args(["kind", "install"]).args(args).env("PATH", path).output().expect("ebbtide");
        assert!(!output.status.success());
        text(&output)
    };
    let bin = tempfile::tempdir().expect("a directory");
    assert!(run(bin.path(), &[]).contains("kubectl is not in PATH; install it"));
    let there = |name: &str| std::os::unix::fs::symlink("/bin/true", bin.path().join(name)).expect("a link");
    there("kubectl");
    assert!(run(bin.path(), &[]).contains("helm is not in PATH") && run(bin.path(), &[]).contains("--drivers none"));
    assert!(run(bin.path(), &["--drivers", "none", "--context", "kind-x"]).contains("kind is not in PATH"));
}
