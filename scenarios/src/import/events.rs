//! Kubernetes events (users.md §6.2): failures of drivers become faults; without an audit log, pods and claims follow from what was told.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::ImportError;
use super::infer;
use super::read::Record;
use super::timeline::{Machine, Timeline, What, text, time};
use crate::language::code_of;

/// An event, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub warning: bool,
    pub reason: String,
    pub message: String,
    /// How often until its last time.
    pub count: u64,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, name, reason, message, count, .. } = self;
        let sign = if self.warning { "Warning " } else { "" };
        let times = if *count > 1 { format!(" (×{count})") } else { String::new() };
        write!(f, "{sign}{kind}/{name} {reason}{times}: {message}")
    }
}

/// Which call of a driver an event's failure was of: reason, a part of the message, the call, and the call to AWS behind it.
const CALLS: [(&str, &str, &str, &str); 7] = [
    ("FailedAttachVolume", "", "ControllerPublishVolume", "AttachVolume"),
    ("FailedMount", "MountVolume.MountDevice", "NodeStageVolume", ""),
    ("FailedMount", "MountVolume.SetUp", "NodePublishVolume", ""),
    ("FailedMapVolume", "", "NodeStageVolume", ""),
    ("ProvisioningFailed", "", "CreateVolume", "CreateVolume"),
    ("VolumeResizeFailed", "", "ControllerExpandVolume", "ModifyVolume"),
    ("FileSystemResizeFailed", "", "NodeExpandVolume", ""),
];

struct Event<'a> {
    record: &'a Record,
    at: Timestamp,
    told: Told,
    uid: String,
    host: Option<&'a str>,
}

pub(super) fn read(records: &[Record], timeline: &mut Timeline) -> Result<(), ImportError> {
    let mut events = records.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    events.sort_by_key(|event| event.at);
    for event in &events {
        place(event, timeline);
    }
    let links = links(&events);
    if timeline.audited {
        let mut items = std::mem::take(&mut timeline.items);
        let claims: BTreeSet<_> = items.iter().filter_map(|item| named(&item.what, "PersistentVolumeClaim")).collect();
        for item in &mut items {
            if let Some(pod) = named(&item.what, "Pod")
                && let What::Apply(object) = &mut item.what
                && infer::is_inferred(object)
            {
                mount(object, &pod, &links, &claims, &item.from, timeline);
            }
        }
        timeline.items = items;
    } else {
        objects(&events, &links, timeline);
    }
    for event in &events {
        trouble(event, timeline);
    }
    timeline.seen = events.into_iter().map(|event| (event.at, event.told)).collect();
    Ok(())
}

fn event(record: &Record) -> Result<Event<'_>, ImportError> {
    let json = &record.json;
    // The first non-empty of the two APIs' names.
    let firsts = ["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"];
    let at = match time(record, &firsts) {
        Ok(at) => at,
        Err(error) => text(json, "/metadata/creationTimestamp").and_then(|text| text.parse().ok()).ok_or(error)?,
    };
    let object = json.get("involvedObject").or_else(|| json.get("regarding")).unwrap_or(&Value::Null);
    let word = |name: &str| text(object, name).unwrap_or_default().to_owned();
    let count = ["/count", "/deprecatedCount", "/series/count"].into_iter().find_map(|at| json.pointer(at)?.as_u64()).unwrap_or(1);
    let told = Told {
        kind: word("/kind"),
        namespace: word("/namespace"),
        name: word("/name"),
        warning: json["type"] == json!("Warning"),
        reason: text(json, "/reason").unwrap_or_default().to_owned(),
        message: text(json, "/message").or_else(|| text(json, "/note")).unwrap_or_default().to_owned(),
        count,
    };
    if told.kind.is_empty() || told.reason.is_empty() {
        let message = "an event without the object that it is about, or without a reason".into();
        return Err(ImportError::Record { record: record.from.clone(), message });
    }
    let kubelet = [text(json, "/source/component"), text(json, "/deprecatedSource/component"), text(json, "/reportingComponent")];
    let host = [text(json, "/source/host"), text(json, "/deprecatedSource/host"), text(json, "/reportingInstance")];
    let host = kubelet.contains(&Some("kubelet")).then(|| host.into_iter().flatten().next()).flatten();
    Ok(Event { record, at, told, uid: word("/uid"), host })
}

