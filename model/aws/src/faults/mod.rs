//! Trouble on purpose: one table of faults for calls, volumes and nodes. The emulator asks it before it answers a call, and
//! volumes ask it when they are attached; the simulator has the same table in virtual time.
//!
//! ```text
//!   rule ─add─▶ there ──a call that matches, after afterCalls, drawn──▶ hit ──count hits──▶ spent
//!                 └──removed, or its duration is over──▶ (gone; what it held goes on)
//! ```
//! Whether a rule with a probability hits is drawn from the world's seed, the rule's number and the call's number, so that
//! the same calls meet the same faults again.

mod rule;
mod span;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use rule::{Action, ApiError, GivenError, NFS, NoAction, NoShare, Rule, Scope, Share};
pub use span::{NoSpan, Span};
pub use table::State;

const TABLE: &str = "faults";
/// The next number, under this key.
const NEXT: &str = "next";

/// The tables of this machine's records.
pub const TABLES: &[&str] = &[TABLE];
/// Most rules at a time: each call looks at all of them.
pub const MOST: usize = 1000;

/// A rule in the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    pub number: u64,
    pub rule: Rule,
    /// The instance of the rule's node.
    pub instance: Option<String>,
    /// Calls that matched.
    pub calls: u64,
    /// Those of them that were met.
    pub hits: u64,
}

impl Fault {
    /// `fault-1`.
    pub fn id(&self) -> String {
        id_of(self.number)
    }

    /// Its count is used up. What it held before, it holds.
    pub fn spent(&self) -> bool {
        self.rule.count.is_some_and(|count| self.hits >= count)
    }
}

fn id_of(number: u64) -> String {
    format!("fault-{number}")
}

fn number_of(id: &str) -> Option<u64> {
    id.strip_prefix("fault-")?.parse().ok()
}

/// A call of the API, or what a machine does on account of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// As it is signed: `ec2`, `elasticfilesystem`, …
    pub service: String,
    pub operation: String,
    pub region: Option<String>,
    /// Every value in it: ids, tokens, tags.
    pub names: Vec<String>,
    /// It is only checked, so that nothing comes of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Call {
    /// Whether it only shows what there is.
    pub fn shows(&self) -> bool {
        ["Describe", "List", "Get"].iter().any(|verb| self.operation.starts_with(verb))
    }
}

/// Every text in a JSON value: what a call that is given as JSON names.
pub fn texts(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::String(text) => names.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| texts(value, names)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What the machine is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    Command(Command),
    /// A call is about to be carried out.
    Call(Call),
    Fired(Timer),
    /// The process started with this state.
    Booted,
}

/// Changes of the table; all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    Add {
        rules: Vec<Rule>,
    },
    /// In the place of all rules, or only of those that refuse calls (LocalStack knows no others).
    Set {
        rules: Vec<Rule>,
        refusing_only: bool,
    },
    /// In the place of one rule; it counts from zero.
    Put {
        id: String,
        rule: Box<Rule>,
    },
    Remove {
        ids: Vec<String>,
    },
    /// Removes the rules that say the same as these.
    RemoveEqual {
        rules: Vec<Rule>,
    },
}

/// What the shell shall do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    Reply(Reply),
    Arm(Timer, Duration),
    Disarm(Timer),
    /// Tell whoever watches.
    Hit(Hit),
    /// Cut the connection of the instance's agent; while [`State::unreachable`] none is accepted.
    Cut {
        instance: String,
    },
}

/// A call, a volume or a node that met a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hit {
    pub fault: String,
    pub action_id: Action,
    pub service: String,
    pub operation: String,
    /// The ids that the call names.
    pub resources: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// The faults that were made, or removed.
    Faults(Vec<Fault>),
    Verdict(Verdict),
}

/// What becomes of a call: first the delay; then the error, or it is carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub delay: Option<Span>,
    pub error: Option<ApiError>,
    /// Answer from the state of so long ago.
    pub lag: Option<Span>,
    /// Carry it out and do not answer.
    pub lost: bool,
}

/// Something that is awaited.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Timer {
    /// A rule's duration is over.
    Over(u64),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Reject {
    #[error("{why}")]
    Invalid { why: String },
    #[error("there is no fault {id}; GET /_ebbtide/faults lists them")]
    NotFound { id: String },
    #[error("there is no node {node:?}; give the name of a node or an instance id")]
    NoNode { node: String },
    #[error("more than {MOST} faults at a time are not possible; remove some")]
    TooMany,
}
