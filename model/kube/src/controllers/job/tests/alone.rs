//! The Job controller alone.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Jobs, has};
use super::job;
use crate::controllers::Controller;
use crate::controllers::workload::{is_active, is_leaving};
use crate::machine::Effect;
use crate::object::{Kind, Object};
use crate::testing::alone::{self, Alone, Deed, Scene, delete, pods, put};
use crate::write::{Subresource, Write};

fn rule(alone: &Alone, effect: &Effect) {
    let Effect::Write { write, .. } = effect else { return };
    let Some(known) = alone.told.get::<Job>("default", "job") else { return };
    match write {
        Write::Create { object: Object::Pod(pod) } => {
            let spec = known.spec.as_ref().unwrap();
            let owner = &pod.metadata.owner_references.as_ref().unwrap()[0].uid;
            let is_own = |pod: &Pod| pod.metadata.owner_references.iter().flatten().any(|known| known.uid == *owner);
            let active = alone.told.list::<Pod>().filter(|pod| is_own(pod) && is_active(pod)).count();
            assert!(i32::try_from(active).unwrap() < spec.parallelism.unwrap(), "too many: {pod:?}");
            let status = known.status.clone().unwrap_or_default();
            assert!(!has(&status, "Complete") && !has(&status, "Failed") && !is_leaving(&known.metadata));
        }
        // No end is taken back, and no pod is counted away.
        Write::Update { object: Object::Job(next), subresource: Subresource::Status } if next.metadata.uid == known.metadata.uid => {
            let (before, after) = (known.status.clone().unwrap_or_default(), next.status.clone().unwrap_or_default());
            assert!(
                after.succeeded.unwrap_or(0) >= before.succeeded.unwrap_or(0) && after.failed.unwrap_or(0) >= before.failed.unwrap_or(0)
            );
            assert!(!has(&before, "Complete") && !has(&before, "Failed"), "it was over");
            let wanted = next.spec.as_ref().unwrap().completions.unwrap();
            assert!(!has(&after, "Complete") || after.succeeded.unwrap_or(0) >= wanted, "{after:?}");
        }
        _ => {}
    }
}

fn with(change: Value) -> Deed {
    put(json!({"kind": "Job", "metadata": {"name": "job", "namespace": "default"}, "spec": change}))
}

fn scene() -> Scene {
    Scene {
        make: || Controller::Jobs(Jobs::default()),
        prepared: vec![put(job(3, 2))],
        others: vec![pods::schedule(), pods::run(true), pods::end("job-", "Succeeded"), pods::reap()],
        deeds: vec![
            put(job(3, 2)),
            with(json!({"parallelism": 3})),
            with(json!({"parallelism": 1})),
            with(json!({"suspend": true})),
            with(json!({"suspend": false})),
            with(json!({"ttlSecondsAfterFinished": 5})),
            pods::schedule(),
            pods::run(true),
            pods::run(true),
            pods::reap(),
            pods::delete(0),
            pods::end("job-", "Succeeded"),
            pods::end("job-", "Failed"),
            delete(Kind::Job, "default", "job"),
        ],
        rule,
        rest: |alone| {
            let Some(job) = alone.store.get::<Job>("default", "job").filter(|job| !is_leaving(&job.metadata)) else { return };
            let status = job.status.clone().unwrap_or_default();
            let is_suspended = job.spec.as_ref().unwrap().suspend == Some(true);
            let is_over = has(&status, "Complete") || has(&status, "Failed");
            assert!(is_over || is_suspended, "neither over nor suspended: {status:?}");
            assert!(!is_over || alone.store.list::<Pod>().all(|pod| pod.metadata.finalizers.is_none()), "a pod is held");
        },
    }
}

proptest! {
    #![proptest_config(alone::config())]

    /// Never more pods than may run, none after the end, no count lost; left alone with pods that succeed the job has its end.
    #[test]
    fn each_pod_is_counted_once(moves in alone::moves()) {
        scene().run(&moves);
    }
}
