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
    /// When whoever started the run has had enough.
    stop: Option<Duration>,
    /// Objects that stay, whoever deletes them.
    stuck: Option<&'static str>,
    /// The claim for which the volume says that it was made.
    made_for: Option<&'static str>,
    /// When a volume is there of which nobody was told.
    appears: Option<Duration>,
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
    fn stopped(&self) -> bool {
        self.stop.is_some_and(|stop| self.now >= stop)
    }
    async fn pause(&mut self, span: Duration) {
        let until = self.now + span;
        if self.appears.is_some_and(|at| at <= until) {
            self.appears = None;
            self.volume = Some(until);
        }
        // As a real world does: it wakes up when it is to end, and sleeps as told after that.
        self.now = self.stop.filter(|stop| self.now < *stop).map_or(until, |stop| until.min(stop));
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
                let tags = json!([{"Key": "kubernetes.io/created-for/pvc/namespace", "Value": "default"},
                    {"Key": "kubernetes.io/created-for/pvc/name", "Value": self.made_for}]);
                let volumes = self.volume.iter().map(|_| json!({"VolumeId": "vol-1", "Tags": tags})).collect::<Vec<_>>();
                Ok(json!({"State": state, "Volumes": volumes}))
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
        if self.stuck != Some(target.name.as_str()) {
            self.objects.remove(&target.name);
        }
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
    let played = run(&mut table, &format!("{MAKE}{POD}    - assert: {{absent: {{kind: Pod, name: p}}}}\n"));
    assert!(!played.passed);
    assert_eq!((table.volume, table.objects.len()), (None, 0));
    assert!(table.calls.iter().any(|call| call == "ec2 delete-volume"), "{:?}", table.calls);
    assert_eq!((played.interrupted, played.left), (false, Vec::<String>::new()));
}

const POD: &str = "    - apply: {manifests: '{apiVersion: v1, kind: Pod, metadata: {name: p}}'}\n";

#[test]
fn what_a_failed_run_changed_is_changed_back_unless_it_is_gone() {
    let node = || json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"a": "1"}}});
    let change =
        "  - name: a\n    try:\n    - apply: {manifests: '{apiVersion: v1, kind: Node, metadata: {name: n, labels: {a: \"2\"}}}'}\n";
    let delete = "    - delete: {kind: Node, name: n}\n";
    for (steps, left) in [(change.to_owned(), Some(node())), (format!("{change}{delete}"), None)] {
        let mut table = Table { live: true, objects: BTreeMap::from([("n".to_owned(), node())]), ..Table::default() };
        let played = run(&mut table, &format!("{steps}    - assert: {{resource: {{kind: Pod, metadata: {{name: p}}}}}}\n"));
        assert!(!played.passed);
        assert_eq!(table.objects.get("n"), left.as_ref(), "{steps}");
    }
}

#[test]
fn an_interrupted_run_is_taken_down_and_begins_nothing_more() {
    let mut table = Table { live: true, stop: Some(Duration::from_secs(20)), ..Table::default() };
    let rest = "    - sleep: 1h\n    - aws: {command: ec2 describe-volumes}\n    catch:\n    - print: caught\n  - name: b\n    try: []\n";
    let played = run(&mut table, &format!("{MAKE}{POD}{rest}"));
    assert!(played.interrupted && !played.passed);
    let operations = &played.steps[0].operations;
    assert_eq!(operations.last().and_then(|last| last.failure.as_deref()), Some("interrupted"), "{operations:?}");
    assert_eq!(played.steps[1].verdict, Verdict::Skipped);
    assert_eq!((table.volume, table.objects.len()), (None, 0));
    assert!(table.now < Duration::from_secs(60), "{:?}", table.now);
}

#[test]
fn what_cannot_be_taken_down_is_told() {
    let mut table = Table { live: true, stuck: Some("p"), ..Table::default() };
    let played = run(&mut table, &format!("{MAKE}{POD}    - assert: {{absent: {{kind: Pod, name: p}}}}\n"));
    assert_eq!(played.left, ["Pod p"]);
    assert_eq!(table.volume, None, "the rest is taken down all the same");
}

/// A volume of which no call of the run tells, as a driver makes it.
#[test]
fn a_volume_made_for_a_claim_of_the_run_goes_with_it_and_another_does_not() {
    for (made_for, left) in [("data", vec![]), ("other", vec!["volume vol-1 is left".to_owned()])] {
        let mut table = Table { live: true, made_for: Some(made_for), ..Table::default() };
        let claim =
            "  - name: a\n    try:\n    - apply: {manifests: '{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}}'}\n";
        let text = format!("{claim}    - sleep: 1s\n    - assert: {{absent: {{kind: PersistentVolumeClaim, name: data}}}}\n");
        table.appears = Some(Duration::from_secs(1));
        let played = run(&mut table, &text);
        assert_eq!(played.left, left, "{made_for}");
    }
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
