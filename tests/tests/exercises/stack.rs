//! What the exercises run on: ebbtide's Kubernetes API and nodes always, and below them our controllers and driver or others'.

use std::time::{Duration, Instant};

use ebbtide_tests::{Ebbtide, POD};
use serde_json::Value;

/// Two nodes in one zone, for volumes that both attach, and one in another.
const WORLD: &str = "instances:\n- {privateIp: 10.0.1.10, zone: us-east-1a, type: m5.large}\n\
                     - {privateIp: 10.0.1.11, zone: us-east-1a, type: m5.large}\n- {privateIp: 10.0.2.10, zone: us-east-1b, type: m5.large}\n";

/// How long anything may take that is not said to take longer: all exercises of a stack run at once, on few cores.
pub const LIMIT: Duration = Duration::from_secs(150);

/// Starts an ebbtide with the exercises' nodes.
pub fn up(args: &[&str]) -> Ebbtide {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let world = dir.path().join("world.yaml");
    std::fs::write(&world, WORLD).expect("a world");
    let ebbtide = Ebbtide::up(&[&["--world", world.to_str().expect("a path in UTF-8")], args].concat());
    assert_eq!(ebbtide.nodes().len(), 3);
    ebbtide
}

/// One exercise: a namespace in a running stack. Its objects outside namespaces have names that begin with the namespace's.
pub struct Exercise<'a> {
    pub ebbtide: &'a Ebbtide,
    pub name: &'a str,
}

impl<'a> Exercise<'a> {
    pub fn new(ebbtide: &'a Ebbtide, name: &'a str) -> Self {
        ebbtide.kubectl(&["create", "namespace", name]);
        Self { ebbtide, name }
    }

    /// `kubectl -n NAMESPACE ARGS`, which must succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.ebbtide.kubectl(&[&["-n", self.name], args].concat())
    }

    pub fn aws(&self, args: &[&str]) -> Value {
        self.ebbtide.aws(args)
    }

    /// Applies objects; `NS` in them is the namespace's name.
    pub fn apply(&self, yaml: &str) {
        let mut yaml = yaml.replace("NS", self.name);
        if let Some(image) = self.ebbtide.image() {
            for usual in ["centos", "busybox", "\"mysql:8.0\""] {
                yaml = yaml.replace(&format!("image: {usual}"), &format!("image: {image}"));
            }
        }
        self.ebbtide.kubectl_with(&["-n", self.name, "apply", "-f", "-"], &yaml);
    }

    /// The exercises' pod, with other things in its specification.
    pub fn pod(&self, name: &str, claim: &str, more: &str) {
        self.apply(&POD.replace("CLAIM", claim).replace("name: app}\nspec:", &format!("name: {name}}}\nspec:\n  {more}")));
    }

    pub fn ready(&self, pod: &str) {
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), &format!("--timeout={}s", LIMIT.as_secs())]);
    }

    pub fn bound(&self, claim: &str) {
        self.until(claim, "{.status.phase}=Bound");
    }

    /// Waits for a claim's field.
    pub fn until(&self, claim: &str, condition: &str) {
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        self.kubectl(&["wait", &format!("--for=jsonpath={condition}"), &format!("pvc/{claim}"), &timeout]);
    }

    pub fn sh(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", script])
    }

    /// The first three lines that the pod wrote, as soon as there are so many.
    pub fn first_lines(&self, pod: &str) -> String {
        let mut first = String::new();
        self.eventually("three lines", || {
            first = self.kubectl(&["exec", pod, "--", "head", "-n", "3", "/data/out.txt"]);
            first.lines().count() == 3
        });
        first
    }

    /// Deletes and makes the pod again: the first lines must be the old ones.
    pub fn survives_its_pod(&self, claim: &str) {
        self.pod("app", claim, "");
        self.ready("app");
        let first = self.first_lines("app");
        self.delete("pod", "app");
        self.pod("app", claim, "");
        self.ready("app");
        assert_eq!(self.first_lines("app"), first, "the data did not outlive the pod");
    }

    pub fn delete(&self, kind: &str, name: &str) {
        self.kubectl(&["delete", kind, name, &format!("--timeout={}s", LIMIT.as_secs())]);
    }

    /// A field of an object, such as `{.spec.volumeName}`.
    pub fn field(&self, kind: &str, name: &str, path: &str) -> String {
        self.kubectl(&["get", kind, name, "-o", &format!("jsonpath={path}")])
    }

    /// The EC2 volume behind a claim.
    pub fn volume_of(&self, claim: &str) -> String {
        let volume = self.field("pvc", claim, "{.spec.volumeName}");
        self.field("pv", &volume, "{.spec.csi.volumeHandle}")
    }

    pub fn describe_volume(&self, id: &str) -> Value {
        self.aws(&["ec2", "describe-volumes", "--volume-ids", id])["Volumes"][0].clone()
    }

    /// The exercises' class with these further fields (each a line), named `NS-sc`.
    pub fn class(&self, more: &str) {
        let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: NS-sc}\nprovisioner: ebs.csi.aws.com\n\
                     volumeBindingMode: WaitForFirstConsumer\n";
        self.apply(&format!("{class}{more}"));
    }

    /// A claim of the class, with further fields of its specification.
    pub fn claim(&self, name: &str, size: &str, more: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  storageClassName: NS-sc\n  \
             accessModes: [ReadWriteOnce]\n  resources: {{requests: {{storage: {size}}}}}\n  {more}\n"
        ));
    }

    /// The reasons of the events about an object with their messages.
    pub fn events(&self, name: &str) -> String {
        let selector = format!("involvedObject.name={name}");
        self.kubectl(&[
            "get",
            "events",
            "--field-selector",
            &selector,
            "-o",
            r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#,
        ])
    }

    /// Deletes pods and claims, and sees to it that what was provisioned for them goes too.
    pub fn clean_up(&self) {
        let timeout = format!("--timeout={}s", LIMIT.as_secs());
        let template =
            format!(r#"jsonpath={{range .items[?(@.spec.claimRef.namespace=="{}")]}}{{.metadata.name}}{{"\n"}}{{end}}"#, self.name);
        let volumes = || self.kubectl(&["get", "pv", "-o", &template]);
        let ours = volumes();
        self.kubectl(&["delete", "pod", "--all", &timeout]);
        // Else the provisioner refuses to delete a volume that is still attached, and tries again later.
        self.eventually("its attachments to go", || {
            let attached = self.kubectl(&["get", "volumeattachments", "-o", "jsonpath={.items[*].spec.source.persistentVolumeName}"]);
            !attached.split_whitespace().any(|volume| ours.lines().any(|our| our == volume))
        });
        self.kubectl(&["delete", "pvc", "--all", &timeout]);
        self.eventually("its volumes to go", || volumes().is_empty());
    }

    /// Looks again and again, but not so often that many exercises at once would only look.
    pub fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < deadline, "{}: waited {LIMIT:?} for {what}", self.name);
            std::thread::sleep(Duration::from_millis(400));
        }
    }
}
