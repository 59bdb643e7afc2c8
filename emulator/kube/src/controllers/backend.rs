//! What the controllers need of the API.

use futures::stream::BoxStream;
use model_kube::object::{Change, Key, Kind, Object};
use model_kube::write::{ApiError, Write};

/// The API from inside the process.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Applies a write; durable when it returns.
    fn write(&self, write: Write) -> impl Future<Output = Result<Object, ApiError>> + Send;

    /// A linearizable read of one object.
    fn get(&self, key: &Key) -> impl Future<Output = Option<Object>> + Send;

    /// A linearizable read of all objects of a kind in a namespace.
    fn list_in(&self, kind: &Kind, namespace: &str) -> impl Future<Output = Vec<Object>> + Send;

    /// All objects of these kinds, and the version they are of.
    fn list(&self, kinds: &[Kind]) -> impl Future<Output = (u64, Vec<Object>)> + Send;

    /// The changes of these kinds after a version, in order. The stream ends when it cannot go on: then list again.
    fn watch(&self, kinds: &[Kind], since: u64) -> BoxStream<'static, Change>;
}
