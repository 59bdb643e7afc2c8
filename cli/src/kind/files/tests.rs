use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;

fn documents(yaml: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(yaml).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn other() -> Access {
    Access { endpoint: "https://a.example".into(), region: "eu-west-3".into(), access_key: "AK: \"x\"".into(), secret_key: "s#e'c".into() }
}

/// A document has no field that its kind does not know: those would be lost on the way.
fn typed<T: Serialize + DeserializeOwned>(document: &Value) {
    let object: T = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(&object).unwrap(), *document);
}

#[test]
fn every_document_is_whole() {
    let all = documents(&format!("{ACCESS}---\n{AGENT}"));
    let kinds: Vec<&str> = all.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.join(" "), "Namespace ConfigMap Secret Secret ServiceAccount ClusterRole ClusterRoleBinding DaemonSet");
    typed::<Namespace>(&all[0]);
    typed::<ConfigMap>(&all[1]);
    typed::<Secret>(&all[2]);
    typed::<Secret>(&all[3]);
    typed::<ServiceAccount>(&all[4]);
    typed::<ClusterRole>(&all[5]);
    typed::<ClusterRoleBinding>(&all[6]);
    typed::<DaemonSet>(&all[7]);
}

#[test]
fn the_configuration_for_the_default_world_is_the_file() {
    assert_eq!(config(&World::default(), Path::new("/var/lib/ebbtide")).unwrap(), CONFIG);
}

#[test]
fn the_configuration_follows_the_world() {
    let world: World = serde_yaml::from_str(
        "{region: eu-west-3, zones: [{name: eu-west-3c, id: z}], vpc: {cidr: 10.0.0.0/16, subnets: [{zone: eu-west-3c, cidr: 10.0.1.0/24}]}, \
         instances: [{privateIp: 10.0.1.4, zone: eu-west-3c, type: t3.nano, id: i-0123456789abcdef0, labels: {tier: db, kubernetes.io/x: y}}, \
         {privateIp: 10.0.1.5, zone: eu-west-3c, type: t3.nano, node: false}]}",
    )
    .unwrap();
    world.check().unwrap();
    let config: Value = serde_yaml::from_str(&config(&world, Path::new("/a b")).unwrap()).unwrap();
    assert_eq!(config["nodes"].as_array().unwrap().len(), 2);
    let worker = &config["nodes"][1];
    assert_eq!(
        worker["labels"],
        json!({"tier": "db", "node.kubernetes.io/instance-type": "t3.nano", "topology.kubernetes.io/region": "eu-west-3",
            "topology.kubernetes.io/zone": "eu-west-3c"})
    );
    assert!(worker["kubeadmConfigPatches"][0].as_str().unwrap().contains("provider-id: aws:///eu-west-3c/i-0123456789abcdef0\n"));
    assert_eq!(worker["extraMounts"], json!([{"hostPath": "/a b", "containerPath": "/a b"}]));
    let none = World { instances: Vec::new(), ..World::default() };
    assert!(super::config(&none, Path::new("/")).unwrap_err().to_string().contains("no instance"));
}

