//! The endpoint over HTTP, with a client of nobody's AWS: what each protocol's answers look like, and who is let in.

use std::collections::BTreeMap;

use model_common::agent::{Device, FromAgent, Hello, PROTOCOL};
use reqwest::{Client, Method, StatusCode};

use super::*;

mod faults;

struct Endpoint {
    running: Option<Running>,
    url: String,
    client: Client,
    data: tempfile::TempDir,
}

async fn begin(data: tempfile::TempDir, auth: Auth) -> Endpoint {
    let config = Config {
        listener: std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
        places: Places::new(data.path()),
        world: World::default(),
        profile: Profile::Instant,
        auth,
        devices: true,
        no_devices: None,
        journal: true,
        journal_effects: true,
        hosts: Vec::new(),
        metadata: Vec::new(),
        identity_providers: Vec::new(),
    };
    let running = start(config).await.unwrap();
    Endpoint { url: format!("http://{}", running.addr), running: Some(running), client: Client::new(), data }
}

impl Endpoint {
    async fn send(&self, method: Method, path: &str, service: &str, body: impl Into<reqwest::Body>) -> (StatusCode, String, String) {
        let scope = format!("AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=00");
        let response = self.client.request(method, format!("{}{path}", self.url)).header("authorization", scope).body(body).send();
        let response = response.await.unwrap();
        let kind = response.headers().get("x-amzn-errortype").map_or("", |value| value.to_str().unwrap()).to_owned();
        (response.status(), kind, response.text().await.unwrap())
    }

    async fn control(&self, method: Method, path: &str) -> (StatusCode, String) {
        let (status, _, body) = self.send(method, path, "ec2", "").await;
        (status, body)
    }

