use std::time::Duration;

use emulator_common::places::Places;
use model_aws::ec2::{Command, Input, MetadataChange};
use model_aws::world::World;
use model_aws::{Input as Any, Profile};
use reqwest::{Client, Method};

use super::*;
use crate::{Config, Running, start};

struct Bench {
    running: Running,
    client: Client,
    node: String,
    pods: String,
    other: String,
    instance: String,
    _data: tempfile::TempDir,
}

async fn bench() -> Bench {
    let data = tempfile::tempdir().unwrap();
    let world = World { devices: false, ..World::default() };
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let of = |index| Listeners { instance_id: world.instance_id(index), node: listener(), pods: listener() };
    let (first, second) = (of(0), of(1));
    let (node, pods, other) = (url(&first.node), url(&first.pods), url(&second.node));
    let config = Config {
        listener: listener(),
        places: Places::new(data.path()),
        world: world.clone(),
        profile: Profile::Instant,
        auth: Auth::Accept,
        devices: false,
        no_devices: None,
        journal: false,
        journal_effects: false,
        hosts: Vec::new(),
        metadata: vec![first, second],
        identity_providers: Vec::new(),
    };
    let running = start(config).await.unwrap();
    Bench { running, client: Client::new(), node, pods, other, instance: world.instance_id(0), _data: data }
}

