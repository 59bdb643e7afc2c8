//! `/metrics` for Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model_aws::Aws;
use model_aws::faults::Action;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    service: &'static str,
    action: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: &'static str,
    action: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fault {
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    kind: &'static str,
    state: &'static str,
}

/// What is counted.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter<u64, AtomicU64>>,
    seconds: Family<Service, Histogram, fn() -> Histogram>,
    resources: Family<Resource, Gauge>,
    agents: Gauge,
    faults: Family<Fault, Counter<u64, AtomicU64>>,
}

fn buckets() -> Histogram {
    Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ebbtide_aws");
        let requests = Family::default();
        registry.register("requests", "Requests answered", requests.clone());
        let seconds = Family::new_with_constructor(buckets as fn() -> Histogram);
        registry.register("request_duration_seconds", "Time from a request to its answer", seconds.clone());
        let resources = Family::default();
        registry.register("resources", "Resources by kind and state", resources.clone());
        let agents = Gauge::default();
        registry.register("agents", "Connected agents", agents.clone());
        let faults = Family::default();
        registry.register("fault_hits", "Calls, volumes and nodes that met a fault", faults.clone());
        Self { registry, requests, seconds, resources, agents, faults }
    }
}

impl Metrics {
    /// Counts an answer. `action` must come from a bounded set: unknown ones count as `Unknown`.
    pub fn count(&self, service: &'static str, action: &str, status: u16, took: Duration) {
        let action = if status == 400 && action.len() > 64 { "Unknown" } else { action };
        self.requests.get_or_create(&Request { service, action: action.to_owned(), status }).inc();
        self.seconds.get_or_create(&Service { service, action: action.to_owned() }).observe(took.as_secs_f64());
    }

    /// The text of all metrics. What exists is counted now, which takes as long as there are volumes.
    pub fn text(&self, states: Vec<((&'static str, &'static str), i64)>, hits: Vec<(Action, u64)>, agents: usize) -> String {
        self.resources.clear();
        for ((kind, state), count) in states {
            self.resources.get_or_create(&Resource { kind, state }).set(count);
        }
        for (action, count) in hits {
            // The machine counts; this only shows it.
            self.faults.get_or_create(&Fault { action: action.id() }).inner().store(count, Ordering::Relaxed);
        }
        self.agents.set(i64::try_from(agents).unwrap_or(i64::MAX));
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// How many resources are in which state.
pub fn states(aws: &Aws) -> Vec<((&'static str, &'static str), i64)> {
    let mut counts = std::collections::BTreeMap::new();
    for volume in aws.ec2.volumes() {
        *counts.entry(("volume", volume.status().name())).or_insert(0) += 1;
    }
    for snapshot in aws.ec2.snapshots() {
        *counts.entry(("snapshot", snapshot.status().name())).or_insert(0) += 1;
    }
    let (file_systems, mount_targets, access_points) = aws.efs.counts();
    for (kind, count) in [("fileSystem", file_systems), ("mountTarget", mount_targets), ("accessPoint", access_points)] {
        counts.insert((kind, "any"), i64::try_from(count).unwrap_or(i64::MAX));
    }
    counts.into_iter().collect()
}
