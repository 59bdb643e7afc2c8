//! From a line of time to a scenario's steps: first what must have been there before, then what was done, with its pauses.

mod ids;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::places::Places;
use super::timeline::{Call, Item, Timeline, What, text};
use super::{ImportError, Imported, Options, clean, infer};
use crate::invariants;
use crate::language::{API_VERSION, EngineName, Fault, Metadata, Op, Scenario, Span, Spec, Step, World, parse};

/// The longest wait after the last operation for what followed.
const AFTER: Duration = Duration::from_secs(3600);

type Key = (String, String, String);

pub(super) struct Builder {
    timeline: Timeline,
    places: Places,
    redact: bool,
    /// What must be there before the first operation.
    before: Vec<Value>,
    /// Ids of the field and the variables that stand for them.
    variables: BTreeMap<String, String>,
    /// Names in texts that look like variables and are none.
    plain: BTreeSet<String>,
    /// Objects that are there, and those that were there.
    there: BTreeSet<Key>,
    gone: BTreeSet<Key>,
    /// Volumes that were attached, or whose attaching the scenario has.
    attached: BTreeSet<String>,
    classes: BTreeSet<String>,
}

pub(super) fn build(mut timeline: Timeline, options: &Options) -> Result<Imported, ImportError> {
    let items = order(std::mem::take(&mut timeline.items));
    let (Some(first), Some(last)) = (items.first().map(|item| item.at), items.last().map(|item| item.at)) else {
        let left: Vec<String> = timeline.left_out.iter().map(|(why, count)| format!("{count} × {why}")).collect();
        return Err(ImportError::Nothing(if left.is_empty() { "they hold no operation".into() } else { left.join("; ") }));
    };
    timeline.items = items.clone();
    let places = Places::of(&mut timeline, options.redact);
    let created = |kind: &str| -> BTreeSet<String> {
        let objects = items.iter().filter_map(|item| if let What::Apply(object) = &item.what { Some(object) } else { None });
        objects.filter(|object| object["kind"] == kind).filter_map(|object| text(object, "/metadata/name").map(str::to_owned)).collect()
    };
    let (classes, namespaces) = (created("StorageClass"), created("Namespace"));
    let mut builder = Builder {
        timeline,
        places,
        redact: options.redact,
        before: Vec::new(),
        variables: BTreeMap::new(),
        plain: BTreeSet::new(),
        there: namespaces.into_iter().map(|name| ("Namespace".into(), String::new(), name)).collect(),
        gone: BTreeSet::new(),
        attached: BTreeSet::new(),
        classes,
    };
    let mut steps = Vec::new();
    let (mut now, mut operations, mut faults) = (first, 0, 0);
    for item in &items {
        let mut ops = builder.item(item);
        if ops.is_empty() {
            continue;
        }
        match &item.what {
            What::Fault(_) | What::Meets(_) => faults += 1,
            What::Say(_) => {}
            What::Call(_) | What::Apply(_) | What::Delete { .. } => operations += 1,
        }
        let pause = between(now, item.at);
        now = now.max(item.at);
        if !pause.is_zero() {
            ops.insert(0, json!({"sleep": Span(pause).to_string()}));
        }
        steps.push((format!("{} {}", item.at.strftime("%H:%M:%S"), title(item)), ops));
    }
    let seen_last = builder.timeline.seen.iter().map(|(at, _)| *at).max();
    let after = seen_last.map_or(Duration::ZERO, |seen| between(now, seen)).min(AFTER);
    if !after.is_zero() {
        steps.push(("what followed".into(), vec![json!({"sleep": Span(after).to_string()})]));
    }
    if options.expect {
        let wanted = builder.expected();
        if !wanted.is_empty() {
            steps.push(("the same warnings".into(), wanted));
        }
    }
    let before = std::mem::take(&mut builder.before);
    if !before.is_empty() {
        steps.insert(0, ("what was there before".into(), before));
    }
    let steps = steps.into_iter().map(|(name, ops)| step(name, ops)).collect::<Result<Vec<_>, _>>()?;
    let scenario = builder.scenario(steps, first, options);
    let Builder { timeline, .. } = builder;
    let imported = Imported {
        records: timeline.records,
        operations,
        faults,
        seconds: between(first, last).as_secs_f64(),
        seen: timeline.seen(),
        unknown: timeline.unknown.into_iter().collect(),
        left_out: timeline.left_out,
        scenario,
    };
    // What was made must be what people could have written.
    let wrong = |message: String| ImportError::File { file: options.name.clone(), message: format!("the scenario made of it: {message}") };
    let yaml = imported.to_yaml().map_err(|error| wrong(error.to_string()))?;
    parse(&options.name, &yaml).map_err(|error| wrong(error.to_string()))?;
    Ok(imported)
}

