//! A scenario's own names for nodes, in a cluster whose nodes have others.

use std::collections::BTreeMap;

use serde_json::Value;

use super::text;
use crate::engine::EngineError;
use crate::language::{Scenario, Target};

/// The cluster's node for each name of the scenario's, and back. Whole words are exchanged wherever they stand in an object, on its way to
/// the cluster and from it.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    there: BTreeMap<String, String>,
    here: BTreeMap<String, String>,
}

impl Nodes {
    /// Finds a node of the right zone for each that the scenario's world has, in the order of their names.
    pub(super) fn find(scenario: &Scenario, cluster: &[Value]) -> Result<Self, EngineError> {
        let mut free: Vec<(String, String)> = cluster
            .iter()
            .map(|node| (text(node, "/metadata/name"), text(node, "/metadata/labels/topology.kubernetes.io~1zone")))
            .collect();
        free.sort();
        let wanted: Vec<_> = scenario.spec.world.iter().flat_map(|world| &world.nodes).collect();
        let mut this = Self::default();
        for node in &wanted {
            let named = free.iter().position(|(name, _)| *name == node.name);
            let Some(at) = named.or_else(|| free.iter().position(|(_, zone)| *zone == node.zone)) else {
                let count = wanted.iter().filter(|other| other.zone == node.zone).count();
                return Err(EngineError::Unsupported(format!(
                    "the scenario needs {count} nodes in {}, and the cluster has fewer; give `ebbtide up --world` a world that has them \
                     (`ebbtide run --world` prints one for the whole library)",
                    node.zone
                )));
            };
            let (name, _) = free.remove(at);
            this.here.insert(name.clone(), node.name.clone());
            this.there.insert(node.name.clone(), name);
        }
        Ok(this)
    }

    /// The cluster's name of a node.
    pub(super) fn there<'a>(&'a self, name: &'a str) -> &'a str {
        self.there.get(name).map_or(name, String::as_str)
    }

    /// An object as the cluster has it.
    pub(super) fn outward(&self, object: &Value) -> Value {
        exchanged(object, &self.there)
    }

    /// An object as the scenario has it.
    pub(super) fn inward(&self, object: &Value) -> Value {
        exchanged(object, &self.here)
    }

    /// The name of an object as the cluster has it.
    pub(super) fn target(&self, target: &Target) -> Target {
        Target { name: self.there(&target.name).to_owned(), ..target.clone() }
    }
}

fn exchanged(value: &Value, names: &BTreeMap<String, String>) -> Value {
    match value {
        _ if names.is_empty() => value.clone(),
        Value::String(text) => Value::String(names.get(text).unwrap_or(text).clone()),
        Value::Array(items) => items.iter().map(|item| exchanged(item, names)).collect(),
        Value::Object(fields) => Value::Object(fields.iter().map(|(name, value)| (name.clone(), exchanged(value, names))).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scenario(nodes: &str) -> Scenario {
        let text = format!(
            "apiVersion: ebbtide.dev/v1alpha1\nkind: Scenario\nmetadata: {{name: t}}\nspec:\n  world: {{nodes: [{nodes}]}}\n  steps: [{{name: a, try: []}}]\n"
        );
        crate::language::parse("t", &text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn node(name: &str, zone: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}})
    }

    #[test]
    fn nodes_are_found_by_zone_and_exchanged_both_ways() {
        let scenario = scenario("{name: n1, zone: us-east-1b}, {name: n2, zone: us-east-1a}");
        let nodes = Nodes::find(&scenario, &[node("ip-1", "us-east-1a"), node("ip-2", "us-east-1b")]).unwrap();
        let pod = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "n1"}, "containers": [{"name": "n1-app"}]}});
        let there = nodes.outward(&pod);
        assert_eq!(there, json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "ip-2"}, "containers": [{"name": "n1-app"}]}}));
        assert_eq!(nodes.inward(&there), pod);
        assert_eq!(nodes.there("n2"), "ip-1");
    }

    #[test]
    fn too_few_nodes_are_told() {
        let scenario = scenario("{name: n1, zone: us-east-1a}, {name: n2, zone: us-east-1a}");
        let error = Nodes::find(&scenario, &[node("ip-1", "us-east-1a"), node("ip-2", "us-east-1b")]).unwrap_err().to_string();
        assert!(error.contains("2 nodes in us-east-1a"), "{error}");
    }
}
