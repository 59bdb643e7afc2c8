//! The table of faults over HTTP: what requests meet, and who is told.

use futures::StreamExt;
use serde_json::{Value, json};

use super::*;

impl Endpoint {
    async fn faults(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let (status, _, text) = self.send(method, path, "ec2", body.to_string()).await;
        (status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn add(&self, rule: Value) -> String {
        let (status, fault) = self.faults(Method::POST, "/_ebbtide/faults", rule).await;
        assert_eq!(status, 200, "{fault}");
        fault["id"].as_str().unwrap().to_owned()
    }

    async fn remove(&self, id: &str) {
        let (status, gone) = self.faults(Method::DELETE, &format!("/_ebbtide/faults/{id}"), Value::Null).await;
        assert_eq!((status, gone["id"].as_str()), (200, Some(id)), "{gone}");
    }

    async fn ec2(&self, form: &str) -> (u16, String) {
        let (status, _, text) = self.send(Method::POST, "/", "ec2", form.to_owned()).await;
        (status.as_u16(), text)
    }
}

const CREATE: &str = "Action=CreateVolume&AvailabilityZone=us-east-1a&Size=1&ClientToken=";

/// The text of an element.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let after = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}")).1;
    after.split_once('<').unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_in_each_protocols_own_form() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let id = endpoint.add(json!({"actionId": "aws:fis:inject-api-throttle-error"})).await;
    let (status, text) = endpoint.ec2("Action=DescribeVolumes").await;
    assert!(status == 503 && text.contains("<Code>RequestLimitExceeded</Code><Message>Request limit exceeded."), "{text}");
    let (status, kind, text) = endpoint.send(Method::GET, "/2015-02-01/file-systems", "elasticfilesystem", "").await;
    assert_eq!((status.as_u16(), kind.as_str()), (429, "ThrottlingException"), "{text}");
    assert!(text.contains("\"ErrorCode\":\"ThrottlingException\""), "{text}");
    let (status, kind, text) = endpoint.send(Method::POST, "/", "kms", "{}").await;
    assert_eq!((status.as_u16(), kind.as_str()), (400, "ThrottlingException"), "{text}");
    let (status, _, text) = endpoint.send(Method::POST, "/", "sts", "Action=GetCallerIdentity").await;
    assert!(status.as_u16() == 400 && text.contains("<Error><Type>Sender</Type><Code>Throttling</Code>"), "{text}");
    let (_, metrics) = endpoint.control(Method::GET, "/metrics").await;
    assert!(metrics.contains("ebbtide_aws_fault_hits_total{action=\"aws:fis:inject-api-throttle-error\"} 4"), "{metrics}");
    endpoint.remove(&id).await;
    assert_eq!(endpoint.ec2("Action=DescribeVolumes").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_was_carried_out() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    endpoint.add(json!({"actionId": "local:api:lost-response", "operation": "CreateVolume", "count": 1})).await;
    let ask = || endpoint.client.post(&endpoint.url).body(format!("{CREATE}a")).send();
    let lost = ask().await.unwrap_err();
    assert!(lost.is_request() && !lost.is_timeout(), "{lost:?}");
    let (_, text) = endpoint.ec2("Action=DescribeVolumes").await;
    let made = element(&text, "volumeId").to_owned();
    assert_eq!(text.matches("<volumeId>").count(), 1, "{text}");
    // The same token finds it.
    let again = ask().await.unwrap().text().await.unwrap();
    assert_eq!(element(&again, "volumeId"), made);
    // What is only checked cannot be lost.
    endpoint.add(json!({"actionId": "local:api:lost-response"})).await;
    let (status, text) = endpoint.ec2(&format!("{CREATE}b&DryRun=true")).await;
    assert!(status == 412 && text.contains("DryRunOperation"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn describe_calls_see_the_past_and_commands_the_present() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let rule = json!({"actionId": "local:api:eventual-consistency", "operation": "DescribeVolumes", "delay": "1h"});
    let id = endpoint.add(rule).await;
    let (status, text) = endpoint.ec2(&format!("{CREATE}a")).await;
    assert_eq!(status, 200, "{text}");
    let volume = element(&text, "volumeId").to_owned();
    let (_, text) = endpoint.ec2(&format!("Action=DescribeVolumes&VolumeId.1={volume}")).await;
    assert!(text.contains("<Code>InvalidVolume.NotFound</Code>"), "{text}");
    let (_, text) = endpoint.ec2(&format!("Action=CreateTags&ResourceId.1={volume}&Tag.1.Key=a&Tag.1.Value=b")).await;
    assert!(text.contains("<return>true</return>"), "{text}");
    let (_, text) = endpoint.ec2("Action=DescribeTags").await;
    assert!(text.contains(&volume), "only DescribeVolumes lags: {text}");
    endpoint.remove(&id).await;
    let (_, text) = endpoint.ec2(&format!("Action=DescribeVolumes&VolumeId.1={volume}")).await;
    assert!(text.contains(&volume) && text.contains("<key>a</key>"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_call_is_late() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    endpoint.add(json!({"actionId": "local:api:latency", "operation": "DescribeVolumes", "delay": "300ms", "count": 1})).await;
    let ask = async || {
        let begun = std::time::Instant::now();
        assert_eq!(endpoint.ec2("Action=DescribeVolumes").await.0, 200);
        begun.elapsed()
    };
    assert!(ask().await >= Duration::from_millis(300));
    let (_, faults) = endpoint.faults(Method::GET, "/_ebbtide/faults", Value::Null).await;
    assert_eq!((&faults[0]["state"], &faults[0]["hits"]), (&json!("spent"), &json!(1)), "{faults}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localstacks_rules_are_rules_of_the_same_table() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let path = "/_localstack/chaos/faults";
    let kept = endpoint.add(json!({"actionId": "local:api:latency", "delay": "1ms"})).await;
    let one = json!({"service": "ec2", "operation": "DescribeVolumes", "probability": 1.0, "error": {"statusCode": 500, "code": "Boom"}});
    assert_eq!(endpoint.faults(Method::POST, path, json!([one])).await, (200, json!([one])));
    let (status, text) = endpoint.ec2("Action=DescribeVolumes").await;
    assert!(status == 500 && text.contains("<Code>Boom</Code>"), "{text}");
    let two = json!({"region": "us-east-1", "service": "elasticfilesystem"});
    assert_eq!(endpoint.faults(Method::PATCH, path, json!([two])).await, (200, json!([one, two])));
    let (status, kind, _) = endpoint.send(Method::GET, "/2015-02-01/file-systems", "elasticfilesystem", "").await;
    assert_eq!((status.as_u16(), kind.as_str()), (503, "ServiceUnavailable"), "what LocalStack answers when a rule does not say");
    assert_eq!(endpoint.faults(Method::DELETE, path, json!([one])).await, (200, json!([two])));
    assert_eq!(endpoint.faults(Method::POST, path, json!([])).await, (200, json!([])));
    let (_, all) = endpoint.faults(Method::GET, "/_ebbtide/faults", Value::Null).await;
    assert_eq!(all.as_array().unwrap().iter().map(|fault| &fault["id"]).collect::<Vec<_>>(), [&json!(kept)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_is_read_written_and_kept() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let path = "/_ebbtide/faults";
    for (method, path, body, status, part) in [
        (Method::POST, path, json!({"actionId": "nonsense"}), 400, "there is no fault"),
        (Method::POST, path, json!({"actionId": "latency"}), 400, "needs a delay"),
        (Method::POST, path, json!({"actionId": "throttle", "nonsense": 1}), 400, "unknown field"),
        (Method::POST, path, json!({"actionId": "throttle", "probability": 2}), 400, "between 0 and 1"),
        (Method::POST, path, json!("x"), 400, "no fault"),
        (Method::POST, path, json!({"actionId": "agent-unreachable", "node": "nowhere"}), 400, "nowhere"),
        (Method::GET, "/_ebbtide/faults/fault-9", Value::Null, 404, "fault-9"),
        (Method::DELETE, "/_ebbtide/faults/fault-9", Value::Null, 404, "fault-9"),
        (Method::PATCH, path, json!([]), 405, "does not take PATCH"),
    ] {
        let (got, answer) = endpoint.faults(method.clone(), path, body.clone()).await;
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(part), "{answer}");
    }
    let id = endpoint.add(json!({"actionId": "throttle", "operation": "CreateVolume", "count": 2})).await;
    assert_eq!(endpoint.ec2(&format!("{CREATE}a")).await.0, 503);
    let endpoint = endpoint.restart().await;
    let (_, fault) = endpoint.faults(Method::GET, &format!("{path}/{id}"), Value::Null).await;
    assert_eq!((&fault["hits"], &fault["actionId"]), (&json!(1), &json!("aws:fis:inject-api-throttle-error")), "{fault}");
    assert_eq!(endpoint.ec2(&format!("{CREATE}a")).await.0, 503);
    assert_eq!(endpoint.ec2(&format!("{CREATE}a")).await.0, 200, "its count is over, also across the restart");
    let put = json!({"actionId": "internal-error"});
    assert_eq!(endpoint.faults(Method::PUT, &format!("{path}/{id}"), put.clone()).await.1["hits"], 0);
    assert_eq!(endpoint.ec2("Action=DescribeVolumes").await.0, 500);
    assert_eq!(endpoint.faults(Method::PUT, path, json!([])).await, (200, json!([])));
    assert_eq!(endpoint.ec2("Action=DescribeVolumes").await.0, 200);
    endpoint.add(put).await;
    assert_eq!(endpoint.control(Method::POST, "/_ebbtide/reset").await.0, StatusCode::OK);
    assert_eq!(endpoint.ec2("Action=DescribeVolumes").await.0, 200, "a reset empties the table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_are_events() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let events = endpoint.client.get(format!("{}/_ebbtide/events", endpoint.url)).send().await.unwrap();
    let mut events = events.bytes_stream();
    let id = endpoint.add(json!({"actionId": "throttle", "resource": "token-1"})).await;
    assert_eq!(endpoint.ec2(&format!("{CREATE}token-1")).await.0, 503);
    endpoint.remove(&id).await;
    let mut seen = String::new();
    while seen.matches('\n').count() < 3 {
        let more = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap_or_else(|_| panic!("only {seen}"));
        seen.push_str(std::str::from_utf8(&more.unwrap().unwrap()).unwrap());
    }
    let lines: Vec<Value> = seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| (line["kind"].as_str().unwrap(), line["state"].as_str().unwrap())).collect();
    assert_eq!(told, [("fault", "active"), ("fault", "hit"), ("fault", "deleted")], "{seen}");
    assert_eq!((&lines[1]["id"], &lines[1]["record"]["operation"]), (&json!(id), &json!("CreateVolume")));
}
