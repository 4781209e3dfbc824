//! Running again what was given up.
//!
//! A request is run again from its beginning, whichever stage gave it up: the record that it was first
//! read from goes into `redrives.L`, where only operators write, and the builder judges it once more. A
//! document is published once more.

use anyhow::{Context, bail};
use millrace_config::{Config, KafkaConfig};
use millrace_schemas::{
    Codec, Coordinates, DeadLetter, DeadLetterAction, Lane, LetterAction, REDRIVE_LETTERS, REDRIVE_OF, RecordHeader,
    Redrive, SOURCE_HEADER, Source, now_micros, topics,
};
use millrace_stage::{Outgoing, ProduceError, Producer, To};
use millrace_telemetry::{TRACEPARENT, TraceContext};
use rdkafka::message::{Headers, Message, OwnedMessage};

use crate::letters::{self, Letter, LetterId};
use crate::reading::Places;

/// Hops from a request to its outcome.
const HOPS: usize = 4;

/// What is written to run a dead letter again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Again {
    /// A request, from its beginning.
    Request(Lane, Box<Redrive>),
    /// A document, as it was published.
    Document(Box<DeadLetter>, Vec<String>),
}

/// Where a dead letter's work began, as far as the letter itself tells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// It is settled what to write.
    Here(Again),
    /// At this record, or before it.
    At(Coordinates),
    /// Nowhere: why it can not run again.
    Refused(String),
}

fn origin(config: &Config, letter: &Letter) -> Origin {
    let DeadLetter { topic, generation, partition, offset, .. } = &letter.letter;
    let here = Coordinates {
        topic: topic.clone(),
        generation: u32::try_from(*generation).unwrap_or_default(),
        partition: *partition,
        offset: *offset,
    };
    let too_large = || Origin::Refused("it was too large to be kept: publish it again, smaller".to_owned());
    if topics::lane_of(topics::REDRIVES, topic).is_some() {
        return match &letter.redrive {
            Some(redrive) => again(config, letter.id, redrive.clone()),
            None => Origin::Refused("the record is no redrive: see `millrace dlq show`".to_owned()),
        };
    }
    if *topic == topics::DOCUMENTS {
        return match &letter.letter.value {
            Some(_) => Origin::Here(Again::Document(Box::new(letter.letter.clone()), letters_of(letter))),
            None => too_large(),
        };
    }
    if lane(config, topic).is_some() {
        return match &letter.letter.value {
            Some(value) => first(config, letter.id, &here, &letter.letter, value.clone()),
            None => too_large(),
        };
    }
    if [topics::PROMPTS, topics::COMPLETIONS, topics::OUTCOMES].iter().any(|t| topics::lane_of(t, topic).is_some()) {
        return Origin::At(source_of(&letter.letter.headers).unwrap_or(here));
    }
    if *topic == topics::CALLS {
        return Origin::Refused("an entry of the bill is not work: its call is booked as unconfirmed".to_owned());
    }
    Origin::Refused(format!("`{topic}` is bound to no tenant any more: bind it again under [topic_bindings]"))
}

/// The lane of a topic that requests are published to.
fn lane(config: &Config, topic: &str) -> Option<Lane> {
    let ours = || topics::lane_of(topics::REQUESTS, topic);
    config.topic_bindings.get(topic).map_or_else(ours, |binding| binding.lane.parse().ok())
}

/// The first redrive of a request.
fn first(config: &Config, id: LetterId, at: &Coordinates, record: &DeadLetter, value: Vec<u8>) -> Origin {
    let redrive = Redrive {
        run: 0,
        letters: Vec::new(),
        topic: at.topic.clone(),
        generation: i32::try_from(at.generation).unwrap_or(i32::MAX),
        partition: at.partition,
        offset: at.offset,
        timestamp: record.timestamp,
        key: record.key.clone(),
        value,
        headers: record.headers.clone(),
        at: 0,
    };
    again(config, id, redrive)
}

