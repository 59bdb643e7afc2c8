//! The simulator: inputs a second on one core and how much faster than real time it is; what an input costs in a large cluster,
//! against one in a small one; and a very large cluster in one process.

use std::fmt::Write as _;
use std::time::Duration;

use scenarios::engine::Engine;
use scenarios::language::Target;
use scenarios::report::{StepReport, Verdict};
use scenarios::search::{self, Options};
use scenarios::{Observer, Report, Scenario, world};
use serde_json::{Value, json};

/// How often each small row is run; the best counts, since nothing but the machine's other work differs.
const ROUNDS: usize = 3;

pub fn run() {
    println!("\nsimulator, one core, every invariant watched; an input is one call of a machine's `step`");
    println!("{:<34} {:>9} {:>10} {:>12} {:>10} {:>12}", "what", "inputs", "CPU s", "inputs/s", "µs/input", "× real time");
    let small = best(|| life(3, 10, 3600));
    searches(false);
    searches(true);
    let cost = life(1_000, 10_000, 300).cost();
    println!("an input at 1,000 nodes and 10,000 volumes costs {:.1} of one at 3 nodes and 10 volumes", cost / small.cost());
}

/// A cluster as large as Kubernetes promises to be able to be, in one process.
pub fn large() {
    let scale = std::env::var("EBBTIDE_BENCH_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    drain(5_000 / scale, 50_000 / scale, 100_000 / scale);
    println!("memory at its highest: {:.1} GiB", gib("VmHWM:"));
}

/// What this thread has had of a processor: the time it would have taken on a machine that does nothing else.
fn worked() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("/proc/thread-self/schedstat"))
}

fn since(started: Duration) -> Duration {
    worked().saturating_sub(started)
}

/// A measured stretch of a run.
#[derive(Clone, Copy)]
struct Row {
    inputs: u64,
    wall: Duration,
    time: Duration,
}

impl Row {
    /// Seconds an input.
    fn cost(self) -> f64 {
        self.wall.as_secs_f64() / (self.inputs.max(1)) as f64
    }

    fn of(world: &impl Engine, started: Duration, (inputs, time): (u64, Duration)) -> Self {
        Self { inputs: world.inputs().unwrap_or(0) - inputs, wall: since(started), time: world.now() - time }
    }

    fn print(self, what: &str) {
        println!(
            "{what:<34} {:>9} {:>10.3} {:>12.0} {:>10.2} {:>12.0}",
            self.inputs,
            self.wall.as_secs_f64(),
            1.0 / self.cost(),
            self.cost() * 1e6,
            self.time.as_secs_f64() / self.wall.as_secs_f64()
        );
    }
}

fn best(run: impl Fn() -> Row) -> Row {
    let rows = (0..ROUNDS).map(|_| run());
    rows.min_by_key(|row| row.wall).expect("at least one round")
}

/// Takes the wall time of the step that is measured.
#[derive(Default)]
struct Stopwatch {
    started: Option<Duration>,
    took: Vec<Duration>,
    told: bool,
}

impl Observer for Stopwatch {
    fn step_started(&mut self, number: usize, of: usize, name: &str) {
        if self.told {
            eprintln!("  [{number}/{of}] {name}");
        }
        self.started = Some(worked());
    }

    fn step_done(&mut self, step: &StepReport) {
        let took = self.started.take().map_or(Duration::ZERO, since);
        if self.told {
            eprintln!(
                "      {:.1} s for {:.0} s, {} inputs, {:.1} GiB",
                took.as_secs_f64(),
                step.took.as_secs_f64(),
                step.inputs.unwrap_or(0),
                gib("VmRSS:")
            );
        }
        self.took.push(took);
    }
}

/// Plays a scenario; each step's inputs and time.
fn play(text: &str, told: bool) -> Vec<Row> {
    let scenario: Scenario = scenarios::language::parse("bench", text).unwrap_or_else(|error| panic!("the benchmark's scenario: {error}"));
    let mut watch = Stopwatch { told, ..Stopwatch::default() };
    let report = world::run_watched(&scenario, 1, &mut watch);
    // What was made stays, so that its end is not measured; nothing else may be wrong.
    let holds = report.violations.iter().all(|violation| violation.invariant == "no-leak");
    assert!(holds && report.steps.iter().all(|step| step.verdict == Verdict::Passed), "{}", report.to_text());
    report
        .steps
        .iter()
        .zip(&watch.took)
        .map(|(step, wall)| Row { inputs: step.inputs.unwrap_or(0), wall: *wall, time: step.took })
        .collect()
}

