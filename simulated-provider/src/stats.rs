//! What was asked, what was begun and what would be charged, counted exactly.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Everything counted since the start or the last reset: the body of `GET /count`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Requests to a model that arrived, refused ones too.
    pub requests: u64,
    /// Requests that began work: all but those refused with a 4xx status.
    pub calls: u64,
    /// Calls that a real provider charges: every 200, cut, late and spoilt ones too. They are
    /// counted when their work begins, whether or not the client waits for the answer.
    pub billed_calls: u64,
    /// Of `calls`, those to `/v1/chat/completions`.
    pub chat_calls: u64,
    /// Of `calls`, those to `/v1/embeddings`.
    pub embedding_calls: u64,
    /// Of `calls`, those to `/v1/responses`.
    pub response_calls: u64,
    /// Prompt tokens of the billed calls.
    pub prompt_tokens: u64,
    /// Completion tokens of the billed calls.
    pub completion_tokens: u64,
    /// Both kinds of tokens together.
    pub tokens_total: u64,
    /// Requests by HTTP status; `"reset"` for connections reset before an answer.
    pub by_status: BTreeMap<String, u64>,
    /// Calls by model.
    pub by_model: BTreeMap<String, u64>,
    /// Bytes of the largest request that could be read.
    #[serde(default)]
    pub largest_request: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Most requests answered at the same time.
    pub max_in_flight: u64,
}

/// One request as the provider saw it: a line of `GET /calls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The request's `x-client-request-id` header, cut at 128 bytes.
    pub client_request_id: Option<Box<str>>,
    /// The model named; empty if the request was refused before it was read.
    pub model: Arc<str>,
    /// True tokens of the prompt, whatever `usage` said.
    pub prompt_tokens: u32,
    /// True tokens of the answer.
    pub completion_tokens: u32,
    /// HTTP status; absent when the connection was reset instead.
    pub status: Option<u16>,
    /// Whether a real provider would charge for it.
    pub billed: bool,
    /// Whether the answer was cut, malformed or held back on purpose, so that a client may well have
    /// asked again.
    pub spoilt: bool,
}

/// Which endpoint a call went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Embeddings,
    Responses,
}

#[derive(Debug)]
pub(crate) struct Stats {
    inner: Mutex<Inner>,
    kept_calls: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// `by_status` and `by_model` stay empty here; they are filled in when read.
    count: Count,
    by_status: BTreeMap<Option<u16>, u64>,
    by_model: BTreeMap<Arc<str>, u64>,
    calls: VecDeque<CallRecord>,
    /// Calls forgotten at the front of `calls`.
    forgotten: u64,
    attempts: Attempts,
}

impl Stats {
    pub(crate) fn new(kept_calls: usize) -> Self {
        Self { inner: Mutex::default(), kept_calls }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counters stay usable after a panic elsewhere: each update is a few additions.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request as being answered until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        let mut inner = self.lock();
        let count = &mut inner.count;
        count.requests += 1;
        count.in_flight += 1;
        count.max_in_flight = count.max_in_flight.max(count.in_flight);
        InFlight(Arc::clone(self))
    }

    /// Notes the length of a request that could be read.
    pub(crate) fn read(&self, bytes: usize) {
        let mut inner = self.lock();
        inner.count.largest_request = inner.count.largest_request.max(bytes as u64);
    }

    /// Counts one request's fate. A request is recorded once.
    pub(crate) fn record(&self, endpoint: Endpoint, record: CallRecord) {
        let mut inner = self.lock();
        *inner.by_status.entry(record.status).or_default() += 1;
        let refused = record.status.is_some_and(|status| (400..500).contains(&status));
        if !refused {
            inner.count.calls += 1;
            match endpoint {
                Endpoint::Chat => inner.count.chat_calls += 1,
                Endpoint::Embeddings => inner.count.embedding_calls += 1,
                Endpoint::Responses => inner.count.response_calls += 1,
            }
            *inner.by_model.entry(Arc::clone(&record.model)).or_default() += 1;
        }
        if record.billed {
            let count = &mut inner.count;
            count.billed_calls += 1;
            count.prompt_tokens += u64::from(record.prompt_tokens);
            count.completion_tokens += u64::from(record.completion_tokens);
            count.tokens_total = count.prompt_tokens + count.completion_tokens;
        }
        inner.calls.push_back(record);
        if inner.calls.len() > self.kept_calls {
            inner.calls.pop_front();
            inner.forgotten += 1;
        }
    }

