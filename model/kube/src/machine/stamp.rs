//! The times in the statuses of workloads.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::object::Object;

/// Sets the times that a workload's controller left open.
pub(super) fn workload(object: &mut Object, at: &Time) {
    let fill = |time: &mut Option<Time>| {
        time.get_or_insert_with(|| at.clone());
    };
    match object {
        Object::ReplicaSet(set) => {
            let status = Arc::make_mut(set).status.iter_mut();
            status.flat_map(|status| status.conditions.iter_mut().flatten()).for_each(|known| fill(&mut known.last_transition_time));
        }
        Object::Deployment(deployment) => {
            let status = Arc::make_mut(deployment).status.iter_mut();
            for condition in status.flat_map(|status| status.conditions.iter_mut().flatten()) {
                fill(&mut condition.last_transition_time);
                fill(&mut condition.last_update_time);
            }
        }
        Object::Job(job) => {
            let job = Arc::make_mut(job);
            let suspended = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
            let Some(status) = job.status.as_mut() else { return };
            for condition in status.conditions.iter_mut().flatten() {
                fill(&mut condition.last_transition_time);
                fill(&mut condition.last_probe_time);
            }
            if !suspended {
                fill(&mut status.start_time);
            }
            if status.conditions.iter().flatten().any(|known| known.type_ == "Complete" && known.status == "True") {
                fill(&mut status.completion_time);
            }
        }
        _ => {}
    }
}
