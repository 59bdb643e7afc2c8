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
