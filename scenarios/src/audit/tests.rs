//! A log of Kubernetes 1.36.3 (scripts/kubernetes): the exercises E01–E04, E06–E12 and F02, with the unmodified sidecars.

use std::io::Read;

use super::*;

const LOG: &[u8] = include_bytes!("../../tests/data/audit-kubernetes-1.36.3.jsonl.gz");

/// The log without the records that `left_out` chooses.
fn without(left_out: impl Fn(&Value) -> bool) -> Vec<u8> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(LOG).read_to_string(&mut text).unwrap();
    let kept = text.lines().filter(|line| !left_out(&serde_json::from_str(line).unwrap()));
    kept.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes()
}

fn judged(bytes: &[u8]) -> Audited {
    audit(&[Source { name: "audit.log", bytes }], None).unwrap()
}

#[test]
fn what_a_real_cluster_wrote_holds() {
    let audited = judged(LOG);
    assert_eq!(audited.found, []);
    assert_eq!(audited.writes, 554);
}

/// As if the kubelet had not taken the pod away when its claim lost the finalizer.
#[test]
fn a_claim_that_goes_before_its_pod_is_named_with_its_record() {
    let audited = judged(&without(|record| {
        let object = &record["objectRef"];
        record["verb"] == "delete" && object["resource"] == "pods" && object["name"] == "f02"
    }));
    let (found, after) = audited.found.iter().find(|(found, _)| found.invariant == "claim-outlives-pods").expect("it is found");
    assert_eq!(found.message, "claim default/f02 vanished while pod default/f02 refers to it");
    assert!(after.contains("update persistentvolumeclaims f02 by system:serviceaccount:kube-system:pvc-protection-controller"), "{after}");
}

/// As if the attacher had let the volume go while it was attached.
#[test]
fn a_finalizer_that_goes_too_early_is_found() {
    let audited = judged(&without(|record| {
        let agent = record["userAgent"].as_str().unwrap_or_default();
        agent.starts_with("csi-attacher")
            && record["objectRef"]["resource"] == "volumeattachments"
            && record["responseObject"]["metadata"]["deletionTimestamp"].is_string()
    }));
    assert!(audited.found.iter().any(|(found, _)| found.invariant == "finalizers-kept"), "{:?}", audited.found);
}

const ATTACH_DETACH: &str = "system:serviceaccount:kube-system:attachdetach-controller";

/// A record: who wrote what, and the object that came of it under a version.
fn record(second: u32, verb: &str, resource: &str, subresource: &str, user: &str, mut object: Value, version: u32) -> Value {
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object["metadata"]["uid"] = json!(format!("uid-of-{resource}"));
    let group = if resource == "volumeattachments" { "storage.k8s.io" } else { "" };
    json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "RequestResponse", "auditID": version.to_string(),
        "stage": "ResponseComplete", "verb": verb, "user": {"username": user}, "responseStatus": {"code": 200},
        "objectRef": {"resource": resource, "subresource": subresource, "apiGroup": group, "name": object["metadata"]["name"]},
        "responseObject": object, "stageTimestamp": format!("2026-11-23T18:00:{second:02}.000000Z"),
    })
}

fn node(volumes: &[&str]) -> Value {
    let attached: Vec<Value> = volumes.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "volumesAttached": attached}})
}

fn attachment(attached: bool, deleting: bool, finalizers: &[&str]) -> Value {
    let mut object = json!({
        "metadata": {"name": "csi-1", "finalizers": finalizers},
        "spec": {"attacher": "ebs.csi.aws.com", "nodeName": "n1", "source": {"persistentVolumeName": "pv-1"}},
        "status": {"attached": attached},
    });
    if deleting {
        object["metadata"]["deletionTimestamp"] = json!("2026-11-23T18:00:10Z");
    }
    object
}

/// A volume comes to a node and goes; `late`: the node's status still has it when the detach begins.
fn log(late: bool) -> String {
    const VOLUME: &str = "kubernetes.io/csi/ebs.csi.aws.com^vol-1";
    const FINALIZER: &str = "external-attacher/ebs-csi-aws-com";
    let pv = json!({"metadata": {"name": "pv-1"}, "spec": {"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1"}}});
    let (leaves, begins) = if late { (8, 7) } else { (7, 8) };
    let attacher = "system:serviceaccount:kube-system:ebs-csi-controller-sa";
    let records = [
        // Out of order, as the server's threads write them.
        record(2, "patch", "nodes", "status", "system:node:n1", node(&[]), 2),
        record(1, "create", "persistentvolumes", "", attacher, pv, 1),
        record(3, "create", "volumeattachments", "", ATTACH_DETACH, attachment(false, false, &[]), 3),
        record(4, "patch", "volumeattachments", "", attacher, attachment(false, false, &[FINALIZER]), 4),
        record(5, "patch", "volumeattachments", "status", attacher, attachment(true, false, &[FINALIZER]), 5),
        record(6, "patch", "nodes", "status", ATTACH_DETACH, node(&[VOLUME]), 6),
        record(leaves, "patch", "nodes", "status", ATTACH_DETACH, node(&[]), leaves),
        record(begins, "delete", "volumeattachments", "", ATTACH_DETACH, attachment(true, true, &[FINALIZER]), begins),
        record(9, "patch", "volumeattachments", "", attacher, attachment(false, true, &[]), 9),
    ];
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn an_order_that_the_invariants_allow_holds() {
    let audited = judged(log(false).as_bytes());
    assert_eq!((audited.found, audited.writes, audited.left), (Vec::new(), 9, BTreeMap::new()));
}

#[test]
fn the_write_after_which_something_does_not_hold_is_named() {
    let audited = judged(log(true).as_bytes());
    let [(found, after)] = audited.found.as_slice() else { panic!("{:?}", audited.found) };
    assert_eq!(found.invariant, "detach-after-report");
    assert!(after.contains("delete volumeattachments csi-1 by ") && after.contains(ATTACH_DETACH), "{after}");
}

#[test]
fn what_cannot_be_judged_is_counted() {
    let mut short = record(1, "patch", "persistentvolumes", "", "admin", json!({"metadata": {"name": "pv-1"}}), 1);
    short.as_object_mut().unwrap().remove("responseObject");
    let read = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "verb": "get", "stage": "ResponseComplete"});
    let audited = judged(format!("{short}\n{read}\n").as_bytes());
    assert_eq!((audited.writes, audited.left.values().sum::<usize>()), (0, 2));
    assert!(audited.left.keys().any(|why| why.contains("RequestResponse")), "{:?}", audited.left);
}
