//! Dead letters, as they lie in the log and with what operators did about them.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use millrace_config::Config;
use millrace_schemas::{
    Codec, DeadLetter, DeadLetterAction, LetterAction, REDRIVE_LETTERS, Redrive, now_micros, topics,
};
use rdkafka::message::Message;
use tokio::sync::mpsc;

use crate::reading::{Places, read_to_end, whole_topic};

/// Where a dead letter lies in `dead-letters`: `partition/offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(p, o)| Some((p.parse().ok()?, o.parse().ok()?)));
        match parts {
            Some((partition, offset)) if partition >= 0 && offset >= 0 => Ok(Self { partition, offset }),
            _ => Err("a dead letter is named by partition/offset, such as 3/57".to_owned()),
        }
    }
}

/// What operators did about a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    Open,
    /// The latest action, and when: microseconds since the epoch.
    Done(LetterAction, i64),
}

/// The states of all dead letters: those that are not named are open.
pub type States = HashMap<LetterId, State>;

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    pub id: LetterId,
    pub letter: DeadLetter,
    pub state: State,
    /// The redrive that failed, when it was one.
    pub redrive: Option<Redrive>,
}

impl Letter {
    /// Earlier dead letters of the same work, oldest first.
    pub fn history(&self) -> Vec<String> {
        if let Some(redrive) = &self.redrive {
            return redrive.letters.clone();
        }
        let header = self.letter.headers.iter().rev().find(|header| header.name == REDRIVE_LETTERS);
        let text = header.and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok());
        text.map(|text| text.split(' ').map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The record that was given up, where it was first read.
    pub fn place(&self) -> String {
        let (topic, partition, offset) = match &self.redrive {
            Some(redrive) => (&redrive.topic, redrive.partition, redrive.offset),
            None => (&self.letter.topic, self.letter.partition, self.letter.offset),
        };
        format!("{topic}/{partition}/{offset}")
    }
}

/// Which dead letters are meant. All that are named must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub stage: Option<String>,
    pub tenant: Option<String>,
    pub code: Option<String>,
    pub request_id: Option<String>,
    /// Microseconds since the epoch.
    pub since: Option<i64>,
    /// Microseconds since the epoch.
    pub until: Option<i64>,
}

impl Filter {
    /// Whether a dead letter is among them.
    pub fn fits(&self, letter: &DeadLetter) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        is(&self.stage, Some(&letter.stage))
            && is(&self.tenant, letter.tenant.as_deref())
            && is(&self.code, Some(&letter.code))
            && is(&self.request_id, letter.request_id.as_deref())
            && self.since.is_none_or(|since| letter.at >= since)
            && self.until.is_none_or(|until| letter.at < until)
    }
}

/// What was done about every dead letter so far.
pub async fn states(config: &Config, codec: &Codec) -> anyhow::Result<States> {
    let mut records = follow(config, topics::DEAD_LETTER_ACTIONS)?;
    let mut states = States::new();
    while let Some((_, value)) = records.found.recv().await {
        let action: DeadLetterAction = codec.decode(&value).await.context("`dead-letter-actions` can not be read")?;
        if let Ok(id) = action.letter.parse() {
            states.insert(id, State::Done(action.action, action.at));
        }
    }
    records.ended().await?;
    Ok(states)
}

/// All dead letters, each partition in the order of the log.
pub struct Letters {
    records: Following,
    codec: Codec,
    states: States,
}

impl Letters {
    /// Reads from the beginning to the present end.
    pub async fn read(config: &Config, codec: &Codec) -> anyhow::Result<Self> {
        let states = states(config, codec).await?;
        Ok(Self { records: follow(config, topics::DEAD_LETTERS)?, codec: codec.clone(), states })
    }

    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> anyhow::Result<Option<Letter>> {
        let Some((id, value)) = self.records.found.recv().await else {
            self.records.ended().await?;
            return Ok(None);
        };
        letter(&self.codec, &self.states, id, &value).await.map(Some)
    }
}