/// The run after the one of `failed`: a function of the dead letter, so that two redrives of it are one run.
fn again(config: &Config, id: LetterId, failed: Redrive) -> Origin {
    let Some(lane) = lane(config, &failed.topic) else {
        let topic = &failed.topic;
        return Origin::Refused(format!(
            "`{topic}` is bound to no tenant any more: bind it again under [topic_bindings]"
        ));
    };
    let mut letters = failed.letters;
    letters.push(id.to_string());
    let redrive = Redrive { run: failed.run + 1, letters, at: now_micros(), ..failed };
    Origin::Here(Again::Request(lane, Box::new(redrive)))
}

fn letters_of(letter: &Letter) -> Vec<String> {
    let mut letters = letter.history();
    letters.push(letter.id.to_string());
    letters
}

fn header<'a>(headers: &'a [RecordHeader], name: &str) -> Option<&'a str> {
    let header = headers.iter().rev().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value.as_deref()?).ok()
}

fn source_of(headers: &[RecordHeader]) -> Option<Coordinates> {
    header(headers, SOURCE_HEADER)?.parse::<Source>().ok().map(|source| source.from)
}

/// Writes dead letters again.
pub struct Redriver {
    config: Config,
    codec: Codec,
    producer: Producer,
    places: std::sync::Arc<Places>,
}

impl Redriver {
    /// Nothing is written yet.
    pub fn new(config: &Config, codec: &Codec) -> anyhow::Result<Self> {
        Ok(Self {
            config: config.clone(),
            codec: codec.clone(),
            producer: Producer::batching(&config.kafka)?,
            places: std::sync::Arc::new(Places::new(config)?),
        })
    }

    /// What running it again means; or in one sentence why it can not be.
    pub async fn plan(&self, letter: &Letter) -> anyhow::Result<Result<Again, String>> {
        let mut at = match origin(&self.config, letter) {
            Origin::Here(again) => return Ok(Ok(again)),
            Origin::Refused(why) => return Ok(Err(why)),
            Origin::At(at) => at,
        };
        for _ in 0..=HOPS {
            let Some(found) = self.record(&at).await? else {
                let Coordinates { topic, partition, offset, .. } = &at;
                return Ok(Err(format!(
                    "{topic}/{partition}/{offset}, which it came from, is not in the log any more"
                )));
            };
            let headers = headers_of(&found);
            let value = found.payload().unwrap_or_default().to_vec();
            let origin = if topics::lane_of(topics::REDRIVES, &at.topic).is_some() {
                let failed = self.codec.decode::<Redrive>(&value).await.context("a redrive can not be read")?;
                again(&self.config, letter.id, failed)
            } else if lane(&self.config, &at.topic).is_some() {
                let record = DeadLetter {
                    timestamp: found.timestamp().to_millis().unwrap_or_default(),
                    key: found.key().map(<[u8]>::to_vec),
                    headers,
                    ..letter.letter.clone()
                };
                first(&self.config, letter.id, &at, &record, value)
            } else {
                source_of(&headers)
                    .map_or_else(|| Origin::Refused("its record does not say what it came from".to_owned()), Origin::At)
            };
            match origin {
                Origin::Here(again) => return Ok(Ok(again)),
                Origin::Refused(why) => return Ok(Err(why)),
                Origin::At(before) => at = before,
            }
        }
        bail!("the way back from dead letter {} to its request has no end", letter.id)
    }

    async fn record(&self, at: &Coordinates) -> anyhow::Result<Option<OwnedMessage>> {
        let is_customers = self.config.topic_bindings.contains_key(&at.topic);
        let kafka = KafkaConfig { generation: at.generation, ..self.config.kafka.clone() };
        let topic = if is_customers { at.topic.clone() } else { kafka.topic(&at.topic) };
        let (places, partition, offset) = (std::sync::Arc::clone(&self.places), at.partition, at.offset);
        tokio::task::spawn_blocking(move || places.get(&topic, partition, offset)).await?
    }

