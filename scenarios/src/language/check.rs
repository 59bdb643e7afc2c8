//! From text to a [`Scenario`] that can be played, with errors that say where and what to do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Assert, Delete, EngineName, Op, Scenario, Until};
use crate::invariants;
use crate::variables;

/// The version of the language.
pub const API_VERSION: &str = "ebbtide.dev/v1alpha1";

/// Why a scenario cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no scenario `{name}`: neither a file nor one of the library ({library})")]
    Unknown { name: String, library: String },
    /// The YAML does not fit the language; the text names the field and the line.
    #[error("{origin}: {message}")]
    Syntax { origin: String, message: String },
    /// It fits, but means nothing.
    #[error("{origin}: {field}: {message}")]
    Meaning { origin: String, field: String, message: String },
}

/// Reads a scenario; `origin` is the file's name for messages.
pub fn parse(origin: &str, text: &str) -> Result<Scenario, LoadError> {
    let scenario: Scenario =
        serde_yaml::from_str(text).map_err(|error| LoadError::Syntax { origin: origin.into(), message: error.to_string() })?;
    check(&scenario).map_err(|(field, message)| LoadError::Meaning { origin: origin.into(), field, message })?;
    Ok(scenario)
}

type Finding = (String, String);

fn finding<T>(field: impl Into<String>, message: impl Into<String>) -> Result<T, Finding> {
    Err((field.into(), message.into()))
}

fn check(scenario: &Scenario) -> Result<(), Finding> {
    if scenario.api_version != API_VERSION {
        return finding("apiVersion", format!("`{}` is not known; write {API_VERSION}", scenario.api_version));
    }
    if scenario.kind != "Scenario" {
        return finding("kind", format!("`{}` is not known; write Scenario", scenario.kind));
    }
    if scenario.metadata.name.is_empty() {
        return finding("metadata.name", "a scenario needs a name");
    }
    for (engine, why) in &scenario.spec.not_in {
        if why.trim().is_empty() {
            return finding("spec.notIn", format!("say why it cannot be played in {engine:?}"));
        }
    }
    let played = [EngineName::Sim, EngineName::Live].iter().any(|engine| scenario.plays_in(*engine));
    if scenario.spec.steps.is_empty() && played {
        return finding("spec.steps", "a scenario needs at least one step");
    }
    let expected = scenario.spec.expect.iter().flat_map(|expect| expect.names());
    for name in scenario.spec.invariants.iter().flatten().map(String::as_str).chain(expected) {
        if !invariants::NAMES.contains(&name) {
            return finding("spec.invariants", format!("`{name}` is not known; there are {}", invariants::NAMES.join(", ")));
        }
    }
    if let Some(world) = &scenario.spec.world {
        for (actor, [least, most]) in &world.latency {
            if !LATENCIES.contains(&actor.as_str()) {
                return finding("spec.world.latency", format!("`{actor}` is not known; there are {}", LATENCIES.join(", ")));
            }
            if least > most {
                return finding(format!("spec.world.latency.{actor}"), format!("write [least, most]; {least} is more than {most}"));
            }
        }
    }
    let mut known: BTreeSet<String> = scenario.spec.variables.keys().cloned().collect();
    for (number, step) in scenario.spec.steps.iter().enumerate() {
        for (block, ops) in [("try", &step.attempt), ("catch", &step.catch), ("finally", &step.finally)] {
            for (index, op) in ops.iter().enumerate() {
                let field = format!("spec.steps[{number}].{block}[{index}]");
                check_op(op, &field)?;
                check_variables(op, &field, &mut known)?;
            }
        }
    }
    Ok(())
}

/// The parts of the world that have a latency.
pub const LATENCIES: [&str; 6] = ["watch", "write", "csi", "cloud", "device", "mount"];

fn check_op(op: &Op, field: &str) -> Result<(), Finding> {
    match op {
        Op::Aws(aws) => {
            let Some((service, command)) = aws.command.split_once(' ') else {
                return finding(format!("{field}.aws.command"), "write service and command, as in `ec2 create-volume`");
            };
            if service != "ec2" && service != "efs" {
                return finding(format!("{field}.aws.command"), format!("the service `{service}` is not known; there are ec2 and efs"));
            }
            if aws.within.is_some() && !command.starts_with("describe-") && !command.starts_with("list-") {
                return finding(
                    format!("{field}.aws.within"),
                    format!("`{command}` changes things and is not repeated; use a describe with `within`"),
                );
            }
            if aws.error.is_some() && aws.expect.is_some() {
                return finding(format!("{field}.aws"), "give `expect` or `error`, not both");
            }
            Ok(())
        }
        Op::Apply(apply) => manifests(&apply.manifests, &format!("{field}.apply.manifests")),
        Op::Delete(Delete { manifests: Some(text), kind: None, name: None, namespace: None, api_version: None, .. }) => {
            manifests(text, &format!("{field}.delete.manifests"))
        }
        Op::Delete(Delete { manifests: None, kind: Some(_), name: Some(_), .. }) => Ok(()),
        Op::Delete(_) => finding(format!("{field}.delete"), "give either `manifests`, or `kind` and `name`"),
        Op::Wait(wait) => {
            let Until { condition, phase, deleted, .. } = &wait.until;
            if usize::from(condition.is_some()) + usize::from(phase.is_some()) + usize::from(deleted.is_some()) != 1 {
                return finding(format!("{field}.wait.for"), "give exactly one of condition, phase, deleted");
            }
            if *deleted == Some(false) {
                return finding(
                    format!("{field}.wait.for.deleted"),
                    "only `true` means something; to wait for a start use condition or phase",
                );
            }
            Ok(())
        }
        Op::Exec(exec) if exec.command.is_empty() => finding(format!("{field}.exec.command"), "a command needs at least a program"),
        Op::Assert(Assert { resource, absent, events, .. }) => {
            if usize::from(resource.is_some()) + usize::from(absent.is_some()) + usize::from(events.is_some()) != 1 {
                return finding(format!("{field}.assert"), "give exactly one of resource, absent, events");
            }
            if let Some(resource) = resource
                && resource.get("kind").and_then(Value::as_str).is_none()
            {
                return finding(format!("{field}.assert.resource"), "an object needs its kind");
            }
            Ok(())
        }
        Op::Fault(fault) => fault.check().or_else(|message| finding(format!("{field}.fault"), message)),
        Op::Exec(_) | Op::Print(_) | Op::Sleep(_) => Ok(()),
    }
}

fn manifests(text: &str, field: &str) -> Result<(), Finding> {
    match variables::documents(text) {
        Ok(documents) if documents.is_empty() => finding(field, "there is no object in it"),
        Ok(_) => Ok(()),
        Err(message) => finding(field, message),
    }
}

/// Each `${name}` must have been captured before, in the order of the file.
fn check_variables(op: &Op, field: &str, known: &mut BTreeSet<String>) -> Result<(), Finding> {
    let json = serde_json::to_value(op).map_err(|error| (field.to_owned(), error.to_string()))?;
    for name in variables::used(&json) {
        if !known.contains(&name) {
            return finding(
                field,
                format!("`${{{name}}}` is not set here; capture it in an earlier operation or give it under spec.variables"),
            );
        }
    }
    let capture = match op {
        Op::Aws(aws) => &aws.capture,
        Op::Exec(exec) => &exec.capture,
        Op::Assert(assert) => &assert.capture,
        Op::Apply(_) | Op::Delete(_) | Op::Wait(_) | Op::Fault(_) | Op::Print(_) | Op::Sleep(_) => return Ok(()),
    };
    known.extend(capture.keys().cloned());
    Ok(())
}
