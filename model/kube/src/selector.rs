//! Label selectors and node selectors against labels (apimachinery `labels`, component-helpers `nodeaffinity`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorTerm, PersistentVolume, TopologySelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

fn meets(operator: &str, values: &[String], found: Option<&String>) -> bool {
    let number = |text: &String| text.parse::<i64>().ok();
    match operator {
        "In" => found.is_some_and(|found| values.contains(found)),
        // A label that is not there is "not in" too.
        "NotIn" => found.is_none_or(|found| !values.contains(found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => found.and_then(number).zip(values.first().and_then(number)).is_some_and(|(found, limit)| found > limit),
        "Lt" => found.and_then(number).zip(values.first().and_then(number)).is_some_and(|(found, limit)| found < limit),
        // Validation lets no other operator in; an unknown one matches nothing.
        _ => false,
    }
}

/// Whether labels match a label selector; the empty selector matches all.
pub fn labels_match(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let found = |key: &str| labels.and_then(|labels| labels.get(key));
    selector.match_labels.iter().flatten().all(|(key, value)| found(key) == Some(value))
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|need| meets(&need.operator, need.values.as_deref().unwrap_or_default(), found(&need.key)))
}

fn term_matches(term: &NodeSelectorTerm, labels: Option<&Labels>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // A term without requirements matches nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = name.to_owned();
    expressions
        .iter()
        .all(|need| meets(&need.operator, need.values.as_deref().unwrap_or_default(), labels.and_then(|labels| labels.get(&need.key))))
        && fields.iter().all(|need| {
            let field = (need.key == "metadata.name").then_some(&name);
            meets(&need.operator, need.values.as_deref().unwrap_or_default(), field)
        })
}

/// Whether a node matches one of the terms.
pub fn node_matches(selector: &NodeSelector, node: &Node) -> bool {
    let name = node.metadata.name.as_deref().unwrap_or("");
    selector.node_selector_terms.iter().any(|term| term_matches(term, node.metadata.labels.as_ref(), name))
}

/// Whether a volume can be used on a node: its `nodeAffinity.required`, where it has one.
pub fn volume_fits(volume: &PersistentVolume, node: &Node) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()).and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| node_matches(required, node))
}

/// Whether labels match one of a class's `allowedTopologies`; no terms allow everything.
pub fn topology_allowed(terms: Option<&[TopologySelectorTerm]>, labels: Option<&Labels>) -> bool {
    let terms = terms.unwrap_or_default();
    terms.is_empty()
        || terms.iter().any(|term| {
            let needs = term.match_label_expressions.as_deref().unwrap_or_default();
            !needs.is_empty()
                && needs.iter().all(|need| labels.and_then(|labels| labels.get(&need.key)).is_some_and(|value| need.values.contains(value)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operators() {
        let labels = Labels::from([("zone".to_owned(), "a".to_owned()), ("n".to_owned(), "5".to_owned())]);
        for (operator, key, values, expected) in [
            ("In", "zone", vec!["a", "b"], true),
            ("In", "zone", vec!["b"], false),
            ("In", "none", vec!["a"], false),
            ("NotIn", "none", vec!["a"], true),
            ("NotIn", "zone", vec!["a"], false),
            ("Exists", "zone", vec![], true),
            ("DoesNotExist", "zone", vec![], false),
            ("Gt", "n", vec!["4"], true),
            ("Lt", "n", vec!["4"], false),
        ] {
            let selector: NodeSelector = serde_json::from_value(
                json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}),
            )
            .unwrap();
            let mut node = Node::default();
            node.metadata.labels = Some(labels.clone());
            assert_eq!(node_matches(&selector, &node), expected, "{operator} {key} {values:?}");
        }
    }

    #[test]
    fn an_empty_term_matches_nothing_and_no_affinity_everything() {
        let selector: NodeSelector = serde_json::from_value(json!({"nodeSelectorTerms": [{}]})).unwrap();
        assert!(!node_matches(&selector, &Node::default()));
        assert!(volume_fits(&PersistentVolume::default(), &Node::default()));
    }
}
