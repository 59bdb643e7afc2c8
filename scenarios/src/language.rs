//! The scenario file (users.md §5.4): Kubernetes-shaped YAML whose steps are played in order.
//!
//! ```yaml
//! apiVersion: ebbtide.dev/v1alpha1
//! kind: Scenario
//! metadata: {name: hello}
//! spec:
//!   steps:
//!   - name: a volume
//!     try:
//!     - aws: {command: ec2 create-volume, with: {Size: 1, AvailabilityZone: us-east-1a}, capture: {volumeId: VolumeId}}
//!     - aws: {command: ec2 delete-volume, with: {VolumeId: "${volumeId}"}}
//! ```

mod as_of;
mod check;
mod duration;
mod fault;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use model_common::fixes::Fix;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use as_of::{AsOf, Expect, NoDay, TODAY};
pub use check::{API_VERSION, LoadError, parse};
pub use duration::Span;
pub use fault::{ApiOutcome, Fault, Trouble, code_of};

/// A scenario as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// `ebbtide.dev/v1alpha1`.
    pub api_version: String,
    /// `Scenario`.
    pub kind: String,
    pub metadata: Metadata,
    pub spec: Spec,
}

impl Scenario {
    /// Whether it can be played in a world.
    pub fn plays_in(&self, engine: EngineName) -> bool {
        self.spec.engines.as_ref().is_none_or(|engines| engines.contains(&engine)) && !self.spec.not_in.contains_key(&engine)
    }

    /// Why it cannot be played in a world; none where it can.
    pub fn why_not_in(&self, engine: EngineName) -> Option<String> {
        if self.plays_in(engine) {
            return None;
        }
        let only = match engine {
            EngineName::Sim => "it is written for real devices",
            EngineName::Live => "it is written for virtual time",
        };
        Some(self.spec.not_in.get(&engine).map_or(only, |why| why.trim()).to_owned())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What to play, and in which world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where it comes from: an issue, a page, a section of the specification.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Where it can be played; everywhere when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engines: Option<Vec<EngineName>>,
    /// Where it cannot be played, and why: what of the real thing that world has not got.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_in: BTreeMap<EngineName, String>,
    /// What a live run asks of the ebbtide that it is played on.
    #[serde(default, skip_serializing_if = "Needs::is_empty")]
    pub needs: Needs,
    /// How it ends when all is as known; well, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// Where choices of a run in virtual time come from, unless the command line gives another.
    #[serde(default)]
    pub seed: u64,
    /// The start state of the virtual world; a live run takes the world that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world: Option<World>,
    /// Variables set before the first step, used as `${name}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Value>,
    /// What is done, in order. May be left out where `notIn` names every world.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// Names of the invariants to watch; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invariants: Option<Vec<String>>,
}

/// What not every running ebbtide has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Needs {
    /// How long things take in its AWS; any will do when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileName>,
}

impl Needs {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A profile of `ebbtide up --profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProfileName {
    /// As fast as the machine can.
    Instant,
    /// As long as on AWS.
    Aws,
}

impl std::fmt::Display for ProfileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Instant => "instant",
            Self::Aws => "aws",
        })
    }
}

/// A world that plays scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EngineName {
    /// Virtual time.
    Sim,
    /// A running ebbtide.
    Live,
}

/// The start state of the virtual world: what is given here replaces the default world's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct World {
    /// The nodes; two in two zones when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<WorldNode>,
    /// AWS answers as fast as it can, instead of with realistic delays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub instant: bool,
    /// As of which day of upstream: today's release when absent, `fixed`, or the names of proposed changes.
    #[serde(default, skip_serializing_if = "AsOf::is_today")]
    pub as_of: AsOf,
    /// How long each call of the world's parts takes, as `[least, most]`, by actor: `watch`, `write`, `csi`, `cloud`, `device`, `mount`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub latency: BTreeMap<String, [Span; 2]>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WorldNode {
    /// The node's name in Kubernetes.
    pub name: String,
    /// The availability zone, `us-east-1a`.
    pub zone: String,
    #[serde(default = "m5_large")]
    pub instance_type: String,
}

fn m5_large() -> String {
    "m5.large".into()
}

/// Operations that belong together. `catch` runs when one of `try` fails, `finally` in any case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    pub name: String,
    /// Left out as of a day that has this change (`kubernetes#124334`): it shows what only today is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub unless: Option<Fix>,
    #[serde(rename = "try")]
    pub attempt: Vec<Op>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub catch: Vec<Op>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finally: Vec<Op>,
}

/// One operation of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "OpForm", into = "OpForm")]
pub enum Op {
    Aws(Aws),
    Apply(Apply),
    Delete(Delete),
    Wait(Wait),
    Exec(Exec),
    Assert(Assert),
    Fault(Fault),
    Print(String),
    Sleep(Span),
}

impl JsonSchema for Op {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Op".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        OpForm::json_schema(generator)
    }
}