    async fn restart(mut self) -> Self {
        self.running.take().unwrap().stop().await;
        begin(self.data, Auth::Accept).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_protocol_has_its_own_errors() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let (post, get) = (Method::POST, Method::GET);
    for (method, path, service, body, status, part) in [
        (&post, "/", "ec2", "Action=Nonsense&Version=2016-11-15", 400, "<Code>InvalidAction</Code>"),
        (&post, "/", "ec2", "", 400, "<Code>MissingAction</Code>"),
        (&post, "/", "ec2", "Action=DescribeVolumes&Nonsense=1", 400, "<Code>UnknownParameter</Code>"),
        (&post, "/", "ec2", "%ff%fe=&&&==&Action=%00", 400, "<Code>InvalidAction</Code>"),
        (
            &post,
            "/",
            "sts",
            "Action=Nonsense",
            400,
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>InvalidAction</Code>",
        ),
        (&post, "/", "sts", "Action=GetCallerIdentity", 200, "<Arn>arn:aws:iam::000000000000:root</Arn>"),
        (&post, "/2015-02-01/file-systems", "elasticfilesystem", "{", 400, "\"ErrorCode\":\"BadRequest\""),
        (
            &post,
            "/2015-02-01/access-points",
            "elasticfilesystem",
            "{\"ClientToken\":\"a\",\"FileSystemId\":\"fs-1\",\"PosixUser\":{\"Uid\":-1,\"Gid\":1}}",
            400,
            "\"ErrorCode\":\"BadRequest\"",
        ),
        (
            &get,
            "/2015-02-01/file-systems?FileSystemId=fs-00000000000000000",
            "elasticfilesystem",
            "",
            404,
            "\"ErrorCode\":\"FileSystemNotFound\"",
        ),
        (&get, "/2015-02-01/access-points?MaxResults=x", "elasticfilesystem", "", 400, "BadRequest"),
        (&get, "/2015-02-01/mount-targets", "elasticfilesystem", "", 400, "BadRequest"),
        (&get, "/2015-02-01/nonsense", "elasticfilesystem", "", 404, "UnknownOperationException"),
        (&get, "/_ebbtide/nonsense", "ec2", "", 404, "there is no"),
        (&get, "/_ebbtide/reset", "ec2", "", 405, "does not take GET"),
        (&post, "/_ebbtide/efs/mount", "ec2", "{}", 400, "no mount request"),
    ] {
        let (got, kind, text) = endpoint.send(method.clone(), path, service, body).await;
        assert_eq!(got.as_u16(), status, "{path} {body}: {text}");
        assert!(text.contains(part), "{path} {body}: {text}");
        assert_eq!(service == "elasticfilesystem", !kind.is_empty(), "{path}: {kind}");
    }
    let (status, _, text) = endpoint.send(post, "/", "ec2", vec![b'a'; 2 << 20]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart_and_gone_after_a_reset() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let body = r#"{"CreationToken":"a"}"#;
    let (status, _, text) = endpoint.send(Method::POST, "/2015-02-01/file-systems", "elasticfilesystem", body).await;
    assert_eq!(status, StatusCode::CREATED, "{text}");
    let endpoint = endpoint.restart().await;
    let (status, kind, text) = endpoint.send(Method::POST, "/2015-02-01/file-systems", "elasticfilesystem", body).await;
    assert_eq!((status, kind.as_str()), (StatusCode::CONFLICT, "FileSystemAlreadyExists"), "{text}");
    let (status, text) = endpoint.control(Method::POST, "/_ebbtide/reset").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let left = std::fs::read_dir(endpoint.data.path().join("efs")).unwrap().count();
    assert_eq!(left, 0, "the reset left trees");
    let (_, _, text) = endpoint.send(Method::GET, "/2015-02-01/file-systems", "elasticfilesystem", "").await;
    assert_eq!(text, r#"{"FileSystems":[]}"#);
    let (_, metrics) = endpoint.control(Method::GET, "/metrics").await;
    assert!(metrics.contains("action=\"CreateFileSystem\",status=\"409\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_in() {
    let keys = BTreeMap::from([("key".to_owned(), "secret".to_owned())]);
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Verify { keys }).await;
    let (status, _, text) = endpoint.send(Method::POST, "/", "ec2", "Action=DescribeVolumes").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(text.contains("<Code>AuthFailure</Code>"), "{text}");
    let (status, kind, _) = endpoint.send(Method::GET, "/2015-02-01/file-systems", "elasticfilesystem", "").await;
    assert_eq!((status, kind.as_str()), (StatusCode::UNAUTHORIZED, "UnrecognizedClientException"));
    let foreign = endpoint.client.get(format!("{}/_ebbtide/health", endpoint.url)).header("origin", "https://evil.example").send().await;
    assert_eq!(foreign.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(endpoint.control(Method::GET, "/_localstack/health").await.0, StatusCode::OK);

    let config = |auth| Config {
        listener: std::net::TcpListener::bind("0.0.0.0:0").unwrap(),
        places: Places::new("/nonexistent"),
        world: World::default(),
        profile: Profile::Instant,
        auth,
        devices: false,
        no_devices: None,
        journal: false,
        journal_effects: false,
        hosts: Vec::new(),
        metadata: Vec::new(),
        identity_providers: Vec::new(),
    };
    assert!(matches!(start(config(Auth::Accept)).await, Err(StartError::Exposed(_))));
    assert!(matches!(start(config(Auth::Verify { keys: BTreeMap::new() })).await, Err(StartError::NoKeys)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_welcomed_asked_and_replaced() {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    let ctx = endpoint.running.as_ref().unwrap().ctx.clone();
    let node = ctx.world.nodes().remove(0);
    let hello = |zone: &str, devices: Vec<Device>| {
        let hello = Hello {
            protocol: PROTOCOL,
            instance_id: node.instance_id.clone(),
            node_name: node.name.clone(),
            availability_zone: zone.to_owned(),
            instance_type: node.instance_type.clone(),
            boot: Some("boot".to_owned()),
            no_devices: None,
            devices,
        };
        Message::text(serde_json::to_string(&FromAgent::Hello(hello)).unwrap())
    };
    let connect = async || {
        let url = format!("{}/_ebbtide/agent", endpoint.url.replace("http", "ws"));
        tokio_tungstenite::connect_async(url).await.unwrap().0
    };
    let mut refused = connect().await;
    refused.send(hello("us-east-1c", vec![])).await.unwrap();
    assert!(refused.next().await.unwrap().unwrap().to_text().unwrap().contains("\"type\":\"refused\""));

    let mut agent = connect().await;
    agent.send(hello(&node.zone, vec![])).await.unwrap();
    assert!(agent.next().await.unwrap().unwrap().to_text().unwrap().contains("welcome"));
    let caller = ctx.clone();
    let instance = node.instance_id.clone();
    let call = tokio::spawn(async move {
        caller.hub.call(&instance, |call| model_common::agent::ToAgent::Thaw { call, volume_id: "vol-1".into() }).await
    });
    let asked = loop {
        if let Message::Text(text) = agent.next().await.unwrap().unwrap() {
            break serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    };
    let done = FromAgent::Done { call: asked["call"].as_u64().unwrap(), result: Ok(()) };
    agent.send(Message::text(serde_json::to_string(&done).unwrap())).await.unwrap();
    assert_eq!(call.await.unwrap(), Ok(()));

    // A second connection of the instance takes the place of the first, whose socket ends.
    let mut second = connect().await;
    second.send(hello(&node.zone, vec![])).await.unwrap();
    assert!(second.next().await.unwrap().unwrap().to_text().unwrap().contains("welcome"));
    while let Some(Ok(message)) = agent.next().await {
        assert!(!matches!(message, Message::Text(_)), "the old connection was asked: {message}");
    }
    assert!(ctx.hub.connected(&node.instance_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kms_speaks_json_with_the_action_in_a_header_and_keeps_its_keys() {
    let endpoint = begin(tempfile::tempdir().unwrap(), Auth::Accept).await;
    // Without a signature the target says enough.
    let call = async |endpoint: &Endpoint, action: &str, body: &str| {
        let request = endpoint.client.post(format!("{}/", endpoint.url)).header("x-amz-target", format!("TrentService.{action}"));
        let response = request.body(body.to_owned()).send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        assert_eq!(header("content-type"), "application/x-amz-json-1.1");
        let (status, kind, text) = (response.status().as_u16(), header("x-amzn-errortype"), response.text().await.unwrap());
        let json = if text.is_empty() { serde_json::Value::Null } else { serde_json::from_str(&text).unwrap() };
        assert_eq!(json["__type"].as_str().unwrap_or_default(), kind, "{text}");
        (status, kind, json)
    };
    let (status, _, made) = call(&endpoint, "CreateKey", r#"{"Description":"mine","Tags":[{"TagKey":"a","TagValue":"b"}]}"#).await;
    let key = &made["KeyMetadata"];
    assert_eq!((status, &key["KeyState"], &key["Enabled"], &key["KeyManager"]), (200, &"Enabled".into(), &true.into(), &"CUSTOMER".into()));
    let named = serde_json::json!({"KeyId": key["KeyId"]}).to_string();
    assert_eq!(call(&endpoint, "DisableKey", &named).await, (200, String::new(), serde_json::Value::Null));
    for (action, body, code) in [
        ("DescribeKey", r#"{"KeyId":"alias/none"}"#, "NotFoundException"),
        ("DescribeKey", "{}", "ValidationException"),
        ("DescribeKey", "{", "SerializationException"),
        ("DescribeKey", "\0", "SerializationException"),
        ("CreateKey", r#"{"KeySpec":"RSA_2048"}"#, "UnsupportedOperationException"),
        ("CreateKey", r#"{"Tags":[{"TagKey":"a","TagValue":"b"},{"TagKey":"a","TagValue":"c"}]}"#, "TagException"),
        ("CancelKeyDeletion", &named, "KMSInvalidStateException"),
        ("ListKeys", r#"{"Limit":0}"#, "ValidationException"),
        ("ListKeys", r#"{"Limit":1001}"#, "ValidationException"),
        ("ListKeys", r#"{"Marker":"x"}"#, "InvalidMarkerException"),
        ("ListResourceTags", "{}", "ValidationException"),
        ("Encrypt", "{}", "UnknownOperationException"),
    ] {
        let (status, kind, json) = call(&endpoint, action, body).await;
        assert_eq!((status, kind.as_str()), (400, code), "{action} {body}: {json}");
        assert!(json["message"].is_string(), "{json}");
    }
    let (status, kind, text) = endpoint.send(Method::GET, "/", "kms", "").await;
    assert_eq!((status.as_u16(), kind.as_str()), (400, "UnknownOperationException"), "{text}");

    let endpoint = endpoint.restart().await;
    let (_, _, described) = call(&endpoint, "DescribeKey", &named).await;
    assert_eq!(described["KeyMetadata"]["KeyState"], "Disabled");
    let (_, _, tags) = call(&endpoint, "ListResourceTags", &named).await;
    assert_eq!(tags["Tags"], serde_json::json!([{"TagKey": "a", "TagValue": "b"}]));
    let (_, metrics) = endpoint.control(Method::GET, "/metrics").await;
    assert!(metrics.contains("action=\"DescribeKey\",status=\"200\"} 1"), "{metrics}");
}
