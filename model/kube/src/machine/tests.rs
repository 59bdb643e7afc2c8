use std::time::Duration;

use serde_json::json;

use super::*;
use crate::object::Kind;
use crate::testing::object;
use crate::write::ApiError;

fn volume(version: &str) -> Object {
    object(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v", "resourceVersion": version}}))
}

fn key() -> Key {
    Key::new(Kind::PersistentVolume, "", "v")
}

#[test]
fn an_old_event_does_not_undo_a_newer_answer() {
    let mut cache = Cache::default();
    cache.apply(&Change::Added(volume("5")));
    cache.answered(&volume("9"), false);
    cache.apply(&Change::Modified(volume("7")));
    assert_eq!(cache.object(&key()).map(Object::resource_version), Some(9));
}

#[test]
fn an_answer_does_not_raise_the_dead() {
    let mut cache = Cache::default();
    cache.apply(&Change::Added(volume("5")));
    cache.apply(&Change::Deleted(volume("9")));
    cache.answered(&volume("8"), false);
    assert_eq!(cache.object(&key()), None);
}

#[test]
fn one_call_an_item_and_a_target() {
    let (mut queue, mut out) = (Queue::default(), Vec::new());
    let (a, b) = (Key::new(Kind::PersistentVolumeClaim, "n", "a"), Key::new(Kind::PersistentVolumeClaim, "n", "b"));
    queue.mark(a.clone());
    queue.mark(b.clone());
    assert_eq!(queue.take(), None, "not booted");
    queue.boot();
    assert_eq!(queue.take(), Some(a.clone()));
    assert!(queue.write(&a, Write::delete(key()), &mut out));
    assert_eq!(queue.take(), Some(b.clone()));
    assert!(!queue.write(&b, Write::delete(key()), &mut out), "the target is busy");
    queue.mark(a.clone());
    assert_eq!(queue.take(), None, "the item is busy");
    queue.finish(0).unwrap();
    assert_eq!((queue.take(), queue.take(), queue.take()), (Some(a), Some(b), None), "both are synced again");
    assert_eq!(queue.finish(0), Err(Reject::UnknownCall { call: 0 }));
}

#[test]
fn failures_wait_longer_and_longer_and_a_conflict_does_not() {
    let (mut queue, mut cache, mut out) = (Queue::default(), Cache::default(), Vec::new());
    queue.boot();
    let waits = |out: &[Effect]| -> Vec<Duration> {
        out.iter().filter_map(|effect| if let Effect::Arm(_, wait) = effect { Some(*wait) } else { None }).collect()
    };
    for call in 0..3 {
        queue.write(&key(), Write::delete(key()), &mut out);
        queue.answer(&mut cache, call, &Err(ApiError::internal("x")), Backoff::OPERATION, &mut out).unwrap();
        assert_eq!(queue.take(), None);
        queue.retry(&key());
        assert_eq!(queue.take(), Some(key()));
    }
    assert_eq!(waits(&out), [500, 1000, 2000].map(Duration::from_millis));
    queue.succeed(&key());
    out.clear();
    queue.write(&key(), Write::delete(key()), &mut out);
    queue.answer(&mut cache, 3, &Err(ApiError::stale(&Kind::PersistentVolume, "v")), Backoff::OPERATION, &mut out).unwrap();
    assert_eq!(waits(&out), [Duration::from_millis(5)]);
    assert_eq!(Backoff::OPERATION.after(100), Duration::from_secs(122));
}

#[test]
fn stamping_fills_only_what_is_open() {
    let time = |text: &str| Time(text.parse().unwrap());
    let mut write = Write::update_status(
        serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(json!({"metadata": {"name": "p"}, "status": {"conditions": [
            {"type": "A", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}, {"type": "B", "status": "True"}]}}))
        .unwrap(),
    );
    stamp(&mut write, &time("2026-01-01T00:00:00Z"));
    let Write::Update { object: Object::Pod(pod), .. } = write else { unreachable!() };
    let times: Vec<_> =
        pod.status.iter().flat_map(|status| status.conditions.iter().flatten()).map(|known| known.last_transition_time.clone()).collect();
    assert_eq!(times, [Some(time("2020-01-01T00:00:00Z")), Some(time("2026-01-01T00:00:00Z"))]);
}