    /// Runs it again; the broker has acknowledged it when this returns. What it says is why the broker
    /// refuses.
    pub async fn write(&self, again: &Again) -> anyhow::Result<Result<(), String>> {
        let sent = match again {
            Again::Request(lane, redrive) => self.request(*lane, redrive).await?,
            Again::Document(letter, letters) => self.document(letter, &letters.join(" ")).await,
        };
        match sent {
            Ok(()) => Ok(Ok(())),
            Err(ProduceError::Refused { error, .. }) => Ok(Err(format!("the broker refuses it: {error}"))),
            Err(error @ (ProduceError::Fatal(_) | ProduceError::Unknown)) => Err(error.into()),
        }
    }

    async fn request(&self, lane: Lane, redrive: &Redrive) -> anyhow::Result<Result<(), ProduceError>> {
        let topic = topics::of(topics::REDRIVES, lane);
        // Beside the first run, so that all runs of a request lie in one partition of every topic.
        let partition = redrive.partition % self.producer.partitions(&topic).await?;
        let key = redrive.letters.last().map(String::as_str).unwrap_or_default();
        let record = Outgoing::new(topic, key, self.codec.encode(redrive)?).to(To::Partition(partition));
        let trace = TraceContext::parse_or_random(header(&redrive.headers, TRACEPARENT)).to_string();
        Ok(self.producer.send(&record, partition, &[(TRACEPARENT, trace.as_str())]).await)
    }

    async fn document(&self, letter: &DeadLetter, letters: &str) -> Result<(), ProduceError> {
        let first = header(&letter.headers, REDRIVE_OF).map(str::to_owned).unwrap_or_else(|| {
            format!("{}/{}/{}/{}", letter.generation, letter.partition, letter.offset, letter.timestamp)
        });
        let value = letter.value.clone().unwrap_or_default();
        let record = Outgoing::new(topics::DOCUMENTS, letter.key.clone().unwrap_or_default(), value)
            .to(To::Partition(letter.partition));
        let is_ours = |name: &str| [REDRIVE_OF, REDRIVE_LETTERS].contains(&name);
        let mut headers: Vec<(&str, &str)> = letter
            .headers
            .iter()
            .filter(|header| !is_ours(&header.name))
            .filter_map(|header| Some((header.name.as_str(), std::str::from_utf8(header.value.as_deref()?).ok()?)))
            .collect();
        headers.extend([(REDRIVE_OF, first.as_str()), (REDRIVE_LETTERS, letters)]);
        self.producer.send(&record, letter.partition, &headers).await
    }

    /// Remembers what was done about a dead letter.
    pub async fn note(&self, id: LetterId, action: LetterAction) -> anyhow::Result<()> {
        let action: DeadLetterAction = letters::action(id, action);
        let value = self.codec.encode(&action)?;
        let record = Outgoing::new(topics::DEAD_LETTER_ACTIONS, action.letter.as_str(), value).to(To::Partition(0));
        Ok(self.producer.send(&record, 0, &[]).await?)
    }
}

fn headers_of(message: &OwnedMessage) -> Vec<RecordHeader> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    headers.map(|h| RecordHeader { name: h.key.to_owned(), value: h.value.map(<[u8]>::to_vec) }).collect()
}

#[cfg(test)]
mod tests {
    use millrace_config::TopicBinding;

    use super::*;
    use crate::letters::State;

    fn config() -> Config {
        let mut config = Config::default();
        config.topic_bindings.insert("acme.requests".to_owned(), TopicBinding::batch("acme"));
        config
    }

    fn letter(topic: &str, redrive: Option<Redrive>) -> Letter {
        let letter = DeadLetter {
            stage: "s".to_owned(),
            topic: topic.to_owned(),
            generation: 2,
            partition: 3,
            offset: 9,
            timestamp: 7,
            code: "c".to_owned(),
            error: "e".to_owned(),
            tenant: None,
            request_id: None,
            key: Some(vec![1]),
            value: Some(b"{}".to_vec()),
            headers: vec![RecordHeader { name: "n".to_owned(), value: Some(b"v".to_vec()) }],
            at: 1,
        };
        Letter { id: LetterId { partition: 5, offset: 40 }, letter, state: State::Open, redrive }
    }

