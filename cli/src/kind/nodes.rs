//! Which nodes of a cluster are which instances, and what is wrong with those that are none.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use serde::Serialize;

use super::facts::Info;

const TYPE: &str = "node.kubernetes.io/instance-type";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const CREATE: &str = "it cannot be changed: delete the cluster, and create it with `ebbtide kind config | kind create cluster --config -` \
                      (elsewhere start the kubelet with --provider-id=aws:///ZONE/INSTANCE)";

/// A node that is an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub node: String,
    pub instance_id: String,
    pub zone: String,
}

/// The nodes that are instances; or all that is wrong, a line each. A control plane that is no instance is fine: it runs no agent.
pub fn check(nodes: &[Node], info: &Info, endpoint: &str) -> Result<Vec<Member>, String> {
    let (mut members, mut wrong): (Vec<Member>, Vec<String>) = Default::default();
    for node in nodes {
        match member(node, info, endpoint) {
            Ok(Some(member)) => members.push(member),
            Ok(None) => {}
            Err(why) => wrong.push(why),
        }
    }
    let mut by_instance = BTreeMap::<&str, Vec<&str>>::new();
    members.iter().for_each(|member| by_instance.entry(&member.instance_id).or_default().push(&member.node));
    for (instance, nodes) in by_instance.iter().filter(|(_, nodes)| nodes.len() > 1) {
        wrong.push(format!("the nodes {} all say that they are {instance}; {CREATE}", nodes.join(" and ")));
    }
    if members.is_empty() && wrong.is_empty() {
        wrong.push(format!("no node of the cluster is an instance of the world; {CREATE}"));
    }
    if wrong.is_empty() { Ok(members) } else { Err(wrong.join("\n")) }
}

fn member(node: &Node, info: &Info, endpoint: &str) -> Result<Option<Member>, String> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or_default();
    let ours = provider.strip_prefix("aws:///").and_then(|rest| rest.split_once('/')).filter(|(_, id)| id.starts_with("i-"));
    let Some((zone, id)) = ours else {
        let control_plane = labels.contains_key("node-role.kubernetes.io/control-plane");
        return match (control_plane, labels.contains_key(ZONE)) {
            (true, false) => Ok(None),
            (true, true) => Err(format!(
                "the node {name} has a zone and the providerID {provider:?}, which is none of AWS: take the label {ZONE} away, and no \
                 volumes are mounted there"
            )),
            (false, _) => Err(format!("the node {name} has the providerID {provider:?}, which is none of AWS; {CREATE}")),
        };
    };
    let Some(instance) = info.nodes.iter().find(|instance| instance.instance_id == id) else {
        let known: Vec<String> = info.nodes.iter().map(|instance| format!("aws:///{}/{}", instance.zone, instance.instance_id)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(format!(
            "the node {name} says that it is {id}, and the world of {endpoint} has no such instance (it has {known}): start an ebbtide \
             whose world has it (`ebbtide up --world FILE` with instances: [{{id: {id}, zone: {zone}, …}}]), or give the node one of \
             these; {CREATE}"
        ));
    };
    if instance.zone != zone {
        return Err(format!(
            "the node {name} says that {id} is in {zone}, and the world of {endpoint} has it in {}; {CREATE}",
            instance.zone
        ));
    }
    let wanted = [(REGION, Some(&info.region)), (ZONE, Some(&instance.zone)), (TYPE, instance.instance_type.as_ref())];
    let differ: Vec<String> = wanted
        .into_iter()
        .filter_map(|(key, value)| value.filter(|value| labels.get(key) != Some(value)).map(|value| format!("{key}={value}")))
        .collect();
    if !differ.is_empty() {
        let differ = differ.join(" ");
        return Err(format!("the node {name} lacks labels that the drivers read: `kubectl label node {name} --overwrite {differ}`"));
    }
    Ok(Some(Member { node: name.to_owned(), instance_id: id.to_owned(), zone: zone.to_owned() }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::facts::Instance;
    use super::*;

    fn info() -> Info {
        let instance = |id: &str, zone: &str| Instance {
            instance_id: id.to_owned(),
            zone: zone.to_owned(),
            instance_type: Some("m5.large".to_owned()),
            connected: false,
        };
        Info {
            region: "us-east-1".into(),
            data_directory: "/d".into(),
            nodes: vec![instance("i-a", "us-east-1a"), instance("i-b", "us-east-1b")],
        }
    }

    fn node(name: &str, provider: &str, labels: &[(&str, &str)]) -> Node {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": {"providerID": provider}})).unwrap()
    }

    fn worker(name: &str, id: &str, zone: &str) -> Node {
        node(name, &format!("aws:///{zone}/{id}"), &[(TYPE, "m5.large"), (REGION, "us-east-1"), (ZONE, zone)])
    }

    fn wrong(nodes: &[Node]) -> String {
        check(nodes, &info(), "http://e").unwrap_err()
    }

    #[test]
    fn workers_are_instances_and_the_control_plane_need_not_be() {
        let control = node("c", "kind://docker/e/c", &[("node-role.kubernetes.io/control-plane", "")]);
        let members = check(&[control.clone(), worker("w", "i-b", "us-east-1b")], &info(), "http://e").unwrap();
        assert_eq!(members, [Member { node: "w".into(), instance_id: "i-b".into(), zone: "us-east-1b".into() }]);
        assert!(wrong(&[control]).contains("no node of the cluster is an instance"));
        let zoned = node("c", "kind://docker/e/c", &[("node-role.kubernetes.io/control-plane", ""), (ZONE, "us-east-1a")]);
        assert!(wrong(&[zoned]).contains("take the label"));
    }

    #[test]
    fn each_fault_is_named_with_what_to_do() {
        assert!(wrong(&[node("w", "kind://docker/e/w", &[])]).contains("w has the providerID \"kind://docker/e/w\", which is none of AWS"));
        assert!(wrong(&[node("w", "", &[])]).contains("ebbtide kind config | kind create cluster"));
        let unknown = wrong(&[worker("w", "i-c", "us-east-1a")]);
        assert!(unknown.contains("http://e has no such instance (it has aws:///us-east-1a/i-a, aws:///us-east-1b/i-b)"), "{unknown}");
        assert!(wrong(&[worker("w", "i-a", "us-east-1b")]).contains("has it in us-east-1a"));
        assert!(wrong(&[worker("v", "i-a", "us-east-1a"), worker("w", "i-a", "us-east-1a")]).contains("v and w all say that they are i-a"));
        let bare = wrong(&[node("w", "aws:///us-east-1a/i-a", &[(ZONE, "us-east-1a"), (TYPE, "t3.nano")])]);
        assert!(bare.contains(
            "kubectl label node w --overwrite topology.kubernetes.io/region=us-east-1 node.kubernetes.io/instance-type=m5.large"
        ));
        // All of them at once.
        assert_eq!(wrong(&[node("v", "", &[]), worker("w", "i-c", "us-east-1a")]).lines().count(), 2);
    }
}
