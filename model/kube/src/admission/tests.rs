use super::*;
use crate::object::Kind;
use serde_json::{Value, json};

fn texts(kind: Kind, json: Value) -> Vec<String> {
    let mut object = Object::from_json(&kind, json).unwrap();
    default(&mut object);
    validate_create(&object, kind.info().unwrap().namespaced)
        .into_iter()
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect()
}

#[test]
fn claims() {
    let of = |spec: Value| texts(Kind::PersistentVolumeClaim, json!({"metadata": {"name": "c", "namespace": "d"}, "spec": spec}));
    let size = json!({"requests": {"storage": "1Gi"}});
    assert_eq!(of(json!({"accessModes": ["ReadWriteOnce"], "resources": size})), Vec::<String>::new());
    assert_eq!(of(json!({"accessModes": ["ReadWriteOnce"]})), ["spec.resources[storage]: Required value"]);
    assert_eq!(of(json!({"resources": size})), ["spec.accessModes: Required value: at least 1 access mode is required"]);
    assert_eq!(
        of(json!({"accessModes": ["RWO"], "resources": size})),
        [
            "spec.accessModes: Unsupported value: \"RWO\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\""
        ]
    );
    assert_eq!(
        of(json!({"accessModes": ["ReadWriteOnce", "ReadWriteOncePod"], "resources": size})),
        ["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"]
    );
}

#[test]
fn volumes() {
    let of = |spec: Value| texts(Kind::PersistentVolume, json!({"metadata": {"name": "v"}, "spec": spec}));
    let csi = json!({"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1"});
    assert!(of(json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"}, "csi": csi})).is_empty());
    assert_eq!(
        of(json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"}})),
        ["spec: Required value: must specify a volume type"]
    );
    assert_eq!(
        of(json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"}, "csi": {"driver": "d"}})),
        ["spec.csi.volumeHandle: Required value"]
    );
}

#[test]
fn pods() {
    let of = |spec: Value| texts(Kind::Pod, json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec}));
    assert_eq!(of(json!({})), ["spec.containers: Required value"]);
    assert_eq!(
        of(json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/d"}]}]})),
        ["spec.containers[0].volumeMounts[0].name: Not found: \"v\""]
    );
    assert_eq!(
        of(json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v"}]})),
        ["spec.volumes[0]: Required value: must specify a volume type"]
    );
    assert_eq!(of(json!({"containers": [{"name": "c"}]})), ["spec.containers[0].image: Required value"]);
}

#[test]
fn names() {
    let of = |name: &str| texts(Kind::ConfigMap, json!({"metadata": {"name": name, "namespace": "d"}}));
    assert!(of("a.b-c").is_empty());
    assert!(of("A_b")[0].starts_with("metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist of"));
}