/// Pods with a volume each, that write to it every five seconds; every half minute one in ten of them, and at least one, is deleted and
/// made again. What is measured is that, after all were made.
fn life(nodes: usize, volumes: usize, seconds: usize) -> Row {
    let mut text = head(nodes);
    step(&mut text, "all is made");
    apply(&mut text, CLASS);
    for n in 0..volumes {
        apply(&mut text, &claim_and_pod(n));
    }
    let _ = writeln!(text, "    - wait: {{for: {{kind: Pod, name: app-{}, condition: Ready}}, timeout: 1h}}", volumes - 1);
    let _ = writeln!(text, "    - sleep: 2m");
    step(&mut text, "life");
    // The same number of pods come and go in a large cluster as in a small one.
    for turn in 0..seconds / 30 {
        let n = turn * 7 % volumes;
        let _ = writeln!(text, "    - delete: {{kind: Pod, name: app-{n}, gracePeriodSeconds: 1}}");
        apply(&mut text, &claim_and_pod(n));
        let _ = writeln!(text, "    - sleep: 27s");
    }
    let row = play(&text, nodes > 100)[1];
    row.print(&format!("{nodes} nodes, {volumes} volumes"));
    row
}

/// What `ebbtide search` plays.
fn searches(faults: bool) {
    let options = Options { nodes: 3, volumes: 10, faults, ..Options::default() };
    let started = worked();
    let reports: Vec<Report> = (1..=20).map(|seed| world::run(&search::of_seed(seed, &options), seed)).collect();
    let row = Row {
        inputs: reports.iter().filter_map(|report| report.inputs).sum(),
        wall: since(started),
        time: reports.iter().filter_map(|report| report.virtual_time).sum(),
    };
    row.print(if faults { "search, seeds 1..20, with faults" } else { "search, seeds 1..20, no faults" });
}

/// StatefulSets with a volume a pod and Deployments without, on as many nodes; then one node after the other is cordoned and its pods are
/// deleted, as `kubectl drain` does, and must run elsewhere before the next one's turn comes.
fn drain(nodes: usize, volumes: usize, others: usize) {
    println!("\n{nodes} nodes, {} pods, {volumes} volumes", volumes + others);
    let mut text = head(nodes);
    step(&mut text, "nothing");
    let _ = writeln!(text, "    - sleep: 1s");
    let scenario = scenarios::language::parse("bench", &text).unwrap_or_else(|error| panic!("the benchmark's scenario: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let started = worked();
        let mut world = world::open(&scenario, 1).expect("a world");
        Row::of(&world, started, (0, Duration::ZERO)).print("nodes join");
        let (started, before) = (worked(), mark(&world));
        let sets = (0..volumes / 10).map(|n| stateful_set(n, 10));
        let manifests = [CLASS.to_owned()].into_iter().chain(sets).chain((0..others / 20).map(|n| deployment(n, 20)));
        for manifest in manifests {
            let object: Value = serde_yaml::from_str(&manifest).expect("a manifest");
            world.apply(&object).await.expect("applied");
        }
        // Each list is of all pods, so the looks are rare.
        let wanted = volumes + others;
        loop {
            world.pause(Duration::from_secs(120)).await;
            let running = pods(&mut world).await.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
            eprintln!(
                "  {running} pods run after {:.0} s of {:.0} s, {:.1} GiB",
                since(started).as_secs_f64(),
                world.now().as_secs_f64(),
                gib("VmRSS:")
            );
            if running == wanted {
                break;
            }
            assert!(world.now() < Duration::from_secs(6 * 3600), "{running} of {wanted} pods run");
        }
        Row::of(&world, started, before).print("all pods come to run");
        let (started, before) = (worked(), mark(&world));
        world.pause(Duration::from_secs(300)).await;
        Row::of(&world, started, before).print("five minutes of calm");
        let (started, before) = (worked(), mark(&world));
        roll(&mut world, DRAINED).await;
        Row::of(&world, started, before).print(&format!("{DRAINED} nodes drained in turn"));
        let found = world.violations().await;
        assert!(found.is_empty(), "{found:?}");
    });
}

