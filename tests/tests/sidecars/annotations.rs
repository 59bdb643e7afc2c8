//! E13 of users.md §2.1. It stands beside the other exercises, as it needs a sidecar and a driver that not every stack has.

use super::exercises::stack::Exercise;

/// E13: a change by annotations on the claim.
pub fn e13(x: &Exercise<'_>) {
    x.class("");
    x.claim("ebs-claim", "10Gi", "");
    x.pod("app", "ebs-claim", "");
    x.ready("app");
    let id = x.volume_of("ebs-claim");
    let shown = |volume: &serde_json::Value| format!("{} {} {}", volume["VolumeType"], volume["Iops"], volume["Throughput"]);
    assert_eq!(shown(&x.describe_volume(&id)), "\"gp3\" 3000 125");
    x.kubectl(&["annotate", "pvc", "ebs-claim", "ebs.csi.aws.com/volumeType=io2", "ebs.csi.aws.com/iops=4000"]);
    let events = || x.kubectl(&["events", "--for", "pvc/ebs-claim"]);
    x.eventually("the event of success", || events().contains("VolumeModificationSuccessful"));
    assert!(events().contains("VolumeModificationStarted"), "{}", events());
    assert_eq!(shown(&x.describe_volume(&id)), "\"io2\" 4000 null");
    // The volume's object remembers what was done.
    let volume = x.kubectl(&["get", "pvc", "ebs-claim", "-o", "jsonpath={.spec.volumeName}"]);
    let done = x.ebbtide.kubectl(&["get", "pv", &volume, "-o", r"jsonpath={.metadata.annotations.ebs\.csi\.aws\.com/iops}"]);
    assert_eq!(done, "4000");
    assert_eq!(x.first_lines("app").lines().count(), 3);
    x.clean_up();
}
