//! Whether a consumer's client is lost: it finds no coordinator of its group any more while another client does.
//!
//! librdkafka forgets brokers that the metadata do not name for a while, such as one that was fenced, and may then wait for
//! the forgotten one for ever (2.12; its issue 5511). Nothing but a new client helps.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use millrace_config::{KafkaConfig, StageConfig};
use rdkafka::consumer::BaseConsumer;
use tokio::runtime::Handle;

use super::kafka::consumer_config;
use super::restore::committed;

/// Between two questions.
const AGAIN: Duration = Duration::from_secs(10);
/// So often in a row must the other client have found the coordinator.
const SURE: u32 = 2;

/// Where another client is to look: a partition of a topic that the group reads.
pub struct Way {
    pub kafka: KafkaConfig,
    pub stage: StageConfig,
    pub group: String,
    pub topic: String,
}

impl Way {
    /// Whether a new client finds the group's coordinator. Blocks.
    fn is_there(&self) -> bool {
        let client = consumer_config(&self.kafka, &self.stage, &self.group).create::<BaseConsumer>();
        client.is_ok_and(|client| committed(&client, &self.topic, 0).is_ok())
    }
}

/// What is known of it.
pub struct Lost {
    way: Arc<Way>,
    runtime: Handle,
    doubt: Doubt,
    answer: Option<Receiver<bool>>,
}

impl Lost {
    pub fn new(way: Way, runtime: Handle) -> Self {
        let doubt = Doubt::new(Duration::from_millis(way.stage.session_timeout_ms));
        Self { way: Arc::new(way), runtime, doubt, answer: None }
    }

    /// Looks once more; `has_way` is what the client says of itself. True once it is certain.
    pub fn is_certain(&mut self, has_way: bool, now: Instant) -> bool {
        match self.answer.as_ref().map(Receiver::try_recv) {
            Some(Ok(found)) => {
                self.answer = None;
                return !has_way && self.doubt.answered(found);
            }
            Some(Err(TryRecvError::Empty)) => return false,
            Some(Err(TryRecvError::Disconnected)) => self.answer = None,
            None => {}
        }
        if self.doubt.asks(has_way, now) {
            let (tell, answer) = channel();
            let way = Arc::clone(&self.way);
            self.runtime.spawn_blocking(move || {
                // The loop is gone when the stage has ended: nobody waits.
                let _gone = tell.send(way.is_there());
            });
            self.answer = Some(answer);
        }
        false
    }
}

struct Doubt {
    /// A session: until it is over, a client may still have something to lose.
    patience: Duration,
    since: Option<Instant>,
    asked: Option<Instant>,
    found: u32,
}

impl Doubt {
    fn new(patience: Duration) -> Self {
        Self { patience, since: None, asked: None, found: 0 }
    }

    /// Whether another client is to be asked now.
    fn asks(&mut self, has_way: bool, now: Instant) -> bool {
        if has_way {
            *self = Self::new(self.patience);
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let due = now >= self.asked.map_or(since + self.patience, |asked| asked + AGAIN);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// Whether there is no doubt any more that only this client is lost.
    fn answered(&mut self, found: bool) -> bool {
        self.found = if found { self.found + 1 } else { 0 };
        self.found >= SURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_certain_when_another_finds_the_way_twice_in_a_row() {
        let (mut doubt, began) = (Doubt::new(Duration::from_secs(30)), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(!doubt.asks(true, at(0)) && !doubt.asks(false, at(1)) && !doubt.asks(false, at(30)));
        assert!(doubt.asks(false, at(31)) && !doubt.asks(false, at(32)));
        assert!(!doubt.answered(true));
        assert!(doubt.asks(false, at(41)));
        // An outage of all: the next two count anew.
        assert!(!doubt.answered(false));
        assert!(doubt.asks(false, at(51)) && !doubt.answered(true));
        assert!(doubt.asks(false, at(61)) && doubt.answered(true));
    }

    #[test]
    fn one_that_is_back_is_not_doubted() {
        let (mut doubt, began) = (Doubt::new(Duration::from_secs(30)), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(!doubt.asks(false, at(0)) && doubt.asks(false, at(30)) && !doubt.answered(true));
        assert!(!doubt.asks(true, at(35)));
        assert!(!doubt.asks(false, at(40)) && doubt.asks(false, at(70)) && !doubt.answered(true));
    }
}