impl Bench {
    async fn send(&self, method: Method, base: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = self.client.request(method, format!("{base}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let token = self.token(&self.node).await;
        self.send(Method::GET, &self.node, path, &[(token::TOKEN, &token)]).await
    }

    async fn token(&self, base: &str) -> String {
        let (status, token) = self.send(Method::PUT, base, "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "60")]).await;
        assert_eq!(status, 200);
        token
    }

    async fn modify(&self, change: MetadataChange) {
        let change = MetadataChange { instance_id: self.instance.clone(), ..change };
        self.running.engine.command(Any::Ec2(Input::Command(Command::ModifyMetadataOptions(change)))).await.unwrap();
        let applied = async {
            while self.running.engine.read(|aws| aws.ec2.instance(&self.instance).is_some_and(|i| i.metadata.pending)).await {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), applied).await.unwrap();
    }
}

fn word(word: &str) -> Option<String> {
    Some(word.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_asked_for_given_and_checked() {
    let bench = bench().await;
    let put = |headers: &'static [(&'static str, &'static str)]| bench.send(Method::PUT, &bench.node, "/latest/api/token", headers);
    const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";
    assert_eq!(put(&[]).await.0, 400);
    assert_eq!(put(&[(TTL, "0")]).await.0, 400);
    assert_eq!(put(&[(TTL, "21601")]).await.0, 400);
    assert_eq!(put(&[(TTL, "60"), ("X-Forwarded-For", "10.0.0.1")]).await.0, 403);
    let id = "/latest/meta-data/instance-id";
    let with = async |token: &str| bench.send(Method::GET, &bench.node, id, &[(token::TOKEN, token)]).await;
    assert_eq!(bench.send(Method::GET, &bench.node, id, &[]).await.0, 401, "IMDSv2 is required on EKS nodes");
    assert_eq!(with("nonsense").await.0, 401);
    assert_eq!(with(&bench.token(&bench.other).await).await.0, 401, "the token of another instance");
    assert_eq!(with(&bench.token(&bench.node).await).await, (200, bench.instance.clone()));
    let (status, short) = put(&[(TTL, "1")]).await;
    assert_eq!(status, 200);
    let over = async {
        while with(&short).await.0 == 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), over).await.unwrap();
    assert_eq!(with(&short).await.0, 401, "expired");
    assert_eq!(bench.send(Method::GET, &bench.node, "/latest/api/token", &[]).await.0, 405);
    assert_eq!(bench.send(Method::POST, &bench.node, id, &[]).await.0, 405);
    assert_eq!(bench.send(Method::GET, &bench.node, "/", &[("Host", "evil.example")]).await.0, 403);
    bench.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_answers_what_agents_pass_on() {
    let bench = bench().await;
    let base = |distance: &str| format!("http://{}{PATH}{}/{distance}", bench.running.addr, bench.instance);
    let token = bench.token(&base("node")).await;
    let id = "/latest/meta-data/instance-id";
    let with = [(token::TOKEN, token.as_str())];
    assert_eq!(bench.send(Method::GET, &base("pods"), id, &with).await, (200, bench.instance.clone()));
    assert_eq!(bench.send(Method::GET, &base("node"), id, &[]).await.0, 401);
    assert_eq!(bench.send(Method::GET, &base("elsewhere"), id, &with).await.0, 404);
    bench.modify(MetadataChange { hop_limit: Some(1), ..Default::default() }).await;
    let put = bench.client.put(format!("{}/latest/api/token", base("pods"))).header("x-aws-ec2-metadata-token-ttl-seconds", "60");
    assert!(put.timeout(Duration::from_millis(300)).send().await.unwrap_err().is_timeout(), "pods are two hops away");
    bench.token(&base("node")).await;
    bench.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_refuses_as_it_does_on_ec2() {
    let bench = bench().await;
    let id = "/latest/meta-data/instance-id";
    bench.modify(MetadataChange { http_tokens: word("optional"), ..Default::default() }).await;
    assert_eq!(bench.send(Method::GET, &bench.node, id, &[]).await, (200, bench.instance.clone()), "IMDSv1");
    assert_eq!(bench.send(Method::GET, &bench.node, id, &[(token::TOKEN, "x")]).await.0, 401, "a wrong token is no IMDSv1");

    // Two hops: the pods too. One: their clients see a timeout at PUT, but IMDSv1 works.
    bench.token(&bench.pods).await;
    bench.modify(MetadataChange { hop_limit: Some(1), ..Default::default() }).await;
    let put = bench.client.put(format!("{}/latest/api/token", bench.pods)).header("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let error = put.timeout(Duration::from_millis(300)).send().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    bench.token(&bench.node).await;
    assert_eq!(bench.send(Method::GET, &bench.pods, id, &[]).await.0, 200);

    bench.modify(MetadataChange { http_endpoint: word("disabled"), ..Default::default() }).await;
    let (status, page) = bench.send(Method::GET, &bench.node, id, &[]).await;
    assert!(status == 403 && page.contains("<title>403 - Forbidden</title>"), "{page}");
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    assert_eq!(bench.send(Method::PUT, &bench.node, "/latest/api/token", &ttl).await.0, 403);
    bench.token(&bench.other).await;
    bench.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_make_it_refuse_hang_and_miss_paths() {
    let bench = bench().await;
    let aws = format!("http://{}", bench.running.addr);
    let add = async |rule: serde_json::Value| {
        let answer = bench.client.post(format!("{aws}/_ebbtide/faults")).json(&rule).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    };
    let macs = "/latest/meta-data/network/interfaces/macs";
    add(serde_json::json!({"actionId": "local:api:error", "service": "imds", "operation": "meta-data/network/interfaces/macs",
        "resource": bench.instance, "error": {"statusCode": 404}}))
    .await;
    let (status, page) = bench.get(macs).await;
    assert!(status == 404 && page.contains("404 - Not Found"), "{page}");
    assert_eq!(bench.get("/latest/meta-data/instance-id").await.0, 200);
    let token = bench.token(&bench.other).await;
    assert_eq!(bench.send(Method::GET, &bench.other, macs, &[(token::TOKEN, &token)]).await.0, 200, "of another instance");
    add(serde_json::json!({"actionId": "local:api:lost-response", "service": "imds", "operation": "dynamic/*"})).await;
    let document = bench.client.get(format!("{}/latest/dynamic/instance-identity/document", bench.other)).header(token::TOKEN, &token);
    assert!(document.send().await.is_err(), "the connection ends without an answer");
    bench.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_say_what_the_instance_is() {
    let bench = bench().await;
    let mac = "0a:ff:0a:00:01:0a";
    let interface = format!("/latest/meta-data/network/interfaces/macs/{mac}");
    for (path, value) in [
        ("/latest", "dynamic\nmeta-data"),
        ("/latest/", "dynamic\nmeta-data"),
        ("/latest/dynamic/", "instance-identity/"),
        ("/latest/dynamic/instance-identity", "document"),
        ("/latest/meta-data/instance-type", "m5.large"),
        ("/2021-07-15/meta-data/instance-type/", "m5.large"),
        ("/latest/meta-data/local-ipv4", "10.0.1.10"),
        ("/latest/meta-data/hostname", "ip-10-0-1-10.ec2.internal"),
        ("/latest/meta-data/local-hostname", "ip-10-0-1-10.ec2.internal"),
        ("/latest/meta-data/mac", mac),
        ("/latest/meta-data/placement", "availability-zone\navailability-zone-id\nregion"),
        ("/latest/meta-data/placement/region", "us-east-1"),
        ("/latest/meta-data/placement/availability-zone-id", "use1-az1"),
        ("/latest/meta-data/network/", "interfaces/"),
        ("/latest/meta-data/network/interfaces/macs", "0a:ff:0a:00:01:0a/"),
        (&format!("{interface}/vpc-ipv4-cidr-block"), "10.0.0.0/16"),
        (&format!("{interface}/subnet-ipv4-cidr-block/"), "10.0.1.0/24"),
        ("/latest/meta-data/block-device-mapping", "ami\nroot"),
        ("/latest/meta-data/block-device-mapping/root", "/dev/xvda"),
        ("/latest/meta-data/iam/", "info\nsecurity-credentials/"),
        ("/latest/meta-data/iam/security-credentials/", "ebbtide-node"),
        ("/latest/meta-data/services/domain", "amazonaws.com"),
        ("/latest/meta-data/services/partition", "aws"),
        ("/latest/meta-data/system", "nitro"),
    ] {
        assert_eq!(bench.get(path).await, (200, value.to_owned()), "{path}");
    }
    for path in [
        "/latest/meta-data/outpost-arn",
        "/latest/meta-data/tags/instance",
        "/latest/meta-data/public-ipv4",
        "/latest/meta-data/instance-id/more",
        "/latest/meta-data//instance-id",
        "/latest/user-data",
        "/latest/nonsense",
        "/1999-01-01/meta-data/",
        "//latest",
    ] {
        let (status, page) = bench.get(path).await;
        assert_eq!(status, 404, "{path}: {page}");
        assert!(page.starts_with("<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>") && page.contains("<h1>404 - Not Found</h1>"), "{page}");
    }
    let (_, list) = bench.get("/latest/meta-data/").await;
    for line in ["ami-id", "block-device-mapping/", "iam/", "instance-id", "network/", "placement/", "services/"] {
        assert!(list.lines().any(|entry| entry == line), "{line} in {list}");
    }
    assert!(!list.contains("tags/") && bench.get("/").await.1.ends_with("\nlatest"));

    let (_, text) = bench.get("/latest/dynamic/instance-identity/document").await;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document.as_object().unwrap().len(), 15, "{text}");
    for (name, value) in [("instanceId", bench.instance.as_str()), ("region", "us-east-1"), ("availabilityZone", "us-east-1a")] {
        assert_eq!(document[name], value);
    }
    assert!(text.contains("  \"instanceType\" : \"m5.large\",\n"), "{text}");

    bench.modify(MetadataChange { instance_metadata_tags: word("enabled"), ..Default::default() }).await;
    assert_eq!(bench.get("/latest/meta-data/tags/instance").await, (200, "Name".to_owned()));
    assert_eq!(bench.get("/latest/meta-data/tags/instance/Name").await, (200, "ebbtide-node".to_owned()));
    bench.running.stop().await;
}
