//! Reads the topic `cancellations`.

use std::time::Duration;

use millrace_admission::Directory;
use millrace_config::Config;
use millrace_schemas::{Codec, SIGNATURE_HEADER, now_millis, topics};
use millrace_stage::{Followed, Follower, Report, Since, follow as follow_topic};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::record::{self, Ignored};
use crate::set::{Cancellations, KEPT};

/// Between two tries to read a record whose schema can not be fetched.
const PAUSE: Duration = Duration::from_secs(1);
/// Brokers' clocks may differ from ours by this much, milliseconds.
const CLOCKS: i64 = 60 * 60 * 1_000;

/// Reads the topic into `cancellations` until `shutdown`.
///
/// # Errors
/// When there is no thread for it.
pub fn follow(
    config: &Config,
    group: &str,
    (directory, codec): (Directory, Codec),
    cancellations: Cancellations,
    report: Report,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    // An older cancellation is of a request that has expired.
    let oldest = i64::try_from(config.limits.max_deadline_ms).unwrap_or(i64::MAX).saturating_add(CLOCKS);
    let since = Since::Recent(now_millis().saturating_sub(oldest), i64::try_from(KEPT).unwrap_or(i64::MAX));
    let followed = Followed { topic: topics::CANCELLATIONS, group: group.to_owned(), since };
    let reader = Reader { directory, codec, cancellations, shutdown: shutdown.clone(), runtime: Handle::current() };
    follow_topic(&config.kafka, followed, reader, report, shutdown)
}

struct Reader {
    directory: Directory,
    codec: Codec,
    cancellations: Cancellations,
    shutdown: CancellationToken,
    runtime: Handle,
}

impl Follower for Reader {
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let headers = message.headers();
        let signature = headers
            .and_then(|headers| headers.iter().find(|header| header.key == SIGNATURE_HEADER)?.value)
            .and_then(|value| std::str::from_utf8(value).ok());
        let value = message.payload().unwrap_or_default();
        let (partition, offset) = (message.partition(), message.offset());
        let at = message.timestamp().to_millis().unwrap_or_default();
        loop {
            match self.runtime.block_on(record::read(&self.directory, &self.codec, signature, value, at)) {
                Ok(cancellation) => {
                    return self.cancellations.cancel(&cancellation.tenant, &cancellation.request_id);
                }
                Err(error @ Ignored::Unreadable(_)) if error.is_outage() && !self.shutdown.is_cancelled() => {
                    tracing::warn!(partition, offset, %error, "cancellation is read again");
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    return tracing::warn!(partition, offset, %error, "cancellation is ignored");
                }
            }
        }
    }

    fn caught_up(&mut self) {
        self.cancellations.caught_up();
    }
}
