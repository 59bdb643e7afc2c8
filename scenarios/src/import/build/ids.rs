//! Ids of the field: variables that the scenario captures where it makes the thing, or finds it in the world.

use serde_json::{Map, Value, json};

use super::Builder;
use crate::import::places::{is_id, words};
use crate::import::timeline::{What, text};

impl Builder {
    /// The variable that stands for an id.
    pub(super) fn variable(&mut self, id: &str) -> String {
        let prefix = id.split('-').next().unwrap_or("id");
        let number = self.variables.keys().filter(|known| known.split('-').next() == Some(prefix)).count() + 1;
        self.variables.entry(id.to_owned()).or_insert_with(|| format!("{prefix}_{number}")).clone()
    }

    /// A value with the world's names for zones and nodes, and variables for ids.
    pub(super) fn fill(&mut self, value: &Value, from: &str) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill_text(text, from)),
            Value::Array(items) => items.iter().map(|item| self.fill(item, from)).collect(),
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), self.fill(value, from))).collect::<Map<_, _>>().into()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }

    fn fill_text(&mut self, text: &str, from: &str) -> String {
        self.plain.extend(crate::variables::used(&json!(text)));
        if let Some(node) = self.places.node(text).filter(|_| !is_id(text)) {
            return node.name.clone();
        }
        let mut filled = String::with_capacity(text.len());
        for word in words(text) {
            match self.places.zone_word(word) {
                Some(zone) => filled.push_str(zone),
                None if is_id(word) => match self.resolve(word, from) {
                    Some(variable) => filled.push_str(&format!("${{{variable}}}")),
                    None => filled.push_str(word),
                },
                None => filled.push_str(word),
            }
        }
        filled
    }

    /// The variable of an id; what it names is made before all else when the records do not make it.
    fn resolve(&mut self, id: &str, from: &str) -> Option<String> {
        if let Some(variable) = self.variables.get(id) {
            return Some(variable.clone());
        }
        match id.split('-').next()? {
            "vol" => Some(self.volume_before(id, from)),
            "i" => self.instance(id, from),
            "fs" => Some(self.file_system_before(id, from)),
            _ => {
                self.timeline.unknown(from, format!("what {id} is; nothing stands for it"));
                None
            }
        }
    }

    fn instance(&mut self, id: &str, from: &str) -> Option<String> {
        let Some(node) = self.places.node(id).map(|node| node.name.clone()) else {
            self.timeline.unknown(from, format!("which machine {id} is; nothing stands for it"));
            return None;
        };
        let variable = self.variable(id);
        let resource = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": node}});
        self.before.push(json!({"assert": {"resource": resource, "capture": {&variable: "spec/drivers/0/nodeID"}, "within": "1m"}}));
        Some(variable)
    }

    fn volume_before(&mut self, id: &str, from: &str) -> String {
        // A PersistentVolume that names it says how large it is; a call that attaches it, where.
        let capacity = self.timeline.items.iter().find_map(|item| match &item.what {
            What::Apply(object) if text(object, "/spec/csi/volumeHandle") == Some(id) => text(object, "/spec/capacity/storage"),
            _ => None,
        });
        let size = capacity.and_then(|text| text.strip_suffix("Gi")?.parse::<u32>().ok()).unwrap_or(1);
        let instance = self.timeline.items.iter().find_map(|item| match &item.what {
            What::Call(call) if call.parameters.get("VolumeId").and_then(Value::as_str) == Some(id) => {
                call.parameters.get("InstanceId")?.as_str().map(str::to_owned)
            }
            _ => None,
        });
        let zone =
            instance.and_then(|instance| Some(self.places.node(&instance)?.zone.clone())).unwrap_or_else(|| self.places.first_zone());
        self.timeline.unknown(from, format!("{id} was there before; assumed: {size} GiB, gp3, in {zone}, empty"));
        let variable = self.variable(id);
        self.before.push(json!({"aws": {
            "command": "ec2 create-volume", "with": {"Size": size, "AvailabilityZone": zone, "VolumeType": "gp3"},
            "capture": {&variable: "VolumeId"},
        }}));
        let ready = json!({"Volumes": [{"State": "available"}]});
        let with = json!({"VolumeIds": [format!("${{{variable}}}")]});
        self.before.push(json!({"aws": {"command": "ec2 describe-volumes", "with": with, "expect": ready, "within": "2m"}}));
        variable
    }

    /// A volume that is detached, and that nobody attached in the records.
    pub(super) fn attach_before(&mut self, volume: &str, instance: Option<String>, device: Option<String>, from: &str) {
        let Some(instance) = instance.and_then(|instance| self.resolve(&instance, from)) else {
            self.timeline.unknown(from, format!("to which machine {volume} was attached; it is not"));
            return;
        };
        let made_before = !self.variables.contains_key(volume);
        let Some(volume) = self.resolve(volume, from).filter(|_| made_before) else { return };
        let device = device.unwrap_or_else(|| "/dev/xvdba".into());
        let with = json!({"VolumeId": format!("${{{volume}}}"), "InstanceId": format!("${{{instance}}}"), "Device": device});
        self.before.push(json!({"aws": {"command": "ec2 attach-volume", "with": with}}));
        let with = json!({"VolumeIds": [format!("${{{volume}}}")]});
        let ready = json!({"Volumes": [{"Attachments": [{"State": "attached"}]}]});
        self.before.push(json!({"aws": {"command": "ec2 describe-volumes", "with": with, "expect": ready, "within": "2m"}}));
    }

    fn file_system_before(&mut self, id: &str, from: &str) -> String {
        self.timeline.unknown(from, format!("{id} was there before; assumed: empty, without mount targets but those of the records"));
        let variable = self.variable(id);
        self.before.push(json!({"aws": {
            "command": "efs create-file-system", "with": {"CreationToken": id}, "capture": {&variable: "FileSystemId"},
        }}));
        let ready = json!({"FileSystems": [{"LifeCycleState": "available"}]});
        let with = json!({"FileSystemId": format!("${{{variable}}}")});
        self.before.push(json!({"aws": {"command": "efs describe-file-systems", "with": with, "expect": ready, "within": "2m"}}));
        variable
    }

    /// A subnet of the world in the zone of the field's.
    pub(super) fn subnet(&mut self, id: &str, zone: Option<String>, from: &str) -> String {
        if let Some(variable) = self.variables.get(id) {
            return format!("${{{variable}}}");
        }
        let zone = zone.unwrap_or_else(|| {
            let zone = self.places.first_zone();
            self.timeline.unknown(from, format!("in which zone {id} is; assumed: {zone}"));
            zone
        });
        let variable = self.variable(id);
        let filters = json!([{"Name": "availability-zone", "Values": [zone]}]);
        self.before.push(json!({"aws": {
            "command": "ec2 describe-subnets", "with": {"Filters": filters}, "capture": {&variable: "Subnets/0/SubnetId"},
        }}));
        format!("${{{variable}}}")
    }
}
