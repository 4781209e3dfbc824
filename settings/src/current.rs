//! The settings that are used now.

use std::sync::Arc;

use arc_swap::ArcSwap;
use millrace_provider::Providers;
use tokio::sync::watch;

use crate::Settings;

/// Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Current {
    settings: Arc<ArcSwap<Settings>>,
    replaced: Arc<watch::Sender<()>>,
}

impl Current {
    /// Begins with these.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(ArcSwap::from_pointee(settings)), replaced: Arc::default() }
    }

    /// Those of this moment. Ask once for a request, and keep them to its end.
    #[must_use]
    pub fn now(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Uses others from now on; whoever has asked before keeps what it has. Returns those before.
    pub fn replace(&self, next: Arc<Settings>) -> Arc<Settings> {
        let before = self.settings.swap(Arc::clone(&next));
        next.providers.forget_gone(&before.providers);
        self.replaced.send_replace(());
        before
    }

    /// Waits until others than these providers are used.
    pub async fn until_not(&self, providers: &Providers) {
        let mut replaced = self.replaced.subscribe();
        // The sender is in `self`, so it is not gone.
        let _replaced = replaced.wait_for(|()| !self.now().providers.are(providers)).await;
    }
}
