use std::time::Duration;

use super::*;
use crate::language::{Op, parse};
use model_common::pick::Bytes;

fn small() -> Options {
    Options { span: Duration::from_secs(60), ..Options::default() }
}

#[test]
fn a_plan_is_a_scenario_that_reads_back() {
    let scenario = of_seed(7, &small());
    let text = serde_yaml::to_string(&scenario).unwrap();
    assert_eq!(parse("plan", &text).unwrap(), scenario);
    assert_eq!(of_seed(7, &small()), scenario);
    assert_ne!(of_seed(8, &small()).spec.steps, scenario.spec.steps);
}

#[test]
fn any_bytes_are_a_plan() {
    for bytes in [&b""[..], b"\x00", b"\xff\xff\xff\xff\xff\xff", b"ebbtide finds what a seed hides"] {
        let scenario = plan(&mut Bytes::new(bytes), 0, &small());
        parse("plan", &serde_yaml::to_string(&scenario).unwrap()).unwrap();
    }
}

#[test]
fn without_trouble_all_holds() {
    let options = Options { faults: false, span: Duration::from_secs(120), ..Options::default() };
    let outcome = search(1..=10, 2, |seed| of_seed(seed, &options), |_| {});
    if let Some((scenario, report)) = &outcome.found {
        panic!("{}\n{}", report.to_text(), serde_yaml::to_string(scenario).unwrap());
    }
    assert_eq!(outcome.played, 10);
}

/// A scenario that leaves a volume, among others that have nothing to do with it.
fn leaks() -> Scenario {
    let mut scenario = of_seed(3, &Options { faults: false, ..small() });
    let text = "{aws: {command: ec2 create-volume, with: {Size: 1, AvailabilityZone: us-east-1a}}}";
    let make: Op = serde_yaml::from_str(text).unwrap();
    scenario.spec.steps[1].attempt.insert(4, make);
    scenario
}

#[test]
fn what_fails_is_shrunk_to_what_it_needs() {
    let scenario = leaks();
    let report = crate::world::run(&scenario, 3);
    assert_eq!(report.violations[0].invariant, "no-leak");
    let shrunk = shrink(&scenario, &report, Duration::from_secs(60), |_| {});
    assert_eq!(inputs(&shrunk.scenario), 1, "{:?}", shrunk.scenario.spec.steps[1]);
    assert!(matches!(&shrunk.scenario.spec.steps[1].attempt[..], [Op::Aws(_)]));
}

#[test]
fn a_trace_replays_to_the_same_digest() {
    let (trace, report) = Trace::record(&leaks(), 3);
    assert!(!report.passed && !trace.story.is_empty());
    let read = Trace::parse(&trace.to_lines().unwrap()).unwrap();
    assert_eq!(read, trace);
    let (again, _) = Trace::record(&read.head.scenario, read.head.seed);
    assert_eq!(again.head.digest, trace.head.digest);
    assert_eq!(difference(&again.story, &trace.story), None);
    let (other, _) = Trace::record(&read.head.scenario, 4);
    assert!(difference(&other.story, &trace.story).is_some());
    assert!(matches!(Trace::parse("{}"), Err(NoTrace::Line { line: 1, .. })));
}
