//! How a worker that holds no record ends the ledger.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The first failure, and the token that it cancels.
#[derive(Debug)]
pub struct Failure {
    error: Mutex<Option<String>>,
    stop: CancellationToken,
}

impl Failure {
    /// A failure yet to happen.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self { error: Mutex::new(None), stop }
    }

    /// Ends the ledger.
    pub fn fail(&self, error: String) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.cancel();
    }

    /// What happened first.
    #[must_use]
    pub fn happened(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
