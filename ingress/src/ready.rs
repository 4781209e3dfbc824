//! Whether this replica can do its work: the broker that takes requests and the store that has the
//! answers are asked again and again.

use std::sync::Arc;
use std::time::Duration;

use millrace_schemas::{Lane, topics};
use tokio_util::sync::CancellationToken;

use crate::run::Ingress;

/// Called with whether the front door is able to work, and a word why.
pub type Ready = Arc<dyn Fn(bool, &str) + Send + Sync>;

/// Time between two looks, and the longest that each may take.
const LOOK: Duration = Duration::from_secs(2);

/// Looks until `stop`.
pub(crate) async fn watch(ingress: Arc<Ingress>, ready: Ready, stop: CancellationToken) {
    while stop.run_until_cancelled(look(&ingress, &ready)).await.is_some() {
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            break;
        }
    }
    ready(false, "stopped");
}

async fn look(ingress: &Ingress, ready: &Ready) {
    let topic = topics::of(topics::REQUESTS, Lane::Interactive);
    let broker = ingress.producer.reaches(&topic, LOOK);
    let store = async { matches!(tokio::time::timeout(LOOK, ingress.storage.ping()).await, Ok(Ok(()))) };
    let (is_ready, why) = match tokio::join!(broker, store) {
        (true, true) => (true, "serving"),
        (false, _) => (false, "the broker does not answer"),
        (true, false) => (false, "the result store does not answer"),
    };
    ready(is_ready, why);
}