/// One dead letter.
pub async fn one(config: &Config, codec: &Codec, states: &States, id: LetterId) -> anyhow::Result<Letter> {
    let (places, topic) = (Places::new(config)?, config.kafka.topic(topics::DEAD_LETTERS));
    let found = tokio::task::spawn_blocking(move || places.get(&topic, id.partition, id.offset)).await??;
    let found = found.with_context(|| {
        format!("there is no dead letter {id}, or not any more; `millrace dlq list --state all` shows what there is")
    })?;
    letter(codec, states, id, found.payload().unwrap_or_default()).await
}

async fn letter(codec: &Codec, states: &States, id: LetterId, value: &[u8]) -> anyhow::Result<Letter> {
    let letter: DeadLetter = codec.decode(value).await.with_context(|| format!("dead letter {id} can not be read"))?;
    let is_redrive = topics::lane_of(topics::REDRIVES, &letter.topic).is_some();
    let redrive = match &letter.value {
        Some(value) if is_redrive => codec.decode(value).await.ok(),
        Some(_) | None => None,
    };
    let state = states.get(&id).copied().unwrap_or(State::Open);
    Ok(Letter { id, letter, state, redrive })
}

/// What is written about a dead letter.
pub fn action(id: LetterId, action: LetterAction) -> DeadLetterAction {
    DeadLetterAction { letter: id.to_string(), action, at: now_micros() }
}

struct Following {
    found: mpsc::Receiver<(LetterId, Vec<u8>)>,
    reading: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Following {
    async fn ended(&mut self) -> anyhow::Result<()> {
        match self.reading.take() {
            Some(reading) => reading.await?,
            None => Ok(()),
        }
    }
}

fn follow(config: &Config, topic: &str) -> anyhow::Result<Following> {
    let (config, topic) = (config.clone(), config.kafka.topic(topic));
    // Each may have megabytes.
    let (sender, found) = mpsc::channel(64);
    let reading = tokio::task::spawn_blocking(move || {
        let (consumer, ends) = whole_topic(&config, &topic, true)?;
        read_to_end(&consumer, ends, |message| {
            let id = LetterId { partition: message.partition(), offset: message.offset() };
            sender.blocking_send((id, message.payload().unwrap_or_default().to_vec())).is_ok()
        })
    });
    Ok(Following { found, reading: Some(reading) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> DeadLetter {
        DeadLetter {
            stage: "prompt-builder".to_owned(),
            topic: "requests.batch".to_owned(),
            generation: 0,
            partition: 3,
            offset: 9,
            timestamp: 0,
            code: "model_not_found".to_owned(),
            error: "e".to_owned(),
            tenant: Some("acme".to_owned()),
            request_id: None,
            key: None,
            value: None,
            headers: Vec::new(),
            at: 1_000,
        }
    }

    #[test]
    fn a_letter_is_named_by_its_place() {
        assert_eq!("3/57".parse(), Ok(LetterId { partition: 3, offset: 57 }));
        assert_eq!(LetterId { partition: 3, offset: 57 }.to_string(), "3/57");
        for bad in ["", "3", "3/", "/57", "-1/57", "3/-1", "3/5/7", "a/b"] {
            assert!(bad.parse::<LetterId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn all_that_a_filter_names_must_fit() {
        let check = |filter: Filter, expected: bool| assert_eq!(filter.fits(&sample()), expected, "{filter:?}");
        let some = |text: &str| Some(text.to_owned());
        check(Filter::default(), true);
        check(Filter { stage: some("prompt-builder"), tenant: some("acme"), ..Filter::default() }, true);
        check(Filter { stage: some("prompt-builder"), tenant: some("rival"), ..Filter::default() }, false);
        check(Filter { code: some("undecodable"), ..Filter::default() }, false);
        check(Filter { request_id: some("req_1"), ..Filter::default() }, false);
        check(Filter { since: Some(1_000), until: Some(1_001), ..Filter::default() }, true);
        check(Filter { since: Some(1_001), ..Filter::default() }, false);
        check(Filter { until: Some(1_000), ..Filter::default() }, false);
    }
}
