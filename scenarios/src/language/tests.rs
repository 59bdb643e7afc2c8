//! Files that do not fit, and what is said of them.

use super::*;

fn file(steps: &str) -> String {
    format!("apiVersion: ebbtide.dev/v1alpha1\nkind: Scenario\nmetadata: {{name: t}}\nspec:\n  steps:\n{steps}")
}

fn error(text: &str) -> String {
    parse("t.yaml", text).expect_err(text).to_string()
}

#[test]
fn a_small_file_is_read() {
    let scenario = parse(
        "t.yaml",
        &file("  - name: a\n    try:\n    - sleep: PT1M\n    - print: hi\n    - wait: {for: {kind: Pod, name: p, condition: Ready}, timeout: 6m30s}\n"),
    )
    .unwrap();
    let [step] = scenario.spec.steps.as_slice() else { panic!("one step") };
    assert_eq!(step.attempt[0], Op::Sleep(Span(std::time::Duration::from_secs(60))));
    assert_eq!(step.attempt[1], Op::Print("hi".into()));
    let Op::Wait(wait) = &step.attempt[2] else { panic!("a wait") };
    assert_eq!(wait.timeout.0.as_secs(), 390);
}

#[test]
fn what_does_not_fit_says_where_and_what_to_do() {
    for (text, parts) in [
        ("kind: Scenario\n".to_owned(), &["t.yaml", "missing field `apiVersion`"][..]),
        (
            file("  - name: a\n    try: []\n").replace("v1alpha1", "v9"),
            &["apiVersion", "`ebbtide.dev/v9` is not known; write ebbtide.dev/v1alpha1"],
        ),
        (file("  - name: a\n    try: []\n").replace("kind: Scenario", "kind: Pod"), &["kind: `Pod` is not known"]),
        (file("  []\n").replace("steps:\n  []", "steps: []"), &["spec.steps", "at least one step"]),
        (file("  - name: a\n    tries: []\n"), &["spec.steps[0]", "unknown field `tries`", "line 7"]),
        (file("  - name: a\n    try:\n    - appply: {}\n"), &["spec.steps[0].try[0]", "unknown field `appply`", "line 8"]),
        (file("  - name: a\n    try:\n    - {}\n"), &["spec.steps[0].try", "an operation needs one of aws, apply", "line 8"]),
        (file("  - name: a\n    try:\n    - {print: a, sleep: 1s}\n"), &["exactly one of aws, apply", "its own list item"]),
        (file("  - name: a\n    try:\n    - sleep: 30\n"), &["spec.steps[0].try[0]", "line 8"]),
        (file("  - name: a\n    try:\n    - sleep: soon\n"), &["spec.steps[0].try[0]", "`soon` is not a duration; write it as 90s"]),
        (
            file("  - name: a\n    try:\n    - aws: {command: s3 ls}\n"),
            &["spec.steps[0].try[0].aws.command", "`s3` is not known; there are ec2 and efs"],
        ),
        (file("  - name: a\n    try:\n    - aws: {command: create-volume}\n"), &["service and command"]),
        (
            file("  - name: a\n    try:\n    - aws: {command: ec2 create-volume, within: 3s}\n"),
            &["aws.within", "`create-volume` changes things and is not repeated"],
        ),
        (file("  - name: a\n    try:\n    - aws: {command: ec2 x, expect: {}, error: A}\n"), &["`expect` or `error`, not both"]),
        (
            file("  - name: a\n    try:\n    - wait: {for: {kind: Pod, name: p}}\n"),
            &["wait.for", "exactly one of condition, phase, deleted"],
        ),
        (file("  - name: a\n    try:\n    - wait: {for: {kind: Pod, name: p, deleted: false}}\n"), &["wait.for.deleted"]),
        (file("  - name: a\n    try:\n    - delete: {kind: Pod}\n"), &["delete", "either `manifests`, or `kind` and `name`"]),
        (file("  - name: a\n    try:\n    - exec: {pod: p, command: []}\n"), &["exec.command", "at least a program"]),
        (file("  - name: a\n    try:\n    - assert: {}\n"), &["assert", "exactly one of resource, absent, events"]),
        (file("  - name: a\n    try:\n    - assert: {resource: {metadata: {name: a}}}\n"), &["assert.resource", "needs its kind"]),
        (file("  - name: a\n    try:\n    - apply: {manifests: ''}\n"), &["apply.manifests", "no object"]),
        (
            file("  - name: a\n    try:\n    - apply: {manifests: 'kind: Pod'}\n"),
            &["apply.manifests", "document 1: an object needs `apiVersion`"],
        ),
        (file("  - name: a\n    try:\n    - print: '${id}'\n"), &["spec.steps[0].try[0]", "`${id}` is not set here; capture it"]),
        (
            file("  - name: a\n    try: []\n  invariants: [no-harm]\n"),
            &["spec.invariants", "`no-harm` is not known; there are single-attach"],
        ),
        (file("  - name: a\n    try: []\n  world: {latency: {dns: [1s, 2s]}}\n"), &["spec.world.latency", "`dns` is not known"]),
        (file("  - name: a\n    try: []\n  world: {latency: {csi: [2s, 1s]}}\n"), &["spec.world.latency.csi", "2s is more than 1s"]),
    ] {
        let message = error(&text);
        for part in parts {
            assert!(message.contains(part), "`{part}` in `{message}` for\n{text}");
        }
    }
}

#[test]
fn a_capture_sets_a_variable_for_what_follows() {
    let text = file(
        "  - name: a\n    try:\n    - aws: {command: ec2 create-volume, capture: {id: VolumeId}}\n    - print: '${id}'\n  - name: b\n    try:\n    - print: '${id}'\n",
    );
    parse("t.yaml", &text).unwrap();
}

#[test]
fn a_scenario_reads_back_as_written() {
    for (name, _) in crate::library() {
        let scenario = crate::load(name).unwrap();
        let text = serde_yaml::to_string(&scenario).unwrap();
        assert_eq!(parse(name, &text).unwrap(), scenario, "{text}");
    }
}

#[test]
fn the_schema_knows_the_verbs() {
    let schema = crate::schema().to_string();
    for part in
        ["\"aws\"", "\"within\"", "\"try\"", "\"finally\"", "\"with\"", "PT6M30S", "\"maxProperties\":1", "\"additionalProperties\":false"]
    {
        assert!(schema.contains(part), "{part} in {schema}");
    }
}