/// An operation as written: exactly one of these.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct OpForm {
    /// A call to AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    aws: Option<Aws>,
    /// Make or change Kubernetes objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    apply: Option<Apply>,
    /// Delete Kubernetes objects and wait until they are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    delete: Option<Delete>,
    /// Wait until an object is as described.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<Wait>,
    /// Run a command in a pod's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<Exec>,
    /// Require something of the state of the world.
    #[serde(skip_serializing_if = "Option::is_none")]
    assert: Option<Assert>,
    /// Cause trouble, or end it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
    /// Say something to whoever watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    print: Option<String>,
    /// Let time pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    sleep: Option<Span>,
}

const VERBS: &str = "aws, apply, delete, wait, exec, assert, fault, print, sleep";

impl TryFrom<OpForm> for Op {
    type Error = String;

    fn try_from(form: OpForm) -> Result<Self, String> {
        let found: Vec<Op> = [
            form.aws.map(Op::Aws),
            form.apply.map(Op::Apply),
            form.delete.map(Op::Delete),
            form.wait.map(Op::Wait),
            form.exec.map(Op::Exec),
            form.assert.map(Op::Assert),
            form.fault.map(Op::Fault),
            form.print.map(Op::Print),
            form.sleep.map(Op::Sleep),
        ]
        .into_iter()
        .flatten()
        .collect();
        match <[Op; 1]>::try_from(found) {
            Ok([op]) => Ok(op),
            Err(found) if found.is_empty() => Err(format!("an operation needs one of {VERBS}")),
            Err(_) => Err(format!("an operation is exactly one of {VERBS}; write each as its own list item")),
        }
    }
}

impl From<Op> for OpForm {
    fn from(op: Op) -> Self {
        let mut form = Self::default();
        match op {
            Op::Aws(aws) => form.aws = Some(aws),
            Op::Apply(apply) => form.apply = Some(apply),
            Op::Delete(delete) => form.delete = Some(delete),
            Op::Wait(wait) => form.wait = Some(wait),
            Op::Exec(exec) => form.exec = Some(exec),
            Op::Assert(assert) => form.assert = Some(assert),
            Op::Fault(fault) => form.fault = Some(fault),
            Op::Print(text) => form.print = Some(text),
            Op::Sleep(span) => form.sleep = Some(span),
        }
        form
    }
}

/// Variables to take from an operation's result: name → JSON pointer (the leading `/` may be left out).
pub type Capture = BTreeMap<String, String>;

/// A call to AWS, spelled as the aws CLI spells service, command and `--cli-input-json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Aws {
    /// `ec2 create-volume`, `efs describe-access-points` …
    pub command: String,
    /// The request's parameters under the API's names.
    #[serde(default, rename = "with", skip_serializing_if = "serde_json::Map::is_empty")]
    pub parameters: serde_json::Map<String, Value>,
    #[serde(default, skip_serializing_if = "Capture::is_empty")]
    pub capture: Capture,
    /// What the answer must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Value>,
    /// The error code that must come instead of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Repeat until the expectation holds, at most this long. Only for `describe-*` and `list-*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// Make objects, or change them to what is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Apply {
    /// One or more YAML documents; variables are put in first.
    pub manifests: String,
}

/// Delete what manifests name, or one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Delete {
    /// The manifests whose objects are deleted, in order, all before the wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifests: Option<String>,
    /// Or one object, by kind and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// What is not there is no failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_not_found: bool,
    /// Seconds that a pod gets to end; 0: its object goes at once, whatever its node does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<u32>,
    /// How long to wait until all are gone; `0s` does not wait.
    #[serde(default = "Span::two_minutes")]
    pub timeout: Span,
}

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Target {
    /// Needed only for kinds that ebbtide does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    pub kind: String,
    pub name: String,
    /// `default` when absent; not for cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Wait until an object is as described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Wait {
    #[serde(rename = "for")]
    pub until: Until,
    #[serde(default = "Span::two_minutes")]
    pub timeout: Span,
}

/// The object and exactly one of the states it can be waited for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Until {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// A condition of `status.conditions`: `Ready`, or `Ready=False`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// `status.phase`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// `true`: the object is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
}

/// Run a command in a pod's container. Its result is `{stdout, stderr, exitCode}`, the texts without their last newline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Exec {
    pub pod: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The first container when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Capture::is_empty")]
    pub capture: Capture,
    /// What the result must contain; exit code 0 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Value>,
    /// Repeat until the expectation holds, at most this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// Require something: exactly one of `resource`, `absent`, `events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Assert {
    /// A partial object. With `metadata.name` that object must match; without, some object of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Value>,
    /// An object that must not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Target>,
    /// Events that must have been recorded, in any order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<EventLike>>,
    /// Variables from the matched object.
    #[serde(default, skip_serializing_if = "Capture::is_empty")]
    pub capture: Capture,
    /// Repeat until it holds, at most this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// An event, by what is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EventLike {
    pub reason: String,
    /// `Normal` or `Warning`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// A part of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_like: Option<String>,
    /// `Kind/name` of the object it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The namespace of that object; absent: `default`, where the events of objects without a namespace are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
