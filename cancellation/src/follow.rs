//! Reads the topic `cancellations`.

use std::time::{Duration, Instant};

use millrace_admission::Directory;
use millrace_config::Config;
use millrace_schemas::{Cancellation, Codec, SIGNATURE_HEADER, now_millis, topics};
use millrace_stage::{Followed, Follower, Report, Since, follow as follow_topic};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::record::{self, Ignored};
use crate::set::{Cancellations, KEPT};

/// Between two tries to read a record whose schema can not be fetched.
const PAUSE: Duration = Duration::from_secs(1);
/// A key that was just made is waited for so long at most, and looked for so often.
const KEY_WITHIN: Duration = Duration::from_secs(3);
const KEY_PAUSE: Duration = Duration::from_millis(50);
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

impl Reader {
    /// Reads a record, again for as long as something may change.
    fn read(&self, signature: Option<&str>, value: &[u8], at: i64) -> Result<Cancellation, Ignored> {
        let began = Instant::now();
        loop {
            let read = self.runtime.block_on(record::read(&self.directory, &self.codec, signature, value, at));
            match read {
                Err(error) if error.is_outage() && !self.shutdown.is_cancelled() => {
                    tracing::warn!(%error, "cancellation is read again");
                    std::thread::sleep(PAUSE);
                }
                // Those behind it wait with it, and a broker's clock may be ahead: never longer than a key takes.
                Err(error)
                    if error.may_pass(at, now_millis())
                        && began.elapsed() < KEY_WITHIN
                        && !self.shutdown.is_cancelled() =>
                {
                    std::thread::sleep(KEY_PAUSE);
                }
                read => return read,
            }
        }
    }
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
        match self.read(signature, value, at) {
            Ok(cancellation) => self.cancellations.cancel(&cancellation.tenant, &cancellation.request_id),
            Err(error) => tracing::warn!(partition, offset, %error, "cancellation is ignored"),
        }
    }

    fn caught_up(&mut self) {
        self.cancellations.caught_up();
    }
}

#[cfg(test)]
mod tests {
    use millrace_admission::{Entry, EntryName, KeyEntry, TenantEntry};
    use millrace_config::hash_key;
    use millrace_schemas::{RequestId, Signature, key_digest};

    use super::*;

    /// A cancellation that was appended so long ago, by a key that is made known after a moment or never.
    async fn check(appended: i64, is_made: bool, expected: bool, took: std::ops::Range<u64>) {
        let directory = Directory::from_config(&Config::default()).expect("valid");
        let codec = Codec::detached().expect("no registry is asked");
        let request_id = RequestId::fresh("acme").into_string();
        let value =
            codec.encode(&Cancellation { tenant: "acme".to_owned(), request_id, cancelled_at: 1 }).expect("fits");
        let signature = Signature::sign("acme/new", &key_digest("mr_new"), &value);
        let reader = Reader {
            directory: directory.clone(),
            codec,
            cancellations: Cancellations::default(),
            shutdown: CancellationToken::new(),
            runtime: Handle::current(),
        };
        let began = Instant::now();
        let reading =
            tokio::task::spawn_blocking(move || reader.read(Some(&signature), &value, now_millis() - appended).is_ok());
        tokio::time::sleep(Duration::from_millis(200)).await;
        if is_made {
            let key = KeyEntry { sha256: hash_key("mr_new"), ..KeyEntry::default() };
            let entries = [
                (EntryName::Tenant("acme".to_owned()), Entry::Tenant(TenantEntry::default())),
                (EntryName::Key("acme".to_owned(), "new".to_owned()), Entry::Key(key)),
            ];
            for (name, entry) in entries {
                assert!(directory.apply(&name, Some(entry)).expect("valid"));
            }
        }
        assert_eq!(reading.await.expect("no panic"), expected);
        let millis = u64::try_from(began.elapsed().as_millis()).expect("short");
        assert!(took.contains(&millis), "{millis} ms");
    }

    #[tokio::test]
    async fn a_key_that_was_just_made_is_waited_for_and_no_other() {
        check(0, true, true, 200..2_500).await;
        // A broker whose clock is an hour ahead does not make it longer.
        check(-3_600_000, false, false, 2_900..5_000).await;
        check(60_000, true, false, 0..1_500).await;
    }
}
