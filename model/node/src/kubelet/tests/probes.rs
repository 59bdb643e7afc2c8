//! Probes: a table of what each result does.

use super::*;
use crate::pod::ProbeSpec;

const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

/// A running pod whose main container (or, `sidecar`, its only sidecar) has probes.
fn probed(kinds: &[ProbeKind], sidecar: bool) -> Bench {
    let mut spec = spec(RestartPolicy::Always, if sidecar { &[("side", true)] } else { &[] });
    let probe = ProbeSpec { delay: Duration::from_secs(5), period: Duration::from_secs(10), success: 1, failure: 2, grace: None };
    let inner = Arc::make_mut(&mut spec);
    let container = if sidecar { &mut inner.init[0] } else { &mut inner.containers[0] };
    container.probes = kinds.iter().map(|kind| (*kind, probe.clone())).collect();
    let mut bench = Bench::new(spec);
    bench.see(None);
    bench.took();
    bench
}

impl Bench {
    fn due(&mut self, container: &str, kind: ProbeKind) -> Option<u64> {
        self.fire(PodTimer::Probe(container.into(), kind)).map(|wait| wait.as_secs())
    }

    fn result(&mut self, container: &str, kind: ProbeKind, attempt: u32, well: bool) -> String {
        let result = if well { Ok(()) } else { Err("no".into()) };
        self.feed(Input::Probed { pod: "u".into(), container: container.into(), kind, attempt, result });
        self.took()
    }

    fn ready(&self) -> bool {
        self.machine.pod("u").is_some_and(Pod::ready)
    }
}

#[test]
fn a_pod_is_ready_when_its_probe_says_so() {
    let mut bench = probed(&[ProbeKind::Readiness], false);
    assert!(!bench.ready(), "not before the first success");
    assert_eq!(bench.due("main", ProbeKind::Readiness), Some(5));
    assert_eq!(bench.took(), "probe main 0 Readiness");
    assert_eq!(bench.due("main", ProbeKind::Readiness), Some(10));
    assert_eq!(bench.took(), "", "one probe at a time");
    bench.result("main", ProbeKind::Readiness, 0, true);
    assert!(bench.ready());
    assert_eq!(bench.result("main", ProbeKind::Readiness, 0, false), "Readiness probe failed: no");
    assert!(bench.ready(), "one failure is not enough");
    bench.result("main", ProbeKind::Readiness, 0, false);
    assert!(!bench.ready());
    assert!(bench.machine.pod("u").unwrap().container("main").unwrap().is_running(), "readiness ends nothing");
}

#[test]
fn a_container_that_is_not_alive_is_restarted() {
    let mut bench = probed(&[ProbeKind::Liveness], false);
    assert!(bench.ready(), "alive until proven otherwise");
    bench.due("main", ProbeKind::Liveness);
    bench.took();
    assert_eq!(bench.result("main", ProbeKind::Liveness, 0, false), "Liveness probe failed: no");
    assert_eq!(bench.result("main", ProbeKind::Liveness, 0, false), "Liveness probe failed: no, term main");
    assert_eq!(bench.result("main", ProbeKind::Liveness, 0, false), "", "it is being ended already");
    assert_eq!(bench.fire(PodTimer::Stop("main".into())), Some(Duration::from_secs(30)));
    assert_eq!(bench.took(), "kill main, start main 1");
    assert_eq!(bench.result("main", ProbeKind::Liveness, 0, false), "", "of the run before");
    assert_eq!(bench.due("main", ProbeKind::Liveness), Some(5), "the probes begin anew");
    assert!(!bench.timers.contains_key(&PodTimer::Stop("main".into())));
}

#[test]
fn the_startup_probe_holds_the_others_back() {
    let mut bench = probed(&ALL, false);
    for kind in [ProbeKind::Readiness, ProbeKind::Liveness] {
        assert_eq!(bench.due("main", kind), Some(5));
    }
    assert_eq!(bench.took(), "");
    bench.due("main", ProbeKind::Startup);
    assert_eq!(bench.took(), "probe main 0 Startup");
    let now = bench.result("main", ProbeKind::Startup, 0, true);
    assert_eq!(now, "probe main 0 Readiness, probe main 0 Liveness", "what was held back runs at once");
    assert!(!bench.timers.contains_key(&PodTimer::Probe("main".into(), ProbeKind::Startup)), "it runs no more");
    assert!(!bench.ready());
    bench.result("main", ProbeKind::Readiness, 0, true);
    assert!(bench.ready());
}

#[test]
fn the_containers_wait_for_a_sidecar_to_start_up() {
    let mut bench = probed(&[ProbeKind::Startup], true);
    assert_eq!(bench.phase(), Some(Phase::Pending));
    bench.due("side", ProbeKind::Startup);
    bench.took();
    assert_eq!(bench.result("side", ProbeKind::Startup, 0, true), "start main 0");
    assert!(bench.ready());
}

#[test]
fn a_pod_that_ends_is_not_probed() {
    let mut bench = probed(&ALL, false);
    bench.see(Some(30));
    bench.took();
    bench.due("main", ProbeKind::Startup);
    assert_eq!(bench.took(), "");
    bench.exit("main", 0);
    assert!(!bench.timers.keys().any(|timer| matches!(timer, PodTimer::Probe(..) | PodTimer::Stop(_))), "{:?}", bench.timers);
}
