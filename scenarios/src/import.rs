//! Records of an incident in the field turned into a scenario: CloudTrail, the audit log of a Kubernetes API server, and Kubernetes
//! events (users.md §6), merged by time.
//!
//! What people and their tools did is done again, in the same order and with the same pauses. What controllers, the kubelet and the CSI
//! drivers did is not: they are in the world and do it themselves. Their failures become faults. What the records do not say, and what
//! was assumed in its place, is listed.

mod audit;
mod build;
mod clean;
mod cloudtrail;
mod events;
mod infer;
mod places;
mod read;
mod redact;
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::language::Scenario;

/// A file of records, as it is: text or gzip.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// For messages.
    pub name: &'a str,
    pub bytes: &'a [u8],
}

#[derive(Debug, Clone)]
pub struct Options {
    /// The scenario's name.
    pub name: String,
    /// Leave out account ids, addresses, names of nodes, and environment variables of pods.
    pub redact: bool,
    /// Require at the end that the same warnings were recorded.
    pub expect: bool,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    #[error("{file}: {message}")]
    File { file: String, message: String },
    #[error("{record}: {message}")]
    Record { record: String, message: String },
    #[error("there is nothing to play in these records: {0}")]
    Nothing(String),
}

/// What became of the records.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    #[serde(skip)]
    pub scenario: Scenario,
    /// Records read, without those that were delivered twice.
    pub records: usize,
    /// Operations of people and tools in the scenario.
    pub operations: usize,
    pub faults: usize,
    /// From the first to the last operation, in seconds.
    pub seconds: f64,
    /// What is not known, and what was assumed in its place.
    pub unknown: Vec<Unknown>,
    /// Records that are not played, by why: how many.
    pub left_out: BTreeMap<String, usize>,
    /// What the world's own parts did, as they recorded it: for comparing with a run.
    pub seen: Vec<Seen>,
}

/// Something that the records do not say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unknown {
    /// `trail.json record 3`; empty: the whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub record: String,
    pub what: String,
}

/// A Kubernetes event of the incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub at: String,
    pub what: String,
}

/// The most events that the scenario's header shows.
const SHOWN: usize = 60;

/// Turns records into a scenario.
pub fn import(sources: &[Source<'_>], options: &Options) -> Result<Imported, ImportError> {
    let mut records = Vec::new();
    for source in sources {
        read::read(source, &mut records)?;
    }
    let timeline = timeline::Timeline::of(records, options)?;
    build::build(timeline, options)
}

/// The audit records of files, each with where it stands.
pub(crate) fn audit_records(sources: &[Source<'_>]) -> Result<Vec<(String, serde_json::Value)>, ImportError> {
    let mut records = Vec::new();
    for source in sources {
        read::read(source, &mut records)?;
    }
    let other = records.iter().find(|record| record.form != read::Form::Audit);
    match other {
        Some(record) => Err(ImportError::Record { record: record.from.clone(), message: "is no audit record".into() }),
        None => Ok(records.into_iter().map(|record| (record.from, record.json)).collect()),
    }
}

/// Whether a name in an audit log is a person's or a tool's, and not that of a part of the cluster.
pub(crate) fn is_user(name: &str) -> bool {
    audit::is_user(name)
}

impl Imported {
    /// The scenario's file: what is not known stands at its head.
    pub fn to_yaml(&self) -> Result<String, serde_yaml::Error> {
        let mut text = String::from("# Made by `ebbtide import` from records of the field.\n");
        let mut line = |line: &str| {
            for part in line.lines() {
                text.push_str("# ");
                text.push_str(part);
                text.push('\n');
            }
        };
        if !self.unknown.is_empty() {
            line("\nWhat the records do not say:");
            for unknown in &self.unknown {
                let from = if unknown.record.is_empty() { String::new() } else { format!("{}: ", unknown.record) };
                line(&format!("- {from}{}", unknown.what.replace('\n', " ")));
            }
        }
        if !self.left_out.is_empty() {
            line("\nNot played:");
            self.left_out.iter().for_each(|(why, count)| line(&format!("- {count} × {why}")));
        }
        if !self.seen.is_empty() {
            line("\nWhat Kubernetes told then, to compare a run with:");
            self.seen.iter().take(SHOWN).for_each(|seen| line(&format!("- {} {}", seen.at, seen.what.replace('\n', " "))));
            if self.seen.len() > SHOWN {
                line(&format!("- and {} more", self.seen.len() - SHOWN));
            }
        }
        text.push_str(&serde_yaml::to_string(&self.scenario)?);
        Ok(text)
    }
}