    /// 1 for the first call with this prompt, 2 for the next, and so on.
    pub(crate) fn attempt(&self, prompt: u64) -> u32 {
        self.lock().attempts.next(prompt)
    }

    pub(crate) fn count(&self) -> Count {
        let inner = self.lock();
        let status_name = |status: &Option<u16>| status.map_or_else(|| "reset".to_owned(), |code| code.to_string());
        Count {
            by_status: inner.by_status.iter().map(|(status, calls)| (status_name(status), *calls)).collect(),
            by_model: inner.by_model.iter().map(|(model, calls)| (model.to_string(), *calls)).collect(),
            ..inner.count.clone()
        }
    }

    /// Up to `most` kept calls from number `from` on, and the number after the last one.
    pub(crate) fn calls(&self, from: u64, most: usize) -> (Vec<CallRecord>, u64) {
        let inner = self.lock();
        let from = from.max(inner.forgotten);
        let skip = usize::try_from(from - inner.forgotten).unwrap_or(usize::MAX);
        let calls: Vec<_> = inner.calls.iter().skip(skip).take(most).cloned().collect();
        let next = from + calls.len() as u64;
        (calls, next)
    }

    /// Forgets everything but the requests being answered now.
    pub(crate) fn reset(&self) {
        let mut inner = self.lock();
        let in_flight = inner.count.in_flight;
        *inner = Inner::default();
        inner.count.in_flight = in_flight;
        inner.count.max_in_flight = in_flight;
    }
}

/// A request being answered.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Stats>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().count.in_flight -= 1;
    }
}

/// How often each prompt was seen, in bounded memory: two generations, of which the older is
/// forgotten when the newer is full.
#[derive(Debug, Default)]
struct Attempts {
    newer: HashMap<u64, u32>,
    older: HashMap<u64, u32>,
}

impl Attempts {
    const PER_GENERATION: usize = 500_000;

    fn next(&mut self, prompt: u64) -> u32 {
        let before = self.newer.get(&prompt).or_else(|| self.older.get(&prompt)).copied();
        let attempt = before.unwrap_or(0).saturating_add(1);
        if self.newer.len() >= Self::PER_GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(prompt, attempt);
        attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: Option<u16>, billed: bool) -> CallRecord {
        CallRecord {
            client_request_id: None,
            model: "m".into(),
            prompt_tokens: 3,
            completion_tokens: 4,
            status,
            billed,
            spoilt: false,
        }
    }

    #[test]
    fn refusals_begin_no_work_and_only_billed_tokens_count() {
        let stats = Stats::new(10);
        for (status, billed) in [(Some(200), true), (Some(429), false), (Some(500), false), (None, false)] {
            stats.record(Endpoint::Chat, record(status, billed));
        }
        let count = stats.count();
        assert_eq!((count.calls, count.billed_calls, count.tokens_total), (3, 1, 7));
        assert_eq!(count.by_status["429"], 1);
        assert_eq!(count.by_status["reset"], 1);
        assert_eq!(count.by_model["m"], 3);
    }

    #[test]
    fn the_oldest_calls_are_forgotten_and_reading_goes_on_behind_them() {
        let stats = Stats::new(4);
        for status in 200..206 {
            stats.record(Endpoint::Embeddings, record(Some(status), true));
        }
        let (first, next) = stats.calls(0, 3);
        assert_eq!(first.iter().map(|call| call.status).collect::<Vec<_>>(), [Some(202), Some(203), Some(204)]);
        let (rest, end) = stats.calls(next, 3);
        assert_eq!((rest.len(), end), (1, 6));
        assert_eq!(stats.calls(end, 3), (Vec::new(), 6));
    }

    #[test]
    fn attempts_survive_one_change_of_generation() {
        let mut attempts = Attempts::default();
        assert_eq!((attempts.next(7), attempts.next(7)), (1, 2));
        for prompt in 0..Attempts::PER_GENERATION as u64 {
            attempts.next(1_000 + prompt);
        }
        assert_eq!(attempts.next(7), 3);
        assert!(attempts.newer.len() + attempts.older.len() <= 2 * Attempts::PER_GENERATION);
    }
}
