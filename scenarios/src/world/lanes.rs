//! The story's lanes: whose thing happened, and what it is after it.

use std::collections::BTreeMap;

use model_common::csi::ControllerCall;
use model_kube::events::{EventRecord, EventType};
use model_kube::write::Write;
use model_node::driver::cloud::CloudCall;
use serde_json::Value;

use super::story::lane_of;
use super::trouble::Actor;
use super::{Told, Which, World};

fn driver(which: Which) -> &'static str {
    match which {
        Which::Ebs => "ebs",
        Which::Efs => "efs",
    }
}

impl World {
    fn controller_lane(&self, number: usize) -> String {
        let controller = &self.controllers[number];
        let beside = controller.driver.map(|which| format!(" ({})", driver(which))).unwrap_or_default();
        format!("controller {}{beside}", controller.machine.name())
    }

    /// A process starts, ends, is paused or goes on.
    pub(super) fn trace_actor(&mut self, actor: Actor, what: &str, state: &str) {
        self.trace(|world| {
            let lane = match actor {
                Actor::Controller(number) => world.controller_lane(number),
                Actor::Driver(which) => format!("controller {}-csi-controller", driver(which)),
                Actor::Kubelet(number) => format!("kubelet {}", world.nodes[number].info.name),
                Actor::Plugin(number, which) => format!("{}-csi-node {}", driver(which), world.nodes[number].info.name),
            };
            Told::new(lane, what).state(state)
        });
    }

    /// A machine loses or gets power or network.
    pub(super) fn trace_machine(&mut self, number: usize, what: &str, state: &str) {
        self.trace(|world| Told::new(format!("node {}", world.nodes[number].info.name), what).state(state));
    }

    pub(super) fn trace_call(&mut self, number: usize, call: &ControllerCall) {
        self.trace(|world| Told::new(world.controller_lane(number), format!("calls {} {}", call.name(), call.subject())));
    }

    pub(super) fn trace_answer(&mut self, number: usize, name: &str, error: Option<&model_common::csi::Error>) {
        self.trace(|world| {
            let outcome = error.map_or_else(|| "done".to_owned(), ToString::to_string);
            Told::new(world.controller_lane(number), format!("{name}: {outcome}")).failed(error.is_some())
        });
    }

    pub(super) fn trace_write(&mut self, number: usize, write: &Write) {
        self.trace(|world| {
            let verb = match write {
                Write::Create { .. } => "creates",
                Write::Update { .. } => "updates",
                Write::Patch { .. } => "patches",
                Write::Delete { .. } => "deletes",
                Write::Bind { .. } => "binds",
                Write::Scale { .. } => "scales",
            };
            let node = if let Write::Bind { node, .. } = write { format!(" to {node}") } else { String::new() };
            Told::new(world.controller_lane(number), format!("{verb} {}{node}", lane_of(&write.key())))
        });
    }

    /// A controller's write did not go through.
    pub(super) fn trace_refusal(&mut self, number: usize, error: &model_kube::write::ApiError) {
        self.trace(|world| Told::new(world.controller_lane(number), format!("write refused: {error}")).failed(true));
    }

    /// An Event about an object, on the object's lane.
    pub(super) fn trace_record(&mut self, record: &EventRecord) {
        self.trace(|_| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let object = &record.regarding;
            let name = match &object.namespace {
                Some(namespace) if !namespace.is_empty() => format!("{namespace}/{}", text(&object.name)),
                _ => text(&object.name),
            };
            let warning = record.event_type == EventType::Warning;
            let sign = if warning { "Warning " } else { "" };
            Told::new(format!("{} {name}", text(&object.kind)), format!("{sign}{}: {}", record.reason, record.message)).failed(warning)
        });
    }

    /// What became of a volume's attachments, each on a lane of its own.
    pub(super) fn trace_attachments(&mut self, volume: &str, now: &BTreeMap<String, &'static str>) {
        if self.story.is_none() {
            return;
        }
        let before = self.attachments.get(volume).cloned().unwrap_or_default();
        let gone = before.keys().filter(|instance| !now.contains_key(*instance)).map(|instance| (instance.clone(), "detached"));
        let new = now.iter().filter(|(instance, state)| before.get(*instance) != Some(*state)).map(|(i, state)| (i.clone(), *state));
        for (instance, state) in gone.chain(new) {
            self.trace(|world| {
                let node = world.nodes.iter().find(|node| node.info.instance_id == instance);
                let node = node.map(|node| format!(" ({})", node.info.name)).unwrap_or_default();
                let after = if state == "detached" { "" } else { state };
                Told::new(format!("attachment {volume} {instance}{node}"), state).state(after)
            });
        }
    }
}

/// The first thing that a call to AWS names, for people: an id where there is one.
pub(super) fn subject(call: &CloudCall) -> String {
    let json = serde_json::to_value(call).unwrap_or_default();
    let fields: Vec<&Value> = json.as_object().into_iter().flat_map(serde_json::Map::values).collect();
    let mut names = Vec::new();
    for field in fields {
        match field {
            Value::Object(fields) => names.extend(fields.iter().filter(|(name, _)| name.ends_with("_id")).map(|(_, value)| value)),
            Value::String(_) => names.push(field),
            _ => {}
        }
    }
    names.into_iter().filter_map(Value::as_str).map(|name| format!(" {name}")).collect()
}
