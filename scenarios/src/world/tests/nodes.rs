//! What a kubelet says of its node, and when.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::super::{World, run};
use crate::language::{Scenario, parse};

fn scenario(steps: &str) -> Scenario {
    let head = "apiVersion: ebbtide.dev/v1alpha1
kind: Scenario
metadata: {name: t}
spec:
  world: {nodes: [{name: n1, zone: us-east-1a}, {name: n2, zone: us-east-1a}]}
  steps:
  - name: a
    try:
";
    parse("t", &format!("{head}{steps}")).unwrap()
}

fn plays(steps: &str) {
    for seed in 0..3 {
        let report = run(&scenario(steps), seed);
        assert!(report.passed, "seed {seed}: {}", report.to_text());
    }
}

/// Unknown after 50 s without a sign of life, and Ready at the first look after the trouble.
#[test]
fn a_node_is_ready_again_after_its_trouble() {
    let troubles = [
        ("{actionId: \"aws:ec2:stop-instances\", node: n1}", "{actionId: \"local:power-on\", node: n1}"),
        ("{actionId: \"local:partition\", node: n1}", "{actionId: \"local:heal\", node: n1}"),
        ("{actionId: \"local:crash\", actor: kubelet, node: n1}", "{actionId: \"local:start\", actor: kubelet, node: n1}"),
        ("{actionId: \"local:pause\", actor: kubelet, node: n1, duration: 2m}", "{actionId: \"local:clear\"}"),
    ];
    for (begins, ends) in troubles {
        plays(&format!(
            "    - fault: {begins}
    - sleep: 1m10s
    - assert: {{resource: {{kind: Node, metadata: {{name: n1}}, spec: {{taints: [{{key: node.kubernetes.io/unreachable}}, {{key: node.kubernetes.io/unreachable}}]}}}}}}
    - fault: {ends}
    - wait: {{for: {{kind: Node, name: n1, condition: Ready}}, timeout: 12s}}
"
        ));
    }
}

#[test]
fn a_kubelet_that_starts_makes_its_node_its_lease_and_its_drivers_again() {
    plays(
        "    - assert: {resource: {kind: Node, metadata: {name: n1}}, capture: {uid: metadata/uid}}
    - fault: {actionId: \"local:crash\", actor: kubelet, node: n1}
    - delete: {kind: Node, name: n1}
    - assert: {absent: {kind: CSINode, name: n1}, within: 5s}
    - sleep: 1m
    - assert: {absent: {kind: Node, name: n1}}
    - fault: {actionId: \"local:start\", actor: kubelet, node: n1}
    - wait: {for: {kind: Node, name: n1, condition: Ready}, timeout: 5s}
    - assert: {resource: {kind: Node, metadata: {name: n1, labels: {topology.ebs.csi.aws.com/zone: us-east-1a}}}, capture: {again: metadata/uid}}
    - assert: {resource: {kind: CSINode, metadata: {name: n1, ownerReferences: [{kind: Node, uid: \"${again}\"}]}, spec: {drivers: [{name: ebs.csi.aws.com}, {name: efs.csi.aws.com}]}}}
    - assert: {resource: {kind: Lease, metadata: {name: n1, namespace: kube-node-lease, ownerReferences: [{kind: Node, uid: \"${again}\"}]}}}
",
    );
}

/// Upstream too: `registerWithAPIServer` succeeds once in a kubelet's life.
#[test]
fn a_kubelet_that_goes_on_makes_no_second_node() {
    plays(
        "    - delete: {kind: Node, name: n1}
    - sleep: 10m
    - assert: {absent: {kind: Node, name: n1}}
    - assert: {absent: {kind: Lease, name: n1, namespace: kube-node-lease}}
    - fault: {actionId: \"local:restart\", actor: kubelet, node: n1}
    - wait: {for: {kind: Node, name: n1, condition: Ready}, timeout: 5s}
",
    );
}

#[test]
fn a_driver_that_does_not_say_who_it_is_is_asked_again() {
    plays(
        "    - fault: {actionId: \"local:rpc\", call: NodeGetInfo, node: n1, code: Unavailable, count: 6}
    - fault: {actionId: \"local:crash\", actor: kubelet, node: n1}
    - delete: {kind: Node, name: n1}
    - sleep: 1s
    - fault: {actionId: \"local:start\", actor: kubelet, node: n1}
    - wait: {for: {kind: Node, name: n1, condition: Ready}, timeout: 1s}
    - assert: {resource: {kind: CSINode, metadata: {name: n1}, spec: {drivers: []}}}
    - assert: {resource: {kind: CSINode, metadata: {name: n1}, spec: {drivers: [{name: ebs.csi.aws.com}, {name: efs.csi.aws.com}]}}, within: 10s}
",
    );
}

/// Each 5 minutes, and the first time after 2.5 to 7.5.
#[test]
fn a_quiet_node_reports_each_five_minutes() {
    let mut world = World::new(&scenario("    - sleep: 1s\n"), 7, Vec::new(), false).unwrap();
    let mut seen = Vec::new();
    for _ in 0..360 {
        world.advance(Duration::from_secs(10));
        let version = world.store.get::<Node>("", "n1").unwrap().metadata.resource_version.clone();
        if seen.last().is_none_or(|(_, last)| *last != version) {
            seen.push((world.clock.now(), version));
        }
    }
    let spans: Vec<u64> = seen.windows(2).map(|two| (two[1].0 - two[0].0).as_secs()).collect();
    assert!((10..=13).contains(&spans.len()), "{spans:?}");
    assert!((150..=470).contains(&spans[0]) && spans[1..].iter().all(|span| (300..=320).contains(span)), "{spans:?}");
}
