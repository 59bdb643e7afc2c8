//! Small records in the documented shapes, and what becomes of them: a scenario that is read, and that plays.

use std::io::Write as _;

use serde_json::{Value, json};

use super::*;
use crate::language::{Op, parse};
use crate::world;

fn options() -> Options {
    Options { name: "incident".into(), redact: true, expect: false }
}

fn import_texts(texts: &[&str]) -> Result<Imported, ImportError> {
    let names: Vec<String> = (1..=texts.len()).map(|n| format!("file-{n}.json")).collect();
    let sources: Vec<Source<'_>> = names.iter().zip(texts).map(|(name, text)| Source { name, bytes: text.as_bytes() }).collect();
    import(&sources, &options())
}

/// The scenario must be what people could have written, and play.
fn plays(imported: &Imported) -> String {
    let yaml = imported.to_yaml().unwrap();
    let scenario = parse("incident.yaml", &yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    assert_eq!(scenario, imported.scenario, "{yaml}");
    let report = world::run(&scenario, 1);
    let failed: Vec<_> = report.steps.iter().filter(|step| step.verdict != crate::report::Verdict::Passed).collect();
    assert!(failed.is_empty() && report.error.is_none(), "{}\n{yaml}", report.to_text());
    yaml
}

fn call(id: u32, time: &str, name: &str, request: Value, response: Value) -> Value {
    json!({
        "eventVersion": "1.08", "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::123456789012:user/alice"}, "eventTime": time,
        "eventSource": "ec2.amazonaws.com", "eventName": name, "awsRegion": "eu-west-1", "sourceIPAddress": "203.0.113.9",
        "userAgent": "aws-cli/2.15", "requestParameters": request, "responseElements": response, "requestID": format!("r{id}"),
        "eventID": format!("e{id}"), "readOnly": false, "eventType": "AwsApiCall", "recipientAccountId": "123456789012",
    })
}

/// A volume is made, attached, detached and deleted by hand; the first numbers are texts, as in old records.
fn by_hand() -> Vec<Value> {
    let (volume, instance) = ("vol-0123456789abcdef0", "i-0fedcba9876543210");
    let attachment = json!({"volumeId": volume, "instanceId": instance, "device": "/dev/xvdba"});
    vec![
        call(
            3,
            "2026-03-01T10:00:40Z",
            "DetachVolume",
            json!({"volumeId": volume}),
            json!({"instanceId": instance, "status": "detaching"}),
        ),
        call(
            1,
            "2026-03-01T10:00:00Z",
            "CreateVolume",
            json!({
                "size": "8", "zone": "eu-west-1b", "volumeType": "gp3",
                "tagSpecificationSet": {"items": [{"resourceType": "volume", "tags": [{"key": "owner", "value": "123456789012"}]}]},
            }),
            json!({"volumeId": volume, "size": "8", "zone": "eu-west-1b", "status": "creating", "createTime": 1772359200000u64}),
        ),
        call(2, "2026-03-01T10:00:10Z", "AttachVolume", attachment, json!({"volumeId": volume, "status": "attaching"})),
        call(4, "2026-03-01T10:01:20Z", "DeleteVolume", json!({"volumeId": volume}), json!({"_return": true})),
    ]
}

#[test]
fn all_deliveries_of_cloudtrail_give_one_scenario() {
    let records = by_hand();
    let object = json!({"Records": records}).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(object.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let looked_up: Vec<Value> = records.iter().map(|r| json!({"EventId": r["eventID"], "CloudTrailEvent": r.to_string()})).collect();
    let bridge =
        |r: &Value| json!({"version": "0", "id": "x", "detail-type": "AWS API Call via CloudTrail", "source": "aws.ec2", "detail": r});
    let bridged: String = records.iter().map(|r| format!("{}\n", bridge(r))).collect();
    let lines: String = records.iter().map(|r| format!("{r}\n")).collect();
    let deliveries: [Vec<u8>; 5] =
        [gzip, object.into_bytes(), json!({"Events": looked_up}).to_string().into_bytes(), bridged.into_bytes(), lines.into_bytes()];
    let mut scenarios = Vec::new();
    for bytes in &deliveries {
        let imported = import(&[Source { name: "trail", bytes }], &options()).unwrap();
        assert_eq!((imported.records, imported.operations, imported.seconds), (4, 4, 80.0));
        scenarios.push(imported.scenario.clone());
        plays(&imported);
    }
    assert!(scenarios.iter().all(|scenario| *scenario == scenarios[0]));
    // What is delivered twice is done once.
    let twice: Vec<Source<'_>> = deliveries.iter().map(|bytes| Source { name: "trail", bytes }).collect();
    let imported = import(&twice, &options()).unwrap();
    assert_eq!((imported.records, imported.operations), (4, 4));
    assert_eq!(imported.left_out["records that were delivered twice"], 16);
}

#[test]
fn order_pauses_ids_and_zones_are_kept_and_accounts_are_not() {
    let text = json!({"Records": by_hand()}).to_string();
    let imported = import_texts(&[&text]).unwrap();
    let yaml = plays(&imported);
    let steps: Vec<&str> = imported.scenario.spec.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        steps,
        [
            "what was there before",
            "10:00:00 create-volume (file-1.json record 2)",
            "10:00:10 attach-volume (file-1.json record 3)",
            "10:00:40 detach-volume (file-1.json record 1)",
            "10:01:20 delete-volume (file-1.json record 4)",
        ]
    );
    let pauses: Vec<u64> = imported
        .scenario
        .spec
        .steps
        .iter()
        .flat_map(|step| &step.attempt)
        .filter_map(|op| if let Op::Sleep(span) = op { Some(span.0.as_secs()) } else { None })
        .collect();
    assert_eq!(pauses, [10, 30, 40]);
    let Op::Aws(create) = &imported.scenario.spec.steps[1].attempt[0] else { panic!("a call") };
    assert_eq!(create.parameters["Size"], 8);
    assert_eq!(create.parameters["AvailabilityZone"], imported.scenario.spec.world.as_ref().unwrap().nodes[0].zone);
    assert_eq!(create.capture["vol_1"], "VolumeId");
    for secret in ["123456789012", "203.0.113.9", "vol-0123456789abcdef0", "i-0fedcba9876543210"] {
        assert!(!yaml.contains(secret), "{secret} in {yaml}");
    }
}