/// Where a pod ran.
fn place(event: &Event<'_>, timeline: &mut Timeline) {
    let told = &event.told;
    if told.kind == "Node" {
        timeline.machine(Machine { node: Some(told.name.clone()), ..Machine::default() });
    }
    let assigned = (told.reason == "Scheduled").then(|| told.message.rsplit_once(" to ").map(|(_, node)| node.trim())).flatten();
    let Some(node) = assigned.or(event.host).filter(|node| !node.is_empty()) else { return };
    timeline.machine(Machine { node: Some(node.to_owned()), ..Machine::default() });
    if told.kind == "Pod" {
        timeline.placed.entry(format!("{}/{}", told.namespace, told.name)).or_insert_with(|| node.to_owned());
    }
}

type Pod = (String, String);

/// Which claims a pod uses, as far as events tell: by the name of the volume that was attached, of the claim, or of the pod.
fn links(events: &[Event<'_>]) -> BTreeMap<Pod, BTreeSet<String>> {
    let mut volumes = BTreeMap::new();
    for event in events.iter().filter(|event| event.told.kind == "PersistentVolumeClaim" && !event.uid.is_empty()) {
        volumes.insert(format!("pvc-{}", event.uid), event.told.name.clone());
    }
    let mut links: BTreeMap<Pod, BTreeSet<String>> = BTreeMap::new();
    for Event { told, .. } in events {
        let mut link = |pod: &str, claim: &str| {
            links.entry((told.namespace.clone(), pod.to_owned())).or_default().insert(claim.to_owned());
        };
        match told.kind.as_str() {
            "Pod" => {
                for word in told.message.split('"').skip(1).step_by(2) {
                    if let Some(claim) = volumes.get(word) {
                        link(&told.name, claim);
                    }
                }
                if let Some((_, rest)) = told.message.split_once("persistentvolumeclaim \"") {
                    link(&told.name, rest.split('"').next().unwrap_or_default());
                }
            }
            "PersistentVolumeClaim" if told.reason == "WaitForPodScheduled" => {
                if let Some(pod) = told.message.strip_prefix("waiting for pod ").and_then(|rest| rest.split(' ').next()) {
                    link(pod, &told.name);
                }
            }
            _ => {}
        }
    }
    links
}

fn named(what: &What, kind: &str) -> Option<Pod> {
    let What::Apply(object) = what else { return None };
    let word = |at: &str| text(object, at).unwrap_or_default().to_owned();
    (word("/kind") == kind).then(|| (word("/metadata/namespace"), word("/metadata/name")))
}

/// Gives a pod the claims that it had, or, where nobody tells, those that are named after it, or the only one.
fn mount(
    object: &mut Value,
    pod: &Pod,
    links: &BTreeMap<Pod, BTreeSet<String>>,
    claims: &BTreeSet<Pod>,
    from: &str,
    timeline: &mut Timeline,
) {
    if let Some(linked) = links.get(pod) {
        return infer::mount(object, &linked.iter().cloned().collect::<Vec<_>>());
    }
    let near: Vec<&String> = claims.iter().filter(|(namespace, _)| *namespace == pod.0).map(|(_, claim)| claim).collect();
    let own = format!("-{}", pod.1);
    let named: Vec<String> = near.iter().filter(|claim| claim.ends_with(&own)).map(|claim| (*claim).clone()).collect();
    let assumed = if named.is_empty() && near.len() == 1 { vec![near[0].clone()] } else { named };
    let what = if assumed.is_empty() { "assumed: none".to_owned() } else { format!("assumed: {}", assumed.join(", ")) };
    timeline.unknown(from, format!("which claims pod {}/{} used; {what}", pod.0, pod.1));
    infer::mount(object, &assumed);
}

/// Pods and claims as events tell of them, where no audit log says more.
fn objects(events: &[Event<'_>], links: &BTreeMap<Pod, BTreeSet<String>>, timeline: &mut Timeline) {
    let mut made: BTreeSet<(&str, Pod)> = BTreeSet::new();
    let mut claims: BTreeSet<Pod> = links.iter().flat_map(|((ns, _), claims)| claims.iter().map(|c| (ns.clone(), c.clone()))).collect();
    claims
        .extend(events.iter().filter(|e| e.told.kind == "PersistentVolumeClaim").map(|e| (e.told.namespace.clone(), e.told.name.clone())));
    for event in events {
        let Told { kind, namespace, name, reason, .. } = &event.told;
        let Some(kind) = ["Pod", "PersistentVolumeClaim"].into_iter().find(|known| known == kind) else { continue };
        let from = event.record.from.as_str();
        let who = (namespace.clone(), name.clone());
        if reason == "Killing" {
            if made.remove(&(kind, who)) {
                let what = What::Delete { kind, namespace: namespace.clone(), name: name.clone(), grace: None };
                timeline.unknown(from, format!("why {kind} {namespace}/{name} was stopped; assumed: somebody deleted it"));
                timeline.push(event.at, "", from, what);
            }
            continue;
        }
        let mut wanted = vec![(kind, who.clone())];
        if kind == "Pod" {
            let claims = links.get(&who).into_iter().flatten();
            wanted.splice(0..0, claims.map(|claim| ("PersistentVolumeClaim", (namespace.clone(), claim.clone()))));
        }
        for (kind, who) in wanted {
            if !made.insert((kind, who.clone())) {
                continue;
            }
            let Some(mut object) = infer::object(kind, &who.0, &who.1) else { continue };
            timeline.unknown(from, format!("what {kind} {}/{} was; {}", who.0, who.1, infer::ASSUMED));
            if kind == "Pod" {
                mount(&mut object, &who, links, &claims, from, timeline);
            }
            // A claim before the pod that it came with.
            timeline.push(event.at, if kind == "Pod" { "b" } else { "a" }, from, What::Apply(object));
        }
    }
}

/// Failures that have no cause in the world, as faults.
fn trouble(event: &Event<'_>, timeline: &mut Timeline) {
    let (told, from) = (&event.told, event.record.from.as_str());
    let caused = |timeline: &Timeline, node: &str| {
        let machine = timeline.machines.iter().find(|machine| machine.node.as_deref() == Some(node));
        let names = [Some(node), machine.and_then(|machine| machine.instance.as_deref())];
        timeline.items.iter().any(|item| match &item.what {
            What::Fault(fault) => item.at <= event.at && names.contains(&fault["node"].as_str()) && fault["actionId"] != "local:heal",
            _ => false,
        })
    };
    match (told.kind.as_str(), told.reason.as_str()) {
        ("Node", "NodeNotReady") if !caused(timeline, &told.name) => {
            timeline.unknown(from, format!("why node {} was not ready; assumed: it did not reach the API server", told.name));
            timeline.push(event.at, "", from, What::Fault(json!({"actionId": "local:partition", "node": told.name})));
        }
        ("Node", "NodeReady") if caused(timeline, &told.name) => {
            timeline.push(event.at, "", from, What::Fault(json!({"actionId": "local:heal", "node": told.name})));
        }
        ("Node", "Rebooted") if !caused(timeline, &told.name) => {
            timeline.push(event.at, "", from, What::Fault(json!({"actionId": "aws:ec2:reboot-instances", "node": told.name})));
        }
        (_, reason) => {
            let call = CALLS.iter().find(|(known, part, ..)| *known == reason && told.message.contains(part));
            let code = told.message.split_once("rpc error: code = ").and_then(|(_, rest)| rest.split([' ', ',', ';']).next());
            let (Some((_, _, call, operation)), Some(code)) = (call, code) else { return };
            // Aborted is a driver's answer to a second call for one volume: the world's drivers give it by themselves.
            if code == "Aborted" || code_of(code).is_err() {
                return;
            }
            let told_by_aws = timeline.items.iter().any(|item| match &item.what {
                What::Meets(fault) => !operation.is_empty() && fault["operation"] == *operation,
                _ => false,
            });
            if !told_by_aws {
                let mut fault = json!({"actionId": "local:rpc", "call": call, "code": code, "count": told.count});
                if call.starts_with("Node")
                    && let Some(node) = timeline.placed.get(&format!("{}/{}", told.namespace, told.name))
                {
                    fault["node"] = json!(node);
                }
                timeline.unknown(from, format!("why {call} failed with {code}; played as a fault of as many calls"));
                timeline.push(event.at, "", from, What::Meets(fault));
            }
        }
    }
}
