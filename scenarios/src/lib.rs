//! Scenarios: a YAML language for exercises and incidents of the storage path, a runner that plays one file either in
//! virtual time ([`world`]) or against a running ebbtide with real devices ([`live`]), and the invariants that both watch.

pub mod audit;
pub mod engine;
pub mod import;
pub mod invariants;
pub mod journal;
pub mod language;
pub mod library;
pub mod live;
pub mod matching;
pub mod report;
pub mod runner;
pub mod search;
pub mod variables;
pub mod world;

pub use language::{LoadError, Scenario};
pub use library::{library, load, load_all};
pub use report::{Observer, Report, Silent};

/// The JSON schema of a scenario file.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Scenario).to_value();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".into(), "ebbtide scenario".into());
    }
    schema
}

/// Drives a future that never waits to its end. The virtual world's futures are such; one that waits would be a bug, and
/// polling it again and again could only hang, so it is said.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("the virtual world waits for something outside of it"),
    }
}
