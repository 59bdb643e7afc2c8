//! Objects that the records name but do not show: the least that fits.

use serde_json::{Value, json};

/// Marks an object that nobody wrote like this.
const MARK: &str = "ebbtide.dev/inferred";

/// What is said of every such object.
pub(super) const ASSUMED: &str = "assumed: claims of 1Gi, ReadWriteOnce, of an EBS class; pods of one container that sleeps";

/// The class of claims whose class is not known.
pub(super) const CLASS: &str = "imported";

pub(super) fn object(kind: &str, namespace: &str, name: &str) -> Option<Value> {
    let metadata = json!({"name": name, "namespace": namespace, "annotations": {MARK: "true"}});
    match kind {
        "PersistentVolumeClaim" => Some(json!({
            "apiVersion": "v1", "kind": kind, "metadata": metadata,
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": CLASS, "resources": {"requests": {"storage": "1Gi"}}},
        })),
        "Pod" => Some(json!({
            "apiVersion": "v1", "kind": kind, "metadata": metadata,
            "spec": {"containers": [{"name": "app", "image": "busybox", "command": ["sleep", "infinity"]}]},
        })),
        "Namespace" => Some(json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})),
        _ => None,
    }
}

pub(super) fn is_inferred(object: &Value) -> bool {
    object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(MARK)).is_some()
}

/// Gives an inferred pod its claims.
pub(super) fn mount(pod: &mut Value, claims: &[String]) {
    if claims.is_empty() {
        return;
    }
    let volume = |(n, claim): (usize, &String)| json!({"name": format!("v{n}"), "persistentVolumeClaim": {"claimName": claim}});
    let mounts = |n: usize| json!({"name": format!("v{n}"), "mountPath": format!("/data{n}")});
    pod["spec"]["volumes"] = claims.iter().enumerate().map(volume).collect();
    pod["spec"]["containers"][0]["volumeMounts"] = (0..claims.len()).map(mounts).collect();
}
