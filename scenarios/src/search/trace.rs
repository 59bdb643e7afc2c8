//! A run as a file of JSON lines: the first says which scenario, seed and end it had, so that it can be played again; the others tell
//! what happened.

use serde::{Deserialize, Serialize};

use crate::invariants::Violation;
use crate::language::Scenario;
use crate::report::Report;
use crate::world::{self, Told};

/// The form of the file.
const FORM: &str = "ebbtide-trace/v1";

/// A recorded run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub head: Head,
    pub story: Vec<Told>,
}

/// What is needed to play it again, and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    form: String,
    pub seed: u64,
    pub digest: String,
    pub passed: bool,
    pub violations: Vec<Violation>,
    pub scenario: Scenario,
}

/// Why a text is no trace.
#[derive(Debug, thiserror::Error)]
pub enum NoTrace {
    #[error("the file is empty")]
    Empty,
    #[error("line {line}: {message}")]
    Line { line: usize, message: String },
    #[error("its form is `{0}`; this ebbtide reads {FORM}")]
    Form(String),
}

impl Trace {
    /// Plays a scenario and records it.
    pub fn record(scenario: &Scenario, seed: u64) -> (Self, Report) {
        let (report, story) = world::run_told(scenario, seed);
        let head = Head {
            form: FORM.into(),
            seed,
            digest: report.digest.clone().unwrap_or_default(),
            passed: report.passed,
            violations: report.violations.clone(),
            scenario: scenario.clone(),
        };
        (Self { head, story }, report)
    }

    pub fn parse(text: &str) -> Result<Self, NoTrace> {
        let wrong = |line: usize| move |error: serde_json::Error| NoTrace::Line { line: line + 1, message: error.to_string() };
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (number, first) = lines.next().ok_or(NoTrace::Empty)?;
        let head: Head = serde_json::from_str(first).map_err(wrong(number))?;
        if head.form != FORM {
            return Err(NoTrace::Form(head.form));
        }
        let story = lines.map(|(number, line)| serde_json::from_str(line).map_err(wrong(number))).collect::<Result<_, _>>()?;
        Ok(Self { head, story })
    }

    /// The file's text.
    pub fn to_lines(&self) -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string(&self.head)?;
        text.push('\n');
        for told in &self.story {
            text.push_str(&serde_json::to_string(told)?);
            text.push('\n');
        }
        Ok(text)
    }
}

/// Where two stories part: the number of the first line that differs, and both lines (none: that story is over).
pub fn difference<'a>(a: &'a [Told], b: &'a [Told]) -> Option<(usize, Option<&'a Told>, Option<&'a Told>)> {
    let at = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    (at < a.len() || at < b.len()).then(|| (at + 1, a.get(at), b.get(at)))
}
