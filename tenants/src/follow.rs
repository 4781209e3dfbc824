//! Reads the topic `tenants`.

use millrace_config::Config;
use millrace_schemas::{Codec, DirectoryEntry, topics};
use millrace_stage::{Decoder, Followed, Follower, Report, Since, follow as follow_topic};
use rdkafka::message::{BorrowedMessage, Message};
use tokio_util::sync::CancellationToken;

use crate::catalogue::Tenants;

/// Reads the topic into `tenants` until `shutdown`.
///
/// # Errors
/// When there is no thread for it.
pub fn follow(
    config: &Config,
    group: &str,
    codec: Codec,
    tenants: Tenants,
    report: Report,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let followed = Followed { topic: topics::TENANTS, group: group.to_owned(), since: Since::Beginning };
    let reader = Reader { decoder: Decoder::new(codec, shutdown.clone()), tenants };
    follow_topic(&config.kafka, followed, reader, report, shutdown)
}

struct Reader {
    decoder: Decoder,
    tenants: Tenants,
}

impl Follower for Reader {
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        // Nobody of ours writes a record without a value.
        let Some(value) = message.payload() else { return };
        // Who is refused must not come in because a schema could not be fetched: that is waited for.
        match self.decoder.decode::<DirectoryEntry>(value) {
            Ok(entry) => self.tenants.take(entry),
            Err(error) => {
                tracing::error!(offset = message.offset(), %error, "an entry of the directory can not be read");
            }
        }
    }

    fn caught_up(&mut self) {
        self.tenants.caught_up();
    }
}
