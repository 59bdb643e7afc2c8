//! What a kubelet writes in the status of its Node, and when (kubernetes-storage-path.md §3.9; `pkg/kubelet/kubelet_node_status.go`).
//!
//! It looks each 10 s. It writes when its watch shows something else than it would write, and else once its last write is 5 minutes old.
//! After a write that changed something these 5 minutes are spread by half of them either way, so that nodes which changed together do not
//! all report together for ever.

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// `nodeStatusUpdateFrequency`.
pub const LOOK: Duration = Duration::from_secs(10);
/// By how much a look may be late: a jitter of 0.04.
pub const LOOK_SPREAD: Duration = Duration::from_millis(400);
/// `nodeStatusReportFrequency`.
pub const REPORT: Duration = Duration::from_secs(300);

/// When the next write is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reports {
    period: Duration,
}

impl Default for Reports {
    fn default() -> Self {
        Self { period: REPORT }
    }
}

impl Reports {
    /// Whether this look ends in a write. `since`: the last write; none: this kubelet has written nothing yet. `spread`: anything up to
    /// [`REPORT`], from whoever has chance.
    pub fn look(&mut self, changed: bool, since: Option<Duration>, spread: Duration) -> bool {
        let due = since.is_none_or(|since| since >= self.period);
        if changed {
            self.period = REPORT / 2 + spread.min(REPORT);
        } else if due {
            self.period = REPORT;
        }
        changed || due
    }
}

/// What a kubelet says that is well.
const WELL: [(&str, &str, &str, &str); 4] = [
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
];

/// The conditions of a kubelet that is well. One whose status stays as it was `before` keeps the time of its last transition.
pub fn conditions(before: &[NodeCondition], now: &Time) -> Vec<NodeCondition> {
    let condition = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let same = before.iter().find(|known| known.type_ == kind && known.status == status);
        let since = same.and_then(|known| known.last_transition_time.clone());
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        }
    };
    WELL.map(condition).into()
}

/// Whether a kubelet that is well would change the conditions (`nodeStatusHasChanged`): the time of a heartbeat is no change.
pub fn conditions_differ(shown: &[NodeCondition]) -> bool {
    let fits = |(kind, status, reason, message): &(&str, &str, &str, &str)| {
        shown.iter().any(|known| {
            (known.type_.as_str(), known.status.as_str(), known.reason.as_deref(), known.message.as_deref())
                == (*kind, *status, Some(*reason), Some(*message))
        })
    };
    !WELL.iter().all(fits)
}

/// Whether what does not beat differs in `shown` from what the kubelet `is`: amounts, addresses, who it is. What it leaves open is others'.
pub fn identity_differs(shown: &NodeStatus, is: &NodeStatus) -> bool {
    (&shown.capacity, &shown.allocatable, &shown.addresses, &shown.node_info)
        != (&is.capacity, &is.allocatable, &is.addresses, &is.node_info)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn it_writes_at_once_what_changed_and_else_each_five_minutes() {
        let mut reports = Reports::default();
        assert!(reports.look(false, None, Duration::ZERO), "the first look of a kubelet");
        assert!(!reports.look(false, Some(4 * MINUTE), Duration::ZERO));
        assert!(reports.look(false, Some(5 * MINUTE), Duration::ZERO));
        assert!(reports.look(true, Some(LOOK), Duration::ZERO));
        assert!(reports.look(false, Some(REPORT / 2), Duration::ZERO), "2.5 minutes after a change at the earliest");
        assert!(!reports.look(false, Some(REPORT / 2), Duration::ZERO), "and then each 5 again");
        assert!(reports.look(true, Some(LOOK), REPORT));
        assert!(!reports.look(false, Some(7 * MINUTE), Duration::ZERO));
        assert!(reports.look(false, Some(REPORT * 3 / 2), Duration::ZERO), "7.5 at the latest");
    }

    #[test]
    fn a_condition_that_somebody_else_wrote_is_a_change_and_a_heartbeat_is_none() {
        let (early, late) = (Time("2026-01-01T00:00:00Z".parse().unwrap()), Time("2026-01-01T00:05:00Z".parse().unwrap()));
        let first = conditions(&[], &early);
        assert!(conditions_differ(&[]) && !conditions_differ(&first));
        let again = conditions(&first, &late);
        assert!(!conditions_differ(&again));
        assert_eq!((&again[3].last_transition_time, &again[3].last_heartbeat_time), (&Some(early.clone()), &Some(late.clone())));
        let mut unknown = again.clone();
        unknown[3].status = "Unknown".into();
        assert!(conditions_differ(&unknown));
        assert_eq!(conditions(&unknown, &late)[3].last_transition_time, Some(late));
    }
}