/// How many nodes are drained.
const DRAINED: usize = 20;

async fn pods(world: &mut impl Engine) -> Vec<Value> {
    world.list(None, "Pod", Some("default")).await.expect("the pods")
}

async fn roll(world: &mut impl Engine, nodes: usize) {
    let all = pods(world).await;
    for node in (0..nodes).map(|n| format!("n{n}")) {
        let cordon = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "spec": {"unschedulable": true}});
        world.apply(&cordon).await.expect("a cordoned node");
        // What ran on it before the first drain, and is still there: nothing comes back to a cordoned node.
        let here = all.iter().filter(|pod| pod["spec"]["nodeName"] == node.as_str());
        let mut stateful = Vec::new();
        for pod in here {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let target = Target { api_version: None, kind: "Pod".into(), name: name.into(), namespace: None };
            let there = world.get(&target).await.expect("a look at a pod");
            if there.is_some_and(|there| there["metadata"]["uid"] == pod["metadata"]["uid"]) {
                world.delete(&target, Some(1)).await.expect("a deleted pod");
                if name.starts_with("db-") {
                    stateful.push((target, node.clone()));
                }
            }
        }
        // A StatefulSet's pods come back under their names.
        for (target, node) in stateful {
            loop {
                let pod = world.get(&target).await.expect("a look at a pod");
                if pod.is_some_and(|pod| pod["status"]["phase"] == "Running" && pod["spec"]["nodeName"] != node.as_str()) {
                    break;
                }
                world.pause(Duration::from_secs(1)).await;
            }
        }
    }
}

fn mark(world: &impl Engine) -> (u64, Duration) {
    (world.inputs().unwrap_or(0), world.now())
}

fn head(nodes: usize) -> String {
    let mut text = "apiVersion: ebbtide.dev/v1alpha1\nkind: Scenario\nmetadata: {name: bench}\nspec:\n  world:\n    nodes:\n".to_owned();
    for n in 0..nodes {
        // Limits of the larger type: 10 volumes and more a node.
        let _ = writeln!(text, "    - {{name: n{n}, zone: us-east-1a, instanceType: m5.large}}");
    }
    text.push_str("  steps:\n");
    text
}

fn step(text: &mut String, name: &str) {
    let _ = writeln!(text, "  - name: {name}\n    try:");
}

fn apply(text: &mut String, manifests: &str) {
    text.push_str("    - apply:\n        manifests: |\n");
    for line in manifests.trim().lines() {
        let _ = writeln!(text, "          {line}");
    }
}

const CLASS: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ebs}
provisioner: ebs.csi.aws.com
volumeBindingMode: WaitForFirstConsumer
";

fn claim_and_pod(n: usize) -> String {
    format!(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data-{n}}}
spec: {{accessModes: [ReadWriteOnce], storageClassName: ebs, resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: app-{n}}}
spec:
  containers:
  - name: app
    image: busybox
    command: [/bin/sh, -c, \"while true; do echo $(date -u) >> /data/out.txt; sleep 5; done\"]
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data-{n}}}}}]
"
    )
}

fn stateful_set(n: usize, replicas: usize) -> String {
    format!(
        "
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db-{n}}}
spec:
  replicas: {replicas}
  podManagementPolicy: Parallel
  serviceName: db-{n}
  selector: {{matchLabels: {{app: db-{n}}}}}
  template:
    metadata: {{labels: {{app: db-{n}}}}}
    spec:
      containers: [{{name: app, image: busybox, command: [sleep, infinity], volumeMounts: [{{name: data, mountPath: /data}}]}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], storageClassName: ebs, resources: {{requests: {{storage: 1Gi}}}}}}
"
    )
}

fn deployment(n: usize, replicas: usize) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{n}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web-{n}}}}}
  template:
    metadata: {{labels: {{app: web-{n}}}}}
    spec:
      containers: [{{name: app, image: busybox, command: [sleep, infinity]}}]
"
    )
}

/// A line of `/proc/self/status`.
fn gib(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / (1024.0 * 1024.0)
}
