//! All records on one line of time: who did what, and what the world's own parts said of it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::read::{Form, Record};
use super::{ImportError, Options, Seen, Unknown, audit, cloudtrail, events};

/// Something to be done, at its time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub at: Timestamp,
    /// Orders what has one time: the request's id.
    pub tie: String,
    /// The record.
    pub from: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Call(Call),
    Apply(Value),
    Delete {
        kind: &'static str,
        namespace: String,
        name: String,
        grace: Option<u32>,
    },
    /// Trouble at its time: a machine stops.
    Fault(Value),
    /// Trouble that meets what the operation before it led to.
    Meets(Value),
    Say(String),
}

/// A call to AWS.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    /// `ec2` or `efs`.
    pub service: &'static str,
    /// `create-volume`.
    pub command: String,
    /// As the aws CLI takes them.
    pub parameters: Map<String, Value>,
    pub response: Value,
    pub error: Option<String>,
}

/// A machine, by whatever the records call it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Machine {
    pub node: Option<String>,
    pub instance: Option<String>,
    pub zone: Option<String>,
    pub instance_type: Option<String>,
}

/// The records, sorted out.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub items: Vec<Item>,
    pub machines: Vec<Machine>,
    /// On which node a pod ran, by `namespace/name`.
    pub placed: BTreeMap<String, String>,
    pub records: usize,
    pub unknown: BTreeSet<Unknown>,
    pub left_out: BTreeMap<String, usize>,
    pub seen: Vec<(Timestamp, events::Told)>,
    /// There is an audit log: what the drivers did at AWS follows from the objects in it.
    pub audited: bool,
}

impl Timeline {
    pub(super) fn of(records: Vec<Record>, options: &Options) -> Result<Self, ImportError> {
        let mut this = Self { audited: records.iter().any(|record| record.form == Form::Audit), ..Self::default() };
        let mut known = BTreeSet::new();
        let mut told = Vec::new();
        for mut record in records {
            // Delivered at least once (§6.1).
            let id = ["eventID", "auditID", "id"].iter().find_map(|name| record.json.get(*name)?.as_str());
            let stage = record.json.get("stage").and_then(Value::as_str).unwrap_or_default();
            if id.is_some_and(|id| !known.insert(format!("{id} {stage}"))) {
                this.leave("records that were delivered twice");
                continue;
            }
            this.records += 1;
            if options.redact {
                super::redact::value(&mut record.json);
            }
            match record.form {
                Form::CloudTrail => cloudtrail::read(&record, &mut this)?,
                Form::Audit => audit::read(&record, &mut this)?,
                Form::Event => told.push(record),
                Form::Notice => this.leave("notices of EventBridge, which tell what came of calls"),
            }
        }
        // Last: what events are taken for depends on what the audit log has.
        events::read(&told, &mut this)?;
        this.items.sort_by(|a, b| (a.at, rank(&a.what), &a.tie).cmp(&(b.at, rank(&b.what), &b.tie)));
        this.seen.sort_by_key(|(at, _)| *at);
        Ok(this)
    }

    pub(super) fn push(&mut self, at: Timestamp, tie: &str, from: &str, what: What) {
        self.items.push(Item { at, tie: tie.to_owned(), from: from.to_owned(), what });
    }

    pub(super) fn unknown(&mut self, from: &str, what: impl Into<String>) {
        self.unknown.insert(Unknown { record: from.to_owned(), what: what.into() });
    }

    pub(super) fn leave(&mut self, why: &str) {
        *self.left_out.entry(why.to_owned()).or_default() += 1;
    }

    /// The machine of that node or instance; what is newly known of it is kept.
    pub(super) fn machine(&mut self, new: Machine) {
        let instance = new.instance.clone().or_else(|| new.node.as_deref().and_then(instance_in));
        let same =
            |machine: &Machine| (new.node.is_some() && machine.node == new.node) || (instance.is_some() && machine.instance == instance);
        match self.machines.iter_mut().find(|machine| same(machine)) {
            Some(machine) => {
                machine.node = machine.node.take().or(new.node);
                machine.instance = machine.instance.take().or(instance);
                machine.zone = machine.zone.take().or(new.zone);
                machine.instance_type = machine.instance_type.take().or(new.instance_type);
            }
            None => self.machines.push(Machine { instance, ..new }),
        }
    }

    /// The events, for people.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.iter().map(|(at, told)| Seen { at: at.strftime("%H:%M:%S").to_string(), what: told.to_string() }).collect()
    }
}

/// Trouble of machines comes first, then what is done, then what is only said.
fn rank(what: &What) -> u8 {
    match what {
        What::Fault(_) => 0,
        What::Call(_) | What::Apply(_) | What::Delete { .. } => 1,
        What::Meets(_) => 2,
        What::Say(_) => 3,
    }
}

/// Nodes named after their instance: `i-0abc.eu-west-1.compute.internal`.
fn instance_in(node: &str) -> Option<String> {
    let first = node.split('.').next()?;
    first.starts_with("i-").then(|| first.to_owned())
}

/// The time in a field.
pub(super) fn time(record: &Record, names: &[&str]) -> Result<Timestamp, ImportError> {
    let wrong = |message: String| ImportError::Record { record: record.from.clone(), message };
    let found = names.iter().find_map(|name| record.json.get(*name)?.as_str().filter(|text| !text.is_empty()));
    let text = found.ok_or_else(|| wrong(format!("has no {}", names.join(" or "))))?;
    text.parse().map_err(|_| wrong(format!("its time `{text}` is none; it should be like 2026-01-31T09:30:00Z")))
}

/// The text at a JSON pointer.
pub(super) fn text<'a>(json: &'a Value, pointer: &str) -> Option<&'a str> {
    json.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}
