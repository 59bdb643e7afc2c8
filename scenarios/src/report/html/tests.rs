//! What is on the page, without a browser; tests/tests/report.rs looks at it in one.

use super::*;

fn run_of(name: &str) -> (Scenario, Report, Vec<Told>) {
    let scenario = crate::load(name).unwrap();
    let (report, story) = crate::world::run_told(&scenario, scenario.spec.seed);
    (scenario, report, story)
}

fn data_of(page: &str) -> Value {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"run\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_run_has_a_lane_for_each_thing_and_its_objects_follow_from_the_patches() {
    let (scenario, report, story) = run_of("e03-ebs-dynamic");
    assert!(report.passed, "{}", report.to_text());
    let page = page(&scenario, &story, &report, Some("ebbtide run e03-ebs-dynamic --seed 3"));
    let data = data_of(&page);
    let lanes: Vec<&str> = data["lanes"].as_array().unwrap().iter().map(|lane| lane[0].as_str().unwrap()).collect();
    for lane in ["scenario", "Pod default/app", "PersistentVolumeClaim default/ebs-claim", "controller attacher (ebs)", "ec2"] {
        assert!(lanes.contains(&lane), "{lane} in {lanes:?}");
    }
    for start in ["PersistentVolume pvc-", "VolumeAttachment csi-", "attachment vol-", "Node ip-", "node ip-"] {
        assert!(lanes.iter().any(|lane| lane.starts_with(start)), "{start} in {lanes:?}");
    }
    let groups = data["groups"].as_array().unwrap();
    let order: Vec<u64> = data["lanes"].as_array().unwrap().iter().map(|lane| lane[1].as_u64().unwrap()).collect();
    assert!(order.is_sorted() && groups.len() == order.last().map_or(0, |last| *last as usize + 1), "{order:?} of {groups:?}");
    // The attachments go through their states, and the last leaves the lane empty.
    let attachment = lanes.iter().position(|lane| lane.starts_with("attachment vol-")).unwrap();
    let events = data["events"].as_array().unwrap();
    let states: Vec<&str> = events.iter().filter(|event| event[1] == attachment).filter_map(|event| event[4].as_str()).collect();
    assert!(states.starts_with(&["attaching", "attached", "detaching", ""]), "{states:?}");
    assert!(page.contains("again: <code>ebbtide run e03-ebs-dynamic --seed 3</code>") && page.contains("seed 3, digest "));
}

#[test]
fn patches_lead_to_the_object_that_was_there() {
    let (_, _, story) = run_of("e03-ebs-dynamic");
    let mut object = Value::Null;
    for told in story.iter().filter(|told| told.lane == "PersistentVolumeClaim default/ebs-claim") {
        match told.object.as_deref() {
            Some(Patch::Whole(whole)) => object = whole.clone(),
            Some(Patch::Merge(change)) => merge(&mut object, change),
            None => {}
        }
        if told.state.as_deref() == Some("Bound") {
            assert_eq!(object["status"]["phase"], "Bound");
            assert!(object["spec"]["volumeName"].is_string(), "{object}");
        }
    }
    assert_eq!(object["status"]["phase"], "Bound");
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        match value {
            Value::Null => drop(target.as_object_mut().unwrap().remove(name)),
            value => merge(&mut target[name], value),
        }
    }
}

#[test]
fn names_cannot_become_markup() {
    let (mut scenario, mut report, _) = run_of("e03-ebs-dynamic");
    let evil = "</script><script>alert(1)</script><!-- {{script}} & \"'";
    scenario.spec.description = evil.into();
    report.scenario = evil.into();
    report.error = Some(evil.into());
    report.steps[0].name = evil.into();
    report.violations = vec![crate::invariants::Violation { invariant: evil.into(), message: evil.into(), step: evil.into() }];
    let told = Told { lane: evil.into(), what: evil.into(), state: Some(evil.into()), ..Told::default() };
    let page = page(&scenario, &[told], &report, Some(evil));
    assert_eq!(page.matches("<script").count(), 2, "the page's own");
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("alert(1)<") && !page.contains("<!-- "));
    let data = data_of(&page);
    assert_eq!(data["lanes"][0][0], evil);
    assert_eq!(data["events"][0][2], evil);
    // What looks like a part of the template stays as it is.
    assert_eq!(page.matches("\"use strict\"").count(), 1);
}

#[test]
fn the_page_loads_nothing() {
    let (scenario, report, story) = run_of("f02-efs-dynamic");
    let page = page(&scenario, &story, &report, None);
    for word in ["http://", "https://", "src=", "@import", "fetch(", "XMLHttpRequest", "import("] {
        let outside =
            page.split("<script type=\"application/json\"").map(|part| part.split_once("</script>").map_or(part, |(_, rest)| rest));
        let found: usize = outside.map(|part| part.matches(word).count()).sum();
        assert_eq!(found, 0, "{word}");
    }
    assert!(page.contains("default-src 'none'"));
}