fn step(name: String, ops: Vec<Value>) -> Result<Step, ImportError> {
    let attempt: Result<Vec<Op>, _> = ops.into_iter().map(serde_json::from_value).collect();
    let attempt = attempt.map_err(|error| ImportError::Record { record: name.clone(), message: error.to_string() })?;
    Ok(Step { name, unless: None, attempt, catch: Vec::new(), finally: Vec::new() })
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// What meets calls stands before the operation that led to them.
fn order(items: Vec<Item>) -> Vec<Item> {
    let mut ordered: Vec<Item> = Vec::new();
    for mut item in items {
        let cause = match item.what {
            What::Meets(_) => ordered.iter().rposition(|item| matches!(item.what, What::Call(_) | What::Apply(_) | What::Delete { .. })),
            _ => None,
        };
        match cause {
            Some(place) => {
                item.at = ordered[place].at;
                ordered.insert(place, item);
            }
            None => ordered.push(item),
        }
    }
    ordered
}

/// A step's name: what is done, and which record says so.
fn title(item: &Item) -> String {
    let what = match &item.what {
        What::Call(call) => call.command.clone(),
        What::Apply(object) => {
            format!("{} {}", text(object, "/kind").unwrap_or_default(), text(object, "/metadata/name").unwrap_or_default())
        }
        What::Delete { kind, name, .. } => format!("delete {kind} {name}"),
        What::Fault(fault) | What::Meets(fault) => text(fault, "/actionId").unwrap_or_default().to_owned(),
        What::Say(_) => "refused".into(),
    };
    format!("{what} ({})", item.from)
}

impl Builder {
    fn scenario(&self, steps: Vec<Step>, first: Timestamp, options: &Options) -> Scenario {
        let world = (!self.places.nodes.is_empty()).then(|| World { nodes: self.places.nodes.clone(), ..World::default() });
        // What an incident left is no fault of it.
        let watched = invariants::NAMES.iter().filter(|name| **name != "no-leak").map(|name| (*name).to_owned()).collect();
        Scenario {
            api_version: API_VERSION.into(),
            kind: "Scenario".into(),
            metadata: Metadata { name: options.name.clone(), ..Metadata::default() },
            spec: Spec {
                description: format!("imported: what was done from {first} on, in its order and with its pauses"),
                source: "ebbtide import".into(),
                engines: Some(vec![EngineName::Sim]),
                not_in: Default::default(),
                needs: Default::default(),
                expect: None,
                seed: 0,
                world,
                // Texts that look like variables stay as they are.
                variables: self.plain.iter().map(|name| (name.clone(), json!(format!("${{{name}}}")))).collect(),
                steps,
                invariants: Some(watched),
            },
        }
    }

    /// The operations of an item; none: it is not played.
    fn item(&mut self, item: &Item) -> Vec<Value> {
        match &item.what {
            What::Call(call) => self.call(call, &item.from),
            What::Apply(object) => self.apply(object, &item.from),
            What::Delete { kind, namespace, name, grace } => self.delete(kind, namespace, name, *grace, &item.from),
            What::Fault(fault) | What::Meets(fault) => self.fault(fault, &item.from),
            What::Say(words) => vec![json!({"print": self.fill(&json!(words), &item.from)})],
        }
    }

    fn call(&mut self, call: &Call, from: &str) -> Vec<Value> {
        let parameter = |name: &str| call.parameters.get(name).and_then(Value::as_str).map(str::to_owned);
        if let ("attach-volume", Some(volume)) = (call.command.as_str(), parameter("VolumeId")) {
            self.attached.insert(volume);
        }
        if let ("detach-volume", Some(volume), None) = (call.command.as_str(), parameter("VolumeId"), &call.error)
            && self.attached.insert(volume.clone())
        {
            let instance = parameter("InstanceId").or_else(|| text(&call.response, "/instanceId").map(str::to_owned));
            let device = parameter("Device").or_else(|| text(&call.response, "/device").map(str::to_owned));
            self.attach_before(&volume, instance, device, from);
        }
        let mut parameters = Map::new();
        for (name, value) in &call.parameters {
            parameters.insert(name.clone(), self.fill(value, from));
        }
        if call.command == "create-mount-target" {
            let zone = text(&call.response, "/availabilityZoneName").map(|zone| self.places.zone(zone));
            if let Some(subnet) = parameter("SubnetId") {
                parameters.insert("SubnetId".into(), json!(self.subnet(&subnet, zone, from)));
            }
        }
        let mut aws = json!({"command": format!("{} {}", call.service, call.command), "with": parameters});
        match &call.error {
            Some(code) => aws["error"] = json!(code),
            None => {
                for (field, name) in [("/volumeId", "VolumeId"), ("/fileSystemId", "FileSystemId"), ("/mountTargetId", "MountTargetId")] {
                    let new = call.command.starts_with("create-") && !call.parameters.contains_key(name);
                    if let Some(id) = text(&call.response, field).filter(|_| new) {
                        aws["capture"] = json!({self.variable(id): name});
                    }
                }
            }
        }
        vec![json!({"aws": aws})]
    }

    fn key(kind: &str, namespace: &str, name: &str) -> Key {
        let namespaced =
            !["Namespace", "Node", "PersistentVolume", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"].contains(&kind);
        (kind.to_owned(), if namespaced { namespace.to_owned() } else { String::new() }, name.to_owned())
    }

    fn apply(&mut self, object: &Value, from: &str) -> Vec<Value> {
        let word = |at: &str| text(object, at).unwrap_or_default().to_owned();
        let (kind, namespace, name) = (word("/kind"), word("/metadata/namespace"), word("/metadata/name"));
        let Some((mut cleaned, left)) = clean::clean(object, self.redact) else {
            self.timeline.leave("audit: writes of things that do not matter to storage");
            return Vec::new();
        };
        if !left.is_empty() {
            self.timeline.unknown(from, format!("left out of {kind} {namespace}/{name}: {}", left.join(", ")));
        }
        let key = Self::key(&kind, &namespace, &name);
        let whole = kind == "Node" || self.there.contains(&key) || is_whole(&cleaned);
        if !whole {
            match infer::object(&kind, &namespace, &name) {
                Some(inferred) => self.assume(inferred, &format!("{kind} {namespace}/{name} was there before"), from),
                None => {
                    self.timeline.unknown(from, format!("{kind} {name} was there before, and what it was is not known; it is not changed"));
                    return Vec::new();
                }
            }
        }
        let mut ops = Vec::new();
        if self.gone.remove(&key) && !self.there.contains(&key) {
            let mut gone = json!({"kind": kind, "name": name, "deleted": true});
            if !key.1.is_empty() {
                gone["namespace"] = json!(namespace);
            }
            ops.push(json!({"wait": {"for": gone, "timeout": "10m"}}));
        }
        self.needs(&mut cleaned, from);
        self.there.insert(key);
        let filled = self.fill(&cleaned, from);
        ops.push(apply(&filled));
        ops
    }

    /// What an object needs to be there.
    fn needs(&mut self, object: &mut Value, from: &str) {
        let namespace = text(object, "/metadata/namespace").unwrap_or("default").to_owned();
        if !["default", "kube-system"].contains(&namespace.as_str())
            && self.there.insert(Self::key("Namespace", "", &namespace))
            && let Some(made) = infer::object("Namespace", "", &namespace)
        {
            self.before.insert(0, apply(&made));
        }
        match object["kind"].as_str() {
            Some("PersistentVolumeClaim") => {
                if let Some(class) = clean::class(object).filter(|class| self.classes.insert(class.clone())) {
                    let made = json!({
                        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
                        "provisioner": "ebs.csi.aws.com", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
                    });
                    self.timeline.unknown(from, format!("what StorageClass {class} is; assumed: EBS, gp3, made for the pod's zone"));
                    self.before.push(apply(&made));
                }
            }
            Some("Pod") => {
                for claim in clean::claims(object) {
                    if !self.there.contains(&Self::key("PersistentVolumeClaim", &namespace, &claim))
                        && let Some(made) = infer::object("PersistentVolumeClaim", &namespace, &claim)
                    {
                        self.assume(made, &format!("claim {namespace}/{claim} was there before"), from);
                    }
                }
                let pod = format!("{namespace}/{}", text(object, "/metadata/name").unwrap_or_default());
                let node = self.timeline.placed.get(&pod).and_then(|node| self.places.node(node));
                if let Some(node) = node {
                    object["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node.name]}]}],
                    }}});
                }
            }
            _ => {}
        }
    }

    /// Puts an object that nobody wrote before all else.
    fn assume(&mut self, mut object: Value, why: &str, from: &str) {
        self.timeline.unknown(from, format!("{why}; {}", infer::ASSUMED));
        self.needs(&mut object, from);
        let word = |at: &str| text(&object, at).unwrap_or_default().to_owned();
        self.there.insert(Self::key(&word("/kind"), &word("/metadata/namespace"), &word("/metadata/name")));
        if let Some((cleaned, _)) = clean::clean(&object, self.redact) {
            self.before.push(apply(&cleaned));
        }
    }

    fn delete(&mut self, kind: &str, namespace: &str, name: &str, grace: Option<u32>, from: &str) -> Vec<Value> {
        let key = Self::key(kind, namespace, name);
        if !self.there.remove(&key) {
            let made = infer::object(kind, namespace, name).filter(|_| kind != "Namespace");
            let Some(made) = made else {
                self.timeline.unknown(from, format!("{kind} {name} was there before, and what it was is not known; it is not deleted"));
                return Vec::new();
            };
            self.assume(made, &format!("{kind} {namespace}/{name} was there before"), from);
            self.there.remove(&key);
        }
        self.gone.insert(key.clone());
        let mut delete = json!({"kind": kind, "name": name, "timeout": "0s", "ignoreNotFound": true});
        if !key.1.is_empty() {
            delete["namespace"] = json!(namespace);
        }
        if let Some(grace) = grace {
            delete["gracePeriodSeconds"] = json!(grace);
        }
        vec![json!({"delete": delete})]
    }

    fn fault(&mut self, fault: &Value, from: &str) -> Vec<Value> {
        let mut fault = fault.clone();
        if let Some(node) = fault["node"].as_str() {
            let Some(node) = self.places.node(node).map(|node| node.name.clone()) else { return Vec::new() };
            fault["node"] = json!(node);
        }
        match Fault::try_from(fault.clone()) {
            Ok(_) => vec![json!({"fault": fault})],
            Err(error) => {
                self.timeline.unknown(from, format!("a failure that cannot be a fault: {error}"));
                Vec::new()
            }
        }
    }

    /// The warnings of pods and claims, each once.
    fn expected(&self) -> Vec<Value> {
        let told = self.timeline.seen.iter().map(|(_, told)| told).filter(|told| told.warning);
        let told = told.filter(|told| ["Pod", "PersistentVolumeClaim"].contains(&told.kind.as_str()));
        let once: BTreeSet<_> = told.map(|told| (&told.reason, &told.kind, &told.namespace, &told.name)).collect();
        let event = |(reason, kind, namespace, name)| {
            let object = json!({"kind": kind, "name": name});
            json!({"kind": "Event", "metadata": {"namespace": namespace}, "reason": reason, "type": "Warning", "involvedObject": object})
        };
        once.into_iter().map(|told| json!({"assert": {"resource": event(told), "within": "10m"}})).collect()
    }
}

fn apply(object: &Value) -> Value {
    json!({"apply": {"manifests": serde_yaml::to_string(object).unwrap_or_default()}})
}

/// Whether an object is all of it, and not only what is changed.
fn is_whole(object: &Value) -> bool {
    match object["kind"].as_str() {
        Some("Pod") => object.pointer("/spec/containers").is_some(),
        Some("PersistentVolumeClaim" | "PersistentVolume") => object.pointer("/spec/accessModes").is_some(),
        Some("StorageClass") => object.get("provisioner").is_some(),
        Some("VolumeAttributesClass") => object.get("driverName").is_some(),
        Some("Namespace") => true,
        _ => object.pointer("/spec/template").is_some(),
    }
}
