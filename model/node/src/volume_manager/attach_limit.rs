//! Whether a volume is not attached because its node takes no more (`csiPlugin.VerifyExhaustedResource`).

use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use model_common::csi::Code;

/// What the attacher was told counts for drivers that keep their nodes' limits up to date; of others the limit is not trusted so far.
pub fn is_exhausted(driver: Option<&CSIDriver>, attachment: Option<&VolumeAttachment>) -> bool {
    let follows = driver.and_then(|driver| driver.spec.node_allocatable_update_period_seconds).is_some_and(|seconds| seconds > 0);
    let error = attachment.and_then(|attachment| attachment.status.as_ref()?.attach_error.as_ref()?.error_code);
    follows && error == Some(Code::ResourceExhausted as i32)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_this_error_of_a_driver_that_follows_its_limit_counts() {
        let driver = |spec| serde_json::from_value::<CSIDriver>(json!({"metadata": {}, "spec": spec})).unwrap();
        let (follows, keeps) = (driver(json!({"nodeAllocatableUpdatePeriodSeconds": 10})), driver(json!({})));
        let failed = |code| {
            let status = json!({"attached": false, "attachError": {"message": "x", "errorCode": code}});
            let spec = json!({"attacher": "d", "nodeName": "n", "source": {}});
            serde_json::from_value::<VolumeAttachment>(json!({"metadata": {}, "spec": spec, "status": status})).unwrap()
        };
        assert!(is_exhausted(Some(&follows), Some(&failed(8))));
        assert!(!is_exhausted(Some(&follows), Some(&failed(13))) && !is_exhausted(Some(&follows), None));
        assert!(!is_exhausted(Some(&keeps), Some(&failed(8))) && !is_exhausted(None, Some(&failed(8))));
    }
}