#[test]
fn endpoint_keys_and_image_reach_every_place() {
    let all = documents(&format!("{}---\n{}", access(&other()), agent("r.example/e:1", Path::new("/a \"b"), &other())));
    assert_eq!(all[1]["data"], json!({"endpoint": "https://a.example"}));
    assert_eq!(all[2]["stringData"], json!({"key_id": "AK: \"x\"", "access_key": "s#e'c"}));
    assert_eq!(
        all[3]["stringData"],
        json!({"AWS_ENDPOINT_URL": "https://a.example", "AWS_REGION": "eu-west-3", "AWS_ACCESS_KEY_ID": "AK: \"x\"",
            "AWS_SECRET_ACCESS_KEY": "s#e'c"})
    );
    let pod = &all[7]["spec"]["template"];
    assert_eq!(pod["metadata"]["annotations"]["ebbtide/access"], other().digest());
    assert_ne!(Access { secret_key: "t".into(), ..other() }.digest(), other().digest());
    assert_eq!(
        (&pod["spec"]["initContainers"][0]["image"], &pod["spec"]["containers"][0]["image"]),
        (&json!("r.example/e:1"), &json!("r.example/e:1"))
    );
    let volume = |name: &str| pod["spec"]["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == name).unwrap().clone();
    assert_eq!(volume("data")["hostPath"]["path"], "/a \"b");
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    assert!(mounts.contains(&json!({"name": "data", "mountPath": "/a \"b"})));
}

/// The agent's arguments are ones that `ebbtide` takes; the socket that its probe looks for is the one it makes, which mount.efs asks,
/// in the directory that the EFS driver's pod has.
#[test]
fn the_agent_starts_as_the_daemon_set_says() {
    use crate::args::{Cli, Command};
    use clap::Parser;
    let all = documents(AGENT);
    let container = &all[3]["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let cli = Cli::try_parse_from(std::iter::once("ebbtide").chain(args)).unwrap();
    let Command::Node(node) = cli.command else { panic!("another command") };
    let agent = node.agent;
    assert!(agent.agent_only && agent.metadata.is_some_and(|address| address.to_string() == "169.254.169.254:80"));
    let socket = agent.efs_socket.to_str().unwrap().to_owned();
    assert_eq!(socket, fuse_fs::protocol::DEFAULT_SOCKET);
    assert_eq!(container["readinessProbe"]["exec"]["command"][2], format!("00010000 0001 01 .* {socket}$"));
    let values: Value = serde_yaml::from_str(VALUES_EFS).unwrap();
    for part in ["controller", "node"] {
        let directory = json!({"name": "ebbtide", "mountPath": agent.efs_socket.parent().unwrap()});
        assert!(values[part]["volumeMounts"].as_array().unwrap().contains(&directory), "{part}");
    }
    // The Dockerfile puts the program where the first container takes it from, and starts it by its name alone.
    let dockerfile = include_str!("../../../../Dockerfile");
    assert!(dockerfile.contains("/usr/local/bin/ebbtide\n") && dockerfile.contains("ENTRYPOINT [\"ebbtide\"]"));
    let copies = all[3]["spec"]["template"]["spec"]["initContainers"][0]["args"][0].as_str().unwrap();
    assert!(copies.contains("cp /usr/local/bin/ebbtide ") && container["command"].is_null());
}

#[test]
fn values_carry_the_region_and_name_what_the_manifests_make() {
    let of = |driver| serde_yaml::from_str::<Value>(&values(driver, "eu-west-3")).unwrap();
    let (ebs, efs) = (of(Driver::Ebs), of(Driver::Efs));
    assert_eq!(ebs["controller"]["region"], "eu-west-3");
    let secret = documents(ACCESS).remove(2);
    assert_eq!(ebs["awsAccessSecret"]["name"], secret["metadata"]["name"]);
    for key in ["keyId", "accessKey"] {
        assert!(secret["stringData"][ebs["awsAccessSecret"][key].as_str().unwrap()].is_string(), "{key}");
    }
    for part in ["controller", "node"] {
        let env = efs[part]["env"].as_array().unwrap();
        let variable = |name: &str| env.iter().find(|variable| variable["name"] == name).unwrap().clone();
        assert_eq!(variable("AWS_REGION")["value"], "eu-west-3");
        assert_eq!(variable("AWS_ENDPOINT_URL")["valueFrom"]["configMapKeyRef"], json!({"name": "aws-meta", "key": "endpoint"}));
        for (name, key) in [("AWS_ACCESS_KEY_ID", "key_id"), ("AWS_SECRET_ACCESS_KEY", "access_key")] {
            assert_eq!(variable(name)["valueFrom"]["secretKeyRef"], json!({"name": "aws-secret", "key": key}));
        }
    }
    for (driver, text) in [(Driver::Ebs, VALUES_EBS), (Driver::Efs, VALUES_EFS)] {
        let chart = driver.chart();
        assert!(text.contains(&format!("--version {} ", chart.version)) && text.contains(chart.repository), "the head of the file");
    }
}
