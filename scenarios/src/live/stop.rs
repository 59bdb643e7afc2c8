//! How whoever started a live run ends it.

use std::sync::Arc;

use tokio::sync::watch;

/// Says to a live run that it is to end: it begins nothing more, and takes down what it made. Clones are one.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when somebody has said so.
    pub async fn stopped(&self) {
        // It cannot fail: this is a sender.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}
