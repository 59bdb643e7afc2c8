//! The cells of the core kinds but pods and claims.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Secret, ServiceAccount};
use serde_json::{Value, json};

use super::format::{age, name, or, since};

pub fn namespace(namespace: &Namespace, now: jiff::Timestamp) -> Vec<Value> {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    vec![name(&namespace.metadata), json!(phase.unwrap_or("")), age(&namespace.metadata, now)]
}

pub fn config_map(map: &ConfigMap, now: jiff::Timestamp) -> Vec<Value> {
    let count = map.data.as_ref().map_or(0, |data| data.len()) + map.binary_data.as_ref().map_or(0, |data| data.len());
    vec![name(&map.metadata), json!(count), age(&map.metadata, now)]
}

pub fn secret(secret: &Secret, now: jiff::Timestamp) -> Vec<Value> {
    let count = secret.data.as_ref().map_or(0, |data| data.len());
    vec![name(&secret.metadata), json!(secret.type_.as_deref().unwrap_or("")), json!(count), age(&secret.metadata, now)]
}

pub fn service_account(account: &ServiceAccount, now: jiff::Timestamp) -> Vec<Value> {
    vec![name(&account.metadata), age(&account.metadata, now)]
}

pub fn lease(lease: &Lease, now: jiff::Timestamp) -> Vec<Value> {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    vec![name(&lease.metadata), json!(holder.unwrap_or("")), age(&lease.metadata, now)]
}

pub fn node(node: &Node, now: jiff::Timestamp) -> Vec<Value> {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let mut state = match ready {
        Some(condition) if condition.status == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if spec.unschedulable == Some(true) {
        state.push_str(",SchedulingDisabled");
    }
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let mut roles: Vec<String> = labels
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role.to_owned()),
            _ if key == "kubernetes.io/role" && !value.is_empty() => Some(value.clone()),
            _ => None,
        })
        .collect();
    roles.sort();
    let address = |kind: &str| {
        let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
        or(found.map(|address| address.address.as_str()), "<none>")
    };
    let info = status.node_info.clone().unwrap_or_default();
    let kernel = match (info.kernel_version.as_str(), info.architecture.as_str()) {
        ("", _) => "<unknown>".to_owned(),
        (kernel, "") => kernel.to_owned(),
        (kernel, architecture) => format!("{kernel} ({architecture})"),
    };
    vec![
        name(&node.metadata),
        json!(state),
        or(Some(&roles.join(",")), "<none>"),
        age(&node.metadata, now),
        json!(info.kubelet_version),
        address("InternalIP"),
        address("ExternalIP"),
        or(Some(&info.os_image), "<unknown>"),
        json!(kernel),
        or(Some(&info.container_runtime_version), "<unknown>"),
    ]
}

pub fn event(event: &Event, now: jiff::Timestamp) -> Vec<Value> {
    let first_time = event.first_timestamp.as_ref().map(|time| time.0).or(event.event_time.as_ref().map(|time| time.0));
    let first = since(first_time, now);
    let mut last = event.last_timestamp.as_ref().map_or_else(|| first.clone(), |time| since(Some(time.0), now));
    let mut count = event.count.filter(|count| *count != 0).unwrap_or(1);
    if let Some(series) = &event.series {
        last = since(series.last_observed_time.as_ref().map(|time| time.0), now);
        count = series.count.unwrap_or(count);
    }
    let about = &event.involved_object;
    let kind = about.kind.as_deref().unwrap_or("").to_lowercase();
    let target = match about.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{kind}/{name}"),
        _ => kind,
    };
    let source = event.source.clone().unwrap_or_default();
    let component = source.component.or_else(|| event.reporting_component.clone()).unwrap_or_default();
    let host = source.host.or_else(|| event.reporting_instance.clone()).filter(|host| !host.is_empty());
    let source = host.map_or_else(|| component.clone(), |host| format!("{component}, {host}"));
    vec![
        json!(last),
        json!(event.type_.as_deref().unwrap_or("")),
        json!(event.reason.as_deref().unwrap_or("")),
        json!(target),
        json!(about.field_path.as_deref().unwrap_or("")),
        json!(source),
        json!(event.message.as_deref().unwrap_or("").trim()),
        json!(first),
        json!(count),
        name(&event.metadata),
    ]
}