#[test]
fn a_call_that_failed_must_fail_again_or_is_only_told() {
    let mut records = by_hand();
    let mut in_use = call(5, "2026-03-01T10:00:20Z", "DeleteVolume", json!({"volumeId": "vol-0123456789abcdef0"}), Value::Null);
    in_use["errorCode"] = json!("Client.VolumeInUse");
    let mut key = call(
        6,
        "2026-03-01T10:00:21Z",
        "AttachVolume",
        json!({"volumeId": "vol-0123456789abcdef0", "instanceId": "i-0fedcba9876543210", "device": "/dev/xvdbb"}),
        Value::Null,
    );
    key["errorCode"] = json!("Client.CustomerKeyHasBeenRevoked");
    records.extend([in_use, key]);
    let imported = import_texts(&[&json!(records).to_string()]).unwrap();
    let yaml = plays(&imported);
    assert!(yaml.contains("error: VolumeInUse"), "{yaml}");
    assert!(yaml.contains("print: 'AttachVolume was refused: CustomerKeyHasBeenRevoked"), "{yaml}");
    assert!(imported.unknown.iter().any(|unknown| unknown.record == "file-1.json record 6" && unknown.what.contains("no cause")));
}

#[test]
fn what_was_there_before_is_made_first_and_listed() {
    let attachment = json!({"volumeId": "vol-0aaaaaaaaaaaaaaa1", "instanceId": "i-0bbbbbbbbbbbbbbb2"});
    let detach = call(1, "2026-03-01T10:00:00Z", "DetachVolume", attachment, json!({"device": "/dev/xvdcc"}));
    let imported = import_texts(&[&detach.to_string()]).unwrap();
    let yaml = plays(&imported);
    assert!(yaml.contains("/dev/xvdcc") && yaml.contains("ec2 attach-volume"), "{yaml}");
    assert!(
        yaml.starts_with("# Made by `ebbtide import`")
            && yaml.contains("# - file-1.json record 1: vol-0aaaaaaaaaaaaaaa1 was there before; assumed: 1 GiB"),
        "{yaml}"
    );
}

fn audit(id: u32, time: &str, user: &str, verb: &str, reference: Value, body: Value) -> Value {
    json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Request", "auditID": format!("a{id}"), "stage": "ResponseComplete",
        "requestURI": "/", "verb": verb, "user": {"username": user}, "sourceIPs": ["198.51.100.7"], "objectRef": reference,
        "responseStatus": {"code": if verb == "create" { 201 } else { 200 }}, "requestObject": body,
        "requestReceivedTimestamp": time, "stageTimestamp": time,
    })
}

const NODE: &str = "ip-10-1-2-3.eu-west-1.compute.internal";

