//! What a run gave: for programs as JSON, for people as text, and step by step while it runs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::invariants::Violation;

pub mod html;
mod junit;

pub use junit::{Case, junit};

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub scenario: String,
    /// `virtual` or `live`.
    pub engine: &'static str,
    pub passed: bool,
    /// Whoever started it ended it before its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    pub steps: Vec<StepReport>,
    pub violations: Vec<Violation>,
    /// What kept the run from beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What a live run that did not pass could not take down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The rolling hash of all that happened in virtual time; two runs with one seed have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How many inputs the machines took in virtual time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<u64>,
    /// How long it took in virtual time; of a live run, how long the same takes there, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_seconds", rename = "virtualSeconds")]
    pub virtual_time: Option<Duration>,
    #[serde(serialize_with = "seconds", rename = "wallSeconds")]
    pub wall: Duration,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    Failed,
    /// An earlier step failed.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    pub name: String,
    pub verdict: Verdict,
    pub operations: Vec<OpReport>,
    /// In the world's own time.
    #[serde(serialize_with = "seconds", rename = "seconds")]
    pub took: Duration,
    /// How many inputs the machines took meanwhile, in virtual time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpReport {
    /// `aws ec2 create-volume`, `wait Pod app Ready` …
    pub what: String,
    /// Why it failed; none where it did what it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What is worth seeing: captured values, what `apply` did, printed text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    #[serde(serialize_with = "seconds", rename = "seconds")]
    pub took: Duration,
}

fn seconds<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(value.as_secs_f64())
}

fn optional_seconds<S: serde::Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => seconds(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Who watches a run.
pub trait Observer {
    fn step_started(&mut self, _number: usize, _of: usize, _name: &str) {}
    fn operation_done(&mut self, _operation: &OpReport) {}
    fn step_done(&mut self, _step: &StepReport) {}
    /// Something outside of the steps: taking down what a failed run left.
    fn note(&mut self, _text: &str) {}
}

/// Watches nothing.
pub struct Silent;

impl Observer for Silent {}

impl Report {
    /// 0 when all held, 1 otherwise.
    pub fn exit_code(&self) -> i32 {
        i32::from(!self.passed)
    }

    /// In a word.
    pub fn verdict(&self) -> &'static str {
        match (self.passed, self.interrupted) {
            (true, _) => "passed",
            (false, true) => "interrupted",
            (false, false) => "failed",
        }
    }

    /// The first step and operation that failed, and why.
    pub fn failure(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        let step = self.steps.iter().find(|step| step.verdict == Verdict::Failed)?;
        let operation = step.operations.iter().find(|operation| operation.failure.is_some());
        let why = operation.map(|operation| format!(": {}: {}", operation.what, operation.failure.as_deref().unwrap_or_default()));
        Some(format!("step `{}`{}", step.name, why.unwrap_or_default()))
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.render(&mut text);
        text
    }

    fn render(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{} ({})", self.scenario, self.engine)?;
        if let Some(error) = &self.error {
            writeln!(out, "  error: {error}")?;
        }
        for step in &self.steps {
            let sign = match step.verdict {
                Verdict::Passed => "ok",
                Verdict::Failed => "FAILED",
                Verdict::Skipped => "skipped",
            };
            writeln!(out, "  {sign:<7} {} ({})", step.name, short(step.took))?;
            for operation in &step.operations {
                for detail in &operation.details {
                    writeln!(out, "            {}", detail.replace('\n', "\n              "))?;
                }
                if let Some(failure) = &operation.failure {
                    writeln!(out, "          {}: {}", operation.what, failure.replace('\n', "\n            "))?;
                }
            }
        }
        for violation in &self.violations {
            writeln!(out, "  VIOLATED {} after `{}`: {}", violation.invariant, violation.step, violation.message)?;
        }
        for left in &self.left {
            writeln!(out, "  LEFT BEHIND {left}")?;
        }
        write!(out, "  {} in {}", self.verdict(), short(self.wall))?;
        if let Some(time) = self.virtual_time {
            write!(out, ", virtual time {}", short(time))?;
        }
        if let Some(seed) = self.seed {
            write!(out, ", seed {seed}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, ", digest {digest}")?;
        }
        writeln!(out)
    }
}

/// A duration for people: `0.42 s`, `6 m 30 s`.
pub fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) if seconds < 10 => format!("{:.2} s", span.as_secs_f64()),
        (0, 0) => format!("{:.1} s", span.as_secs_f64()),
        (0, minutes) => format!("{minutes} m {} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {minutes} m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well() {
        let report = Report {
            scenario: "hello".into(),
            engine: "virtual",
            passed: false,
            interrupted: false,
            left: vec!["Pod p".into()],
            steps: vec![StepReport {
                name: "make".into(),
                verdict: Verdict::Failed,
                operations: vec![OpReport {
                    what: "aws ec2 create-volume".into(),
                    failure: Some("Size: expected 2, got 1".into()),
                    details: vec!["volumeId = vol-1".into()],
                    took: Duration::ZERO,
                }],
                took: Duration::from_millis(420),
                inputs: None,
            }],
            violations: vec![Violation { invariant: "no-leak".into(), message: "volume vol-1 is left".into(), step: "make".into() }],
            error: None,
            seed: Some(7),
            digest: Some("00ff".into()),
            inputs: Some(9),
            virtual_time: Some(Duration::from_secs(390)),
            wall: Duration::from_millis(12),
        };
        let text = report.to_text();
        for part in [
            "FAILED  make (0.42 s)",
            "volumeId = vol-1",
            "aws ec2 create-volume: Size: expected 2",
            "VIOLATED no-leak",
            "LEFT BEHIND Pod p",
            "virtual time 6 m 30 s, seed 7, digest 00ff",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["steps"][0]["verdict"], "failed");
        assert_eq!(json["virtualSeconds"], 390.0);
        assert_eq!(report.exit_code(), 1);
    }
}
