//! What a claim's status says of its expansion on a node (`pkg/volume/util/resize_util.go`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::ResizePhase;

/// The conditions that end with an expansion.
const OURS: [&str; 4] = ["FileSystemResizePending", "Resizing", "ControllerResizeError", "NodeResizeError"];

/// A merge patch of the claim's status. The size is the volume's, as whoever asked for it wrote it (`2Gi`).
pub fn claim_resize_status(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>, phase: &ResizePhase, now: &Time) -> Value {
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let keep = |dropped: &[&str]| conditions.clone().filter(|known| !dropped.contains(&known.type_.as_str())).cloned().collect::<Vec<_>>();
    match phase {
        ResizePhase::InProgress => json!({"allocatedResourceStatuses": {"storage": "NodeResizeInProgress"}}),
        ResizePhase::Finished(bytes) => {
            let capacity = volume.and_then(|volume| volume.spec.as_ref()?.capacity.as_ref()?.get("storage"));
            let size = capacity.map_or_else(|| bytes.to_string(), |capacity| capacity.0.clone());
            json!({"capacity": {"storage": size}, "allocatedResourceStatuses": null, "conditions": keep(&OURS)})
        }
        ResizePhase::Failed(message) => {
            let mut conditions = keep(&["NodeResizeError"]);
            conditions.push(PersistentVolumeClaimCondition {
                type_: "NodeResizeError".into(),
                status: "True".into(),
                message: Some(message.clone()),
                last_transition_time: Some(now.clone()),
                ..PersistentVolumeClaimCondition::default()
            });
            json!({ "conditions": conditions })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_the_volumes_and_only_conditions_of_an_expansion_go() {
        let now = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [
            {"type": "Resizing", "status": "True"}, {"type": "NodeResizeError", "status": "True"}, {"type": "Mine", "status": "True"}]}}))
        .unwrap();
        let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {}, "spec": {"capacity": {"storage": "2Gi"}}})).unwrap();
        let kinds = |status: &Value| -> Vec<String> {
            status["conditions"].as_array().unwrap().iter().map(|condition| condition["type"].as_str().unwrap().into()).collect()
        };
        let done = claim_resize_status(&claim, Some(&volume), &ResizePhase::Finished(2 << 30), &now);
        assert_eq!((&done["capacity"]["storage"], kinds(&done)), (&json!("2Gi"), vec!["Mine".to_owned()]));
        assert!(done["allocatedResourceStatuses"].is_null());
        let failed = claim_resize_status(&claim, Some(&volume), &ResizePhase::Failed("no".into()), &now);
        assert_eq!(kinds(&failed), ["Resizing", "Mine", "NodeResizeError"]);
        assert_eq!(failed["conditions"][2]["message"], "no");
    }
}