fn cluster() -> Vec<Value> {
    let of = |resource: &str, name: &str| json!({"resource": resource, "namespace": "shop", "name": name, "apiVersion": "v1"});
    let claim = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": "data", "namespace": "shop", "managedFields": []},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4Gi"}}}, "status": {"phase": "Pending"}});
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "app-0", "namespace": "shop"}, "spec": {
        "serviceAccountName": "shop", "nodeSelector": {"disk": "fast"},
        "containers": [{"name": "app", "image": "shop:1", "command": ["sh", "-c", "echo ${HOME}; sleep 1d"],
            "env": [{"name": "PASSWORD", "value": "s3cret"}], "resources": {"requests": {"cpu": "64"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/etc/shop"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "config", "configMap": {"name": "shop"}}]}});
    vec![
        audit(1, "2026-03-01T10:00:00.100000Z", "alice", "create", of("persistentvolumeclaims", "data"), claim),
        audit(2, "2026-03-01T10:00:01.100000Z", "alice", "create", of("pods", "app-0"), pod),
        audit(
            3,
            "2026-03-01T10:00:03.100000Z",
            "system:kube-scheduler",
            "create",
            json!({"resource": "pods", "subresource": "binding", "namespace": "shop", "name": "app-0"}),
            json!({"target": {"kind": "Node", "name": NODE}}),
        ),
        audit(
            4,
            "2026-03-01T10:00:04Z",
            "system:serviceaccount:kube-system:attachdetach-controller",
            "create",
            json!({"resource": "volumeattachments", "name": "csi-1"}),
            json!({"kind": "VolumeAttachment"}),
        ),
        audit(5, "2026-03-01T10:03:00Z", "alice", "delete", of("pods", "app-0"), json!({"gracePeriodSeconds": 5})),
        audit(6, "2026-03-01T10:03:30Z", "alice", "get", of("pods", "app-0"), Value::Null),
    ]
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn an_audit_log_gives_the_writes_of_people_and_leaves_the_rest_to_the_world() {
    let imported = import_texts(&[&lines(&cluster())]).unwrap();
    let yaml = plays(&imported);
    assert_eq!((imported.operations, imported.faults), (3, 0));
    assert!(!yaml.contains("s3cret") && !yaml.contains("csi-1") && !yaml.contains(NODE), "{yaml}");
    let left: Vec<&str> = imported.unknown.iter().map(|unknown| unknown.what.as_str()).collect();
    assert!(left.iter().any(|what| what.contains("nodeSelector") && what.contains("no storage of AWS")), "{left:?}");
    assert!(left.iter().any(|what| what.contains("StorageClass imported")), "{left:?}");
    // The pod really had its volume: it was attached on the node where it was.
    let (_, story) = world::run_told(&imported.scenario, 1);
    assert!(story.iter().any(|told| told.lane == "Pod shop/app-0" && told.what.contains("on node-1, Running")), "{story:#?}");
    assert!(story.iter().any(|told| told.lane.starts_with("attachment ") && told.what == "attached"));
}

#[test]
fn a_log_without_contents_is_filled_in_and_says_so() {
    let mut records = cluster();
    for record in &mut records {
        record["level"] = json!("Metadata");
        record["requestObject"] = Value::Null;
    }
    let imported = import_texts(&[&lines(&records)]).unwrap();
    let yaml = plays(&imported);
    assert!(yaml.contains("claimName: data"), "the only claim there is is the pod's: {yaml}");
    assert!(imported.unknown.iter().any(|unknown| unknown.what.contains("which claims pod shop/app-0 used; assumed: data")));
}

fn event(reason: &str, kind: &str, name: &str, uid: &str, first: &str, message: &str, count: u64) -> Value {
    let warning = reason.starts_with("Failed") || reason == "NodeNotReady";
    json!({
        "kind": "Event", "apiVersion": "v1", "metadata": {"name": format!("{name}.{reason}"), "namespace": "shop"},
        "involvedObject": {"kind": kind, "namespace": "shop", "name": name, "uid": uid}, "reason": reason, "message": message,
        "source": {"component": "test"}, "type": if warning { "Warning" } else { "Normal" },
        "firstTimestamp": first, "lastTimestamp": "2026-03-01T10:02:00Z", "count": count,
    })
}

fn events() -> Value {
    let refused = "AttachVolume.Attach failed for volume \"pvc-u1\" : rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    json!({"kind": "List", "apiVersion": "v1", "items": [
        event("WaitForFirstConsumer", "PersistentVolumeClaim", "data", "u1", "2026-03-01T10:00:00Z", "waiting for first consumer", 1),
        event("Scheduled", "Pod", "app-0", "p1", "2026-03-01T10:00:02Z", &format!("Successfully assigned shop/app-0 to {NODE}"), 1),
        event("FailedAttachVolume", "Pod", "app-0", "p1", "2026-03-01T10:00:20Z", refused, 3),
        event("SuccessfulAttachVolume", "Pod", "app-0", "p1", "2026-03-01T10:01:50Z", "AttachVolume.Attach succeeded for volume \"pvc-u1\"", 1),
        event("Killing", "Pod", "app-0", "p1", "2026-03-01T10:05:00Z", "Stopping container app", 1),
    ]})
}

#[test]
fn events_alone_give_pods_claims_and_faults() {
    let wanted = Options { expect: true, ..options() };
    let text = events().to_string();
    let imported = import(&[Source { name: "events.json", bytes: text.as_bytes() }], &wanted).unwrap();
    let yaml = plays(&imported);
    assert_eq!((imported.operations, imported.faults), (3, 1));
    assert!(yaml.contains("# - 10:00:20 Warning Pod/app-0 FailedAttachVolume (×3): AttachVolume.Attach failed"), "{yaml}");
    // The same warnings come in the world, as many as the fault makes calls fail: the scenario requires it, and passed.
    assert!(imported.scenario.spec.steps.last().unwrap().name == "the same warnings", "{yaml}");
    let (_, story) = world::run_told(&imported.scenario, 1);
    let failed = story.iter().filter(|told| told.what.starts_with("ControllerPublishVolume") && told.failed).count();
    assert_eq!(failed, 3);
}

#[test]
fn several_inputs_are_merged_by_time() {
    let mut driver = call(
        1,
        "2026-03-01T10:00:05Z",
        "AttachVolume",
        json!({"volumeId": "vol-0aaaaaaaaaaaaaaa1", "instanceId": "i-0bbbbbbbbbbbbbbb2"}),
        Value::Null,
    );
    driver["userAgent"] = json!("exec-env/aws-ebs-csi-driver-v1.40.0");
    let mut throttled = driver.clone();
    throttled["eventID"] = json!("e2");
    throttled["errorCode"] = json!("Client.RequestLimitExceeded");
    let stop = call(
        3,
        "2026-03-01T10:02:00Z",
        "StopInstances",
        json!({"instancesSet": {"items": [{"instanceId": "i-0bbbbbbbbbbbbbbb2"}]}}),
        Value::Null,
    );
    let trail = json!({"Records": [stop, driver, throttled]}).to_string();
    let imported = import_texts(&[&trail, &lines(&cluster()), &events().to_string()]).unwrap();
    plays(&imported);
    let steps: Vec<&str> = imported.scenario.spec.steps.iter().map(|step| step.name.as_str()).collect();
    let place = |part: &str| steps.iter().position(|step| step.contains(part)).unwrap_or_else(|| panic!("{part} in {steps:?}"));
    // The throttled call follows from the pod; then the machine stops; then the pod is deleted.
    assert!(place("inject-api-throttle-error") < place("Pod app-0"), "{steps:?}");
    assert!(place("Pod app-0 (") < place("stop-instances") && place("stop-instances") < place("delete Pod app-0"), "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains("attach-volume") || step.contains("local:rpc")), "{steps:?}");
}

#[test]
fn what_cannot_be_read_says_which_record() {
    let good = by_hand()[0].to_string();
    for (text, part) in [
        ("", "file-1.json: has no record"),
        ("{\"a\": ", "file-1.json: document 1 (from line 1 on) is not JSON"),
        ("{\"kind\": \"Pod\", \"apiVersion\": \"v1\"}", "file-1.json record 1: a v1 Pod is neither"),
        (&format!("{good}\n{{\"x\": 1}}\n"), "file-1.json record 2: an object without `kind` or `eventName`"),
        (&good.replace("2026-03-01T10:00:40Z", "yesterday"), "file-1.json record 1: its time `yesterday` is none"),
        (&good.replace("eventTime", "when"), "file-1.json record 1: has no eventTime"),
        ("{\"CloudTrailEvent\": \"{nothing\"}", "file-1.json record 1: the text in it is not JSON"),
        (&good.replace("DetachVolume", "DescribeVolumes"), "nothing to play in these records: 1 × CloudTrail: calls that only read"),
    ] {
        let error = import_texts(&[text]).unwrap_err().to_string();
        assert!(error.contains(part), "`{part}` in `{error}`");
    }
    let cut = import(&[Source { name: "trail.json.gz", bytes: &[0x1f, 0x8b, 8, 0] }], &options()).unwrap_err();
    assert!(cut.to_string().contains("trail.json.gz: is no whole gzip file"), "{cut}");
}

proptest::proptest! {
    /// Whatever fields a record has, reading it ends in a scenario or in an error.
    #[test]
    fn no_record_stops_the_importer(which in 0usize..3, field in ".{0,12}", value in ".{0,12}", number in proptest::num::i64::ANY) {
        let mut record = match which {
            0 => by_hand()[1].clone(),
            1 => cluster()[1].clone(),
            _ => events()["items"][2].clone(),
        };
        let names: Vec<String> = record.as_object().unwrap().keys().cloned().collect();
        let name = names[number.unsigned_abs() as usize % names.len()].clone();
        record[&name] = match number % 4 {
            0 => json!(value),
            1 => json!(number),
            2 => json!([value]),
            _ => json!({&field: value, "items": [number]}),
        };
        let _ = import_texts(&[&record.to_string()]);
    }
}
