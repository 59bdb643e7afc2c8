//! Two ways of one patch.

use super::*;
use crate::write::FieldValidation;

/// A patch that merges into a status goes a short way; it comes to the same end as the long one.
#[test]
fn the_short_way_of_a_status_ends_where_the_long_one_does() {
    let patches = [
        json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}),
        json!({"conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}], "unknown": 1}),
        json!({"containerStatuses": [], "podIP": "10.0.0.1", "reason": null}),
        json!({"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}),
        json!({}),
        json!(null),
    ];
    let key = Key::new(Kind::Pod, "default", "p");
    let ways = [FieldValidation::Ignore, FieldValidation::Warn].map(|validation| {
        let mut store = store();
        ok(&mut store, Write::create(pod("p")));
        let options = Options { validation, ..Options::default() };
        let mut states = Vec::new();
        for status in &patches {
            let patch = Patch::Merge(json!({ "status": status }));
            let write = Write::Patch { key: key.clone(), patch, subresource: Subresource::Status };
            store.step_with(at(1), &write, &options, &mut Vec::new()).unwrap();
            states.push(store.object(&key).unwrap().to_json().unwrap());
        }
        let wrong = Patch::Merge(json!({"status": {"phase": 7}}));
        let write = Write::Patch { key: key.clone(), patch: wrong, subresource: Subresource::Status };
        (states, store.step_with(at(1), &write, &options, &mut Vec::new()).unwrap_err())
    });
    assert_eq!(ways[0], ways[1]);
    assert_ne!(ways[0].0[0], ways[0].0[1]);
}
