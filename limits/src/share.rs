//! What replicas tell each other: the topic `limits`.

use std::time::Duration;

use millrace_config::Config;
use millrace_schemas::{Codec, LimitUse, now_millis, topics};
use millrace_stage::{Followed, Follower, Outgoing, Producer, Report, Since, To, follow as follow_topic};
use rdkafka::message::{BorrowedMessage, Message};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::limiter::{Limiter, SILENT, TICK};

/// What is older counts no more, milliseconds: a day, and some for clocks.
const OLDEST: i64 = 25 * 60 * 60 * 1_000;
/// No more words than this are read at the start: of so many replicas and subjects, the latest.
const MOST: i64 = 200_000;
/// So many ticks lie between two signs of life.
const BEAT: i64 = SILENT / TICK / 4;

/// Hears of the other replicas until `shutdown`.
///
/// # Errors
/// When there is no thread for it.
pub fn follow(
    config: &Config,
    group: &str,
    codec: Codec,
    limiter: Limiter,
    report: Report,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let since = Since::Recent(now_millis().saturating_sub(OLDEST), MOST);
    let followed = Followed { topic: topics::LIMITS, group: group.to_owned(), since };
    let reader = Reader { codec, limiter, is_news: false, runtime: Handle::current() };
    follow_topic(&config.kafka, followed, reader, report, shutdown)
}

struct Reader {
    codec: Codec,
    limiter: Limiter,
    is_news: bool,
    runtime: Handle,
}

impl Follower for Reader {
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let Some(value) = message.payload() else { return };
        match self.runtime.block_on(self.codec.decode::<LimitUse>(value)) {
            Ok(word) => self.limiter.hear(word, self.is_news, now_millis()),
            // The next word of that replica says it again.
            Err(error) => tracing::warn!(%error, "what a replica used can not be read"),
        }
    }

    fn caught_up(&mut self) {
        self.is_news = true;
    }
}

/// Tells the other replicas until `shutdown`. What is not acknowledged is told again, for it is told as sums. Where
/// nothing `is_limited` nothing is counted, and nobody needs to know who is there.
pub async fn tell(
    limiter: Limiter,
    (codec, producer): (Codec, Producer),
    is_limited: impl Fn() -> bool,
    shutdown: CancellationToken,
) {
    let tick = Duration::from_millis(TICK.unsigned_abs());
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count: i64 = 0;
    let mut was_limited = false;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let is_limited = is_limited();
        let is_beat = is_limited && (!was_limited || count % BEAT == 0);
        was_limited = is_limited;
        let news = limiter.news(now_millis(), is_beat);
        count += 1;
        let told = news.iter().map(|word| send(&codec, &producer, word));
        futures::future::join_all(told).await;
    }
}

async fn send(codec: &Codec, producer: &Producer, word: &LimitUse) {
    let value = match codec.encode(word) {
        Ok(value) => value,
        Err(error) => return tracing::error!(%error, "an event does not fit its schema"),
    };
    let key = format!("{}/{}", word.replica, word.subject);
    let record = Outgoing::new(topics::LIMITS, key, value).to(To::Partition(0));
    if let Err(error) = producer.send(&record, 0, &[]).await {
        tracing::debug!(%error, "the other replicas were not told what was used");
    }
}