    fn redriven(origin: Origin) -> (Lane, Redrive) {
        let Origin::Here(Again::Request(lane, redrive)) = origin else { panic!("{origin:?}") };
        (lane, *redrive)
    }

    #[test]
    fn a_request_runs_again_from_the_record_that_it_was_first_read_from() {
        for (topic, lane) in [("acme.requests", Lane::Batch), ("requests.interactive", Lane::Interactive)] {
            let failed = letter(topic, None);
            let (to, redrive) = redriven(origin(&config(), &failed));
            let DeadLetter { key, headers, value, .. } = failed.letter;
            assert_eq!((to, redrive.run, redrive.letters.as_slice()), (lane, 1, &["5/40".to_owned()][..]));
            assert_eq!(
                (redrive.topic.as_str(), redrive.generation, redrive.partition, redrive.offset),
                (topic, 2, 3, 9)
            );
            assert_eq!((redrive.key, redrive.headers, Some(redrive.value)), (key, headers, value));
            assert_eq!(redrive.timestamp, 7);
        }
    }

    #[test]
    fn a_redrive_that_fails_again_keeps_its_history_and_does_not_nest() {
        let (_, once) = redriven(origin(&config(), &letter("acme.requests", None)));
        let mut failed = letter("redrives.batch", Some(once.clone()));
        failed.id = LetterId { partition: 0, offset: 1 };
        let (lane, twice) = redriven(origin(&config(), &failed));
        assert_eq!((lane, twice.run), (Lane::Batch, 2));
        assert_eq!(twice.letters, ["5/40", "0/1"]);
        assert_eq!((twice.value, twice.topic, twice.offset), (once.value, once.topic, once.offset));
    }

    #[test]
    fn inner_records_lead_back_to_their_request() {
        let mut failed = letter("prompts.batch", None);
        let source = "requests.batch/1/3/17 1024 00000000000000ff";
        failed.letter.headers = vec![RecordHeader { name: SOURCE_HEADER.to_owned(), value: Some(source.into()) }];
        let before = Coordinates { topic: "requests.batch".to_owned(), generation: 1, partition: 3, offset: 17 };
        assert_eq!(origin(&config(), &failed), Origin::At(before));
        // Without headers (it was too large for them) the record itself is asked.
        let itself = Coordinates { topic: "outcomes.batch".to_owned(), generation: 2, partition: 3, offset: 9 };
        assert_eq!(origin(&config(), &letter("outcomes.batch", None)), Origin::At(itself));
    }

    #[test]
    fn what_can_not_run_again_says_why() {
        let check = |letter: &Letter, word: &str| {
            let found = origin(&config(), letter);
            let Origin::Refused(why) = found else { panic!("{found:?}") };
            assert!(why.contains(word), "{why}");
        };
        check(&letter("calls", None), "unconfirmed");
        check(&letter("gone.requests", None), "topic_bindings");
        check(&letter("redrives.batch", None), "no redrive");
        for topic in ["acme.requests", "documents"] {
            let mut large = letter(topic, None);
            large.letter.value = None;
            check(&large, "smaller");
        }
    }

    #[test]
    fn a_document_remembers_its_dead_letters() {
        let mut failed = letter("documents", None);
        let again = |letter: &Letter| {
            let found = origin(&config(), letter);
            let Origin::Here(Again::Document(_, letters)) = found else { panic!("{found:?}") };
            letters.join(" ")
        };
        assert_eq!(again(&failed), "5/40");
        failed.letter.headers.push(RecordHeader { name: REDRIVE_LETTERS.to_owned(), value: Some(b"1/2 3/4".to_vec()) });
        assert_eq!(again(&failed), "1/2 3/4 5/40");
    }
}
