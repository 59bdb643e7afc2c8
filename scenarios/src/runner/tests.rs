//! The interpreter over a world of tables.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::engine::{Applied, EngineError, Output};
use crate::language::{Target, parse};
use crate::report::Silent;

/// Objects by name, and a volume that becomes available after 5 s.
#[derive(Default)]
struct Table {
    now: Duration,
    live: bool,
    objects: BTreeMap<String, Value>,
    volume: Option<Duration>,
    calls: Vec<String>,
}

impl Engine for Table {
    fn now(&self) -> Duration {
        self.now
    }
    fn poll_every(&self) -> Duration {
        Duration::from_secs(1)
    }
    fn is_live(&self) -> bool {
        self.live
    }
    async fn pause(&mut self, span: Duration) {
        self.now += span;
    }
    async fn aws(&mut self, service: &str, command: &str, _: &Value) -> Result<Value, EngineError> {
        self.calls.push(format!("{service} {command}"));
        match command {
            "create-volume" => {
                self.volume = Some(self.now);
                Ok(json!({"VolumeId": "vol-1"}))
            }
            "describe-volumes" => {
                let state = self.volume.map(|made| if self.now - made < Duration::from_secs(5) { "creating" } else { "available" });
                Ok(json!({"State": state}))
            }
            "delete-volume" if self.volume.take().is_some() => Ok(json!({})),
            _ => Err(EngineError::Aws { command: command.into(), code: "InvalidVolume.NotFound".into(), message: "gone".into() }),
        }
    }
    async fn get(&mut self, target: &Target) -> Result<Option<Value>, EngineError> {
        Ok(self.objects.get(&target.name).cloned())
    }
    async fn list(&mut self, _: Option<&str>, _: &str, _: Option<&str>) -> Result<Vec<Value>, EngineError> {
        Ok(self.objects.values().cloned().collect())
    }
    async fn apply(&mut self, object: &Value) -> Result<Applied, EngineError> {
        self.objects.insert(object["metadata"]["name"].as_str().unwrap().into(), object.clone());
        Ok(Applied::Created)
    }
    async fn delete(&mut self, target: &Target, _: Option<u32>) -> Result<(), EngineError> {
        self.objects.remove(&target.name);
        Ok(())
    }
    async fn exec(&mut self, _: &str, _: &str, _: Option<&str>, command: &[String]) -> Result<Output, EngineError> {
        Ok(Output { stdout: format!("{}\n", command.join(" ")), stderr: String::new(), exit_code: 0 })
    }
    async fn facts(&mut self) -> Result<Facts, EngineError> {
        Ok(Facts { volumes: self.volume.iter().map(|_| "vol-1".to_owned()).collect(), ..Facts::default() })
    }
}

fn run(table: &mut Table, steps: &str) -> Played {
    let text = format!("apiVersion: ebbtide.dev/v1alpha1\nkind: Scenario\nmetadata: {{name: t}}\nspec:\n  steps:\n{steps}");
    let scenario = parse("t", &text).unwrap_or_else(|error| panic!("{error}"));
    crate::ready(play(&scenario, table, &mut Silent))
}

const MAKE: &str = "  - name: make
    try:
    - aws: {command: ec2 create-volume, capture: {id: VolumeId}}
    - aws: {command: ec2 describe-volumes, expect: {State: available}, within: 10s}
";

#[test]
fn an_expectation_is_repeated_until_it_holds() {
    let mut table = Table::default();
    let played = run(&mut table, &format!("{MAKE}    - aws: {{command: ec2 delete-volume, with: {{VolumeId: '${{id}}'}}}}\n"));
    assert!(played.passed, "{played:?}");
    assert_eq!(table.now, Duration::from_secs(5));
    assert_eq!(played.steps[0].operations[0].details, ["id = vol-1"]);
}

#[test]
fn an_expectation_that_never_holds_fails_with_what_was_seen() {
    let mut table = Table::default();
    let played = run(
        &mut table,
        "  - name: a\n    try:\n    - aws: {command: ec2 describe-volumes, expect: {State: available}, within: 3s}\n  - name: b\n    try: []\n",
    );
    assert!(!played.passed);
    assert_eq!(played.steps[0].operations[0].failure.as_deref(), Some("State: expected \"available\", got null"));
    assert_eq!(played.steps[1].verdict, Verdict::Skipped);
    assert_eq!(table.now, Duration::from_secs(3));
}

#[test]
fn what_is_left_is_a_leak() {
    let played = run(&mut Table::default(), MAKE);
    assert!(!played.passed);
    assert_eq!(played.violations[0].message, "volume vol-1 is left");
}

#[test]
fn a_failed_live_run_is_taken_down() {
    let mut table = Table { live: true, ..Table::default() };
    let pod =
        "    - apply: {manifests: '{apiVersion: v1, kind: Pod, metadata: {name: p}}'}\n    - assert: {absent: {kind: Pod, name: p}}\n";
    let played = run(&mut table, &format!("{MAKE}{pod}"));
    assert!(!played.passed);
    assert_eq!((table.volume, table.objects.len()), (None, 0));
    assert_eq!(table.calls.last().map(String::as_str), Some("ec2 delete-volume"));
}

#[test]
fn an_expected_error_is_a_success_and_an_answer_is_not() {
    let expect = "    - aws: {command: ec2 delete-volume, error: InvalidVolume.NotFound}\n";
    assert!(run(&mut Table::default(), &format!("  - name: a\n    try:\n{expect}")).passed);
    assert!(!run(&mut Table::default(), &format!("{MAKE}{expect}")).passed);
}

#[test]
fn finally_runs_after_a_failure_and_catch_before_it() {
    let mut table = Table::default();
    let played = run(
        &mut table,
        "  - name: a\n    try:\n    - assert: {resource: {kind: Pod, metadata: {name: p}}}\n    - print: never\n    catch:\n    - print: caught\n    finally:\n    - print: finally\n",
    );
    let details: Vec<_> = played.steps[0].operations.iter().flat_map(|op| op.details.clone()).collect();
    assert_eq!(details, ["caught", "finally"]);
    assert_eq!(played.steps[0].operations[0].failure.as_deref(), Some("there is no Pod p"));
}

#[test]
fn exec_compares_with_what_was_captured() {
    let steps = "  - name: a\n    try:\n    - exec: {pod: p, command: [a, b], capture: {first: stdout}}\n    - exec: {pod: p, command: [a, b], expect: {stdout: '${first}'}}\n    - exec: {pod: p, command: [c], expect: {stdout: '${first}'}}\n";
    let played = run(&mut Table::default(), steps);
    let failures: Vec<_> = played.steps[0].operations.iter().map(|op| op.failure.as_deref()).collect();
    assert_eq!(failures, [None, None, Some("stdout: expected \"a b\", got \"c\"")]);
}
