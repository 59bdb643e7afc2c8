//! The names of the field and those of the scenario's world: zones, nodes, and ids that become variables.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::timeline::{Machine, Timeline, What, text};
use crate::language::WorldNode;

/// The zones of a scenario's world.
const ZONES: [&str; 3] = ["us-east-1a", "us-east-1b", "us-east-1c"];

/// The prefixes of ids that a scenario may have to make.
const PREFIXES: [&str; 8] = ["vol", "i", "fs", "fsap", "fsmt", "subnet", "sg", "snap"];

#[derive(Debug, Default)]
pub(super) struct Places {
    zones: BTreeMap<String, String>,
    pub(super) nodes: Vec<WorldNode>,
    /// The number of a node, by whatever the records call it.
    names: BTreeMap<String, usize>,
}

/// An id of AWS inside a text.
pub(super) fn is_id(word: &str) -> bool {
    let Some((prefix, rest)) = word.split_once('-') else { return false };
    PREFIXES.contains(&prefix) && rest.len() >= 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `eu-west-1b`.
fn is_zone(word: &str) -> bool {
    let Some((region, last)) = word.rsplit_once('-') else { return false };
    let digits = last.trim_end_matches(|c: char| c.is_ascii_lowercase());
    last.len() == digits.len() + 1
        && !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && region.contains('-')
        && region.split('-').all(|part| part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// The words of a text in which ids and zones can be, and what is between them.
pub(super) fn words(text: &str) -> Vec<&str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| inside(c) != inside(first)).unwrap_or(rest.len());
        words.push(&rest[..end]);
        rest = &rest[end..];
    }
    words
}

/// All texts of a value.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Places {
    pub(super) fn of(timeline: &mut Timeline, redact: bool) -> Self {
        let mut this = Self::default();
        zones_by_volume(timeline);
        let machines = std::mem::take(&mut timeline.machines);
        let mut found: Vec<String> = machines.iter().filter_map(|machine| machine.zone.clone()).collect();
        for item in &timeline.items {
            match &item.what {
                What::Call(call) => texts(&Value::Object(call.parameters.clone()), &mut found),
                What::Apply(object) => texts(object, &mut found),
                _ => {}
            }
        }
        let zones: BTreeSet<&str> = found.iter().flat_map(|text| words(text)).filter(|word| is_zone(word)).collect();
        for (number, zone) in zones.iter().enumerate() {
            let same = zones.iter().all(|zone| ZONES.contains(zone));
            let mapped = if same { zone } else { ZONES[number.min(ZONES.len() - 1)] };
            this.zones.insert((*zone).to_owned(), mapped.to_owned());
        }
        if zones.len() > ZONES.len() {
            timeline.unknown("", format!("the records have {} zones, a scenario's world {}: the rest are one", zones.len(), ZONES.len()));
        }
        for machine in machines {
            this.add(machine, redact, timeline);
        }
        this
    }

    fn add(&mut self, machine: Machine, redact: bool, timeline: &mut Timeline) {
        let number = self.nodes.len();
        let called = machine.node.clone().or_else(|| machine.instance.clone()).unwrap_or_default();
        let name = if redact { format!("node-{}", number + 1) } else { called.clone() };
        let zone = match &machine.zone {
            Some(zone) => self.zone(zone),
            None => {
                let zone = self.zones.values().next().map_or(ZONES[0], String::as_str).to_owned();
                timeline.unknown("", format!("in which zone {name} was; assumed: {zone}"));
                zone
            }
        };
        if machine.node.is_some() != machine.instance.is_some() && self.names.len() > 1 {
            timeline.unknown("", format!("which {} is {name}", if machine.node.is_some() { "instance" } else { "node" }));
        }
        let known = machine.instance_type.filter(|name| model_aws::ec2::InstanceType::find(name).is_some());
        self.nodes.push(WorldNode { name, zone, instance_type: known.unwrap_or_else(|| "m5.large".into()) });
        for name in [machine.node, machine.instance].into_iter().flatten() {
            self.names.insert(name, number);
        }
    }

    pub(super) fn zone(&self, zone: &str) -> String {
        self.zones.get(zone).cloned().unwrap_or_else(|| ZONES[0].to_owned())
    }

    /// The zone where nothing says which.
    pub(super) fn first_zone(&self) -> String {
        self.nodes.first().map_or_else(|| ZONES[0].to_owned(), |node| node.zone.clone())
    }

    pub(super) fn node(&self, name: &str) -> Option<&WorldNode> {
        self.names.get(name).map(|number| &self.nodes[*number])
    }

    /// A word's name in the world, when it is the name of a zone or, as the whole text, of a node.
    pub(super) fn zone_word(&self, word: &str) -> Option<&str> {
        self.zones.get(word).map(String::as_str)
    }
}

/// A machine is in the zone of the volumes that were attached to it.
fn zones_by_volume(timeline: &mut Timeline) {
    let mut zones = BTreeMap::new();
    let mut found = Vec::new();
    for item in &timeline.items {
        let What::Call(call) = &item.what else { continue };
        let parameter = |name: &str| call.parameters.get(name).and_then(Value::as_str).map(str::to_owned);
        if let (Some(volume), Some(zone)) = (text(&call.response, "/volumeId"), parameter("AvailabilityZone")) {
            zones.insert(volume.to_owned(), zone);
        }
        if let (Some(volume), Some(instance), None) = (parameter("VolumeId"), parameter("InstanceId"), &call.error)
            && let Some(zone) = zones.get(&volume)
        {
            found.push(Machine { instance: Some(instance), zone: Some(zone.clone()), ..Machine::default() });
        }
    }
    found.into_iter().for_each(|machine| timeline.machine(machine));
}
