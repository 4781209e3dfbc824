//! A chat completion, checked and rewritten where it must be: every byte that is not redacted stays
//! as the provider sent it.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::verdict::{Action, Hit, MAX_HITS, Verdict};
use crate::{Compiled, CompletionError};

/// A hit, and the string of the answer that it is in.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LocatedHit {
    /// The path of the string, such as `choices[0].message.content`.
    pub place: String,
    /// The hit; its bytes are those of the decoded string.
    #[serde(flatten)]
    pub hit: Hit,
}

/// What becomes of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moderated {
    /// The highest action of all its strings.
    pub action: Action,
    /// With [`Action::Redact`], the answer that passes.
    pub body: Option<Vec<u8>>,
    /// The first [`MAX_HITS`] hits, in the order of the answer.
    pub hits: Vec<LocatedHit>,
    /// How many hits there were.
    pub total_hits: usize,
}

#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    /// Of completions that are not chats.
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    logprobs: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    // Two names by which servers give a model's reasoning.
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<ToolCall<'a>>>,
    #[serde(borrow, default)]
    function_call: Option<Function<'a>>,
    #[serde(borrow, default)]
    audio: Option<Audio<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Part<'a> {
    #[serde(borrow, default)]
    pub text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub refusal: Option<&'a RawValue>,
    /// Of responses.
    #[serde(borrow, default)]
    pub logprobs: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ToolCall<'a> {
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
    #[serde(borrow, default)]
    custom: Option<Custom<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Function<'a> {
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Custom<'a> {
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Audio<'a> {
    #[serde(borrow, default)]
    transcript: Option<&'a RawValue>,
}

/// What is done with texts.
pub(crate) trait Reviewer {
    /// What becomes of a text.
    fn review(&self, text: &str) -> Verdict;

    /// What becomes of JSON as a whole, whose strings were reviewed.
    fn review_whole(&self, _json: &str) -> Verdict {
        Verdict::passes()
    }
}

impl Reviewer for Compiled {
    fn review(&self, text: &str) -> Verdict {
        self.check(text)
    }

    fn review_whole(&self, json: &str) -> Verdict {
        self.check(json)
    }
}

impl Compiled {
    /// Checks every text of an answer: contents (a string, or the text of parts), refusals,
    /// reasoning, transcripts and the arguments of tool calls. Arguments that are JSON stay JSON.
    /// The log probabilities of a redacted choice become null, for they repeat its text.
    ///
    /// # Errors
    /// When the bytes are no chat completion. They must not be let through.
    pub fn apply_to_chat_completion(&self, body: &[u8]) -> Result<Moderated, CompletionError> {
        chat_completion(self, body)
    }
}

/// Reviews every text of a chat completion.
pub(crate) fn chat_completion(reviewer: &dyn Reviewer, body: &[u8]) -> Result<Moderated, CompletionError> {
    let text = std::str::from_utf8(body).map_err(|error| CompletionError::Malformed(error.to_string()))?;
    let completion: Completion<'_> =
        serde_json::from_str(text).map_err(|error| CompletionError::Malformed(error.to_string()))?;
    let mut review = Review::new(reviewer, text);
    for (index, choice) in completion.choices.unwrap_or_default().iter().enumerate() {
        review.choice(choice, &format!("choices[{index}]"))?;
    }
    Ok(review.finish())
}

pub(crate) struct Review<'a> {
    reviewer: &'a dyn Reviewer,
    body: &'a str,
    outcome: Moderated,
    /// What to put in place of which bytes.
    edits: Vec<(Range<usize>, String)>,
}

impl<'a> Review<'a> {
    pub(crate) fn new(reviewer: &'a dyn Reviewer, body: &'a str) -> Self {
        let outcome = Moderated { action: Action::Allow, body: None, hits: Vec::new(), total_hits: 0 };
        Self { reviewer, body, outcome, edits: Vec::new() }
    }
}

impl Review<'_> {
    fn choice(&mut self, choice: &Choice<'_>, at: &str) -> Result<(), CompletionError> {
        let edits_before = self.edits.len();
        self.text(choice.text, || format!("{at}.text"))?;
        if let Some(message) = &choice.message {
            self.message(message, &format!("{at}.message"))?;
        }
        if self.edits.len() > edits_before
            && let Some(logprobs) = choice.logprobs
        {
            self.edits.push((self.range(logprobs), "null".to_owned()));
        }
        Ok(())
    }

    fn message(&mut self, message: &Message<'_>, at: &str) -> Result<(), CompletionError> {
        if let Some(content) = message.content {
            if !content.get().starts_with(['"', '[']) {
                return Err(CompletionError::Malformed(format!("{at}.content is neither text nor a list of parts")));
            } else if content.get().starts_with('[') {
                let parts: Vec<Part<'_>> = serde_json::from_str(content.get())
                    .map_err(|error| CompletionError::Malformed(format!("{at}.content: {error}")))?;
                for (index, part) in parts.iter().enumerate() {
                    self.text(part.text, || format!("{at}.content[{index}].text"))?;
                    self.text(part.refusal, || format!("{at}.content[{index}].refusal"))?;
                }
            } else {
                self.text(Some(content), || format!("{at}.content"))?;
            }
        }
        self.text(message.refusal, || format!("{at}.refusal"))?;
        self.text(message.reasoning, || format!("{at}.reasoning"))?;
        self.text(message.reasoning_content, || format!("{at}.reasoning_content"))?;
        if let Some(audio) = &message.audio {
            self.text(audio.transcript, || format!("{at}.audio.transcript"))?;
        }
        for (index, call) in message.tool_calls.iter().flatten().enumerate() {
            let at = format!("{at}.tool_calls[{index}]");
            if let Some(function) = &call.function {
                self.arguments(function, &format!("{at}.function"))?;
            }
            if let Some(custom) = &call.custom {
                self.text(custom.input, || format!("{at}.custom.input"))?;
            }
        }
        match &message.function_call {
            Some(function) => self.arguments(function, &format!("{at}.function_call")),
            None => Ok(()),
        }
    }

    /// Checks one string; null and other values are none.
    pub(crate) fn text(&mut self, raw: Option<&RawValue>, place: impl Fn() -> String) -> Result<(), CompletionError> {
        let Some((raw, text)) = string(raw, &place)? else { return Ok(()) };
        let verdict = self.reviewer.review(&text);
        self.note(&verdict, &place);
        if let Some(redacted) = &verdict.text {
            self.replace(raw, redacted);
        }
        Ok(())
    }

    /// Checks the arguments of a call: JSON in a string, or, from some servers, JSON as it is.
    pub(crate) fn arguments(&mut self, function: &Function<'_>, at: &str) -> Result<(), CompletionError> {
        let place = || format!("{at}.arguments");
        let Some(raw) = function.arguments else { return Ok(()) };
        match string(Some(raw), &place)? {
            None => {
                self.raw_json(raw, &place);
                Ok(())
            }
            Some((raw, text)) if is_json(&text) => {
                if let Some(rewritten) = self.json(&text, &place) {
                    self.replace(raw, &rewritten);
                }
                Ok(())
            }
            // Models do write arguments that are no JSON: then they are a text.
            Some((raw, _)) => self.text(Some(raw), place),
        }
    }

    /// Checks JSON as it is.
    pub(crate) fn raw_json(&mut self, raw: &RawValue, place: &dyn Fn() -> String) {
        if let Some(rewritten) = self.json(raw.get(), place) {
            self.put(raw, &rewritten);
        }
    }

    /// How often something was put in another's place.
    pub(crate) fn edits(&self) -> usize {
        self.edits.len()
    }

    /// Puts JSON in the place of other JSON.
    pub(crate) fn put(&mut self, raw: &RawValue, json: &str) {
        self.edits.push((self.range(raw), json.to_owned()));
    }

    /// Checks each string, name and number of a JSON text, then the whole, for what a rule may see
    /// in between. Gives the text that passes when it is another one.
    fn json(&mut self, text: &str, place: &dyn Fn() -> String) -> Option<String> {
        let mut edits = Vec::new();
        for token in tokens(text) {
            let raw = &text[token.clone()];
            let decoded = serde_json::from_str::<String>(raw);
            let verdict = self.reviewer.review(decoded.as_deref().unwrap_or(raw));
            self.note(&verdict, place);
            if let Some(redacted) = verdict.text {
                edits.push((token, quoted(&redacted)));
            }
        }
        let rewritten = splice(text, &edits);
        let verdict = self.reviewer.review_whole(&rewritten);
        self.note_new(&verdict, place);
        match verdict.text {
            // A caller would take it for JSON.
            Some(whole) if !is_json(&whole) => {
                self.outcome.action = Action::Block;
                None
            }
            Some(whole) => Some(whole),
            None => (!edits.is_empty()).then_some(rewritten),
        }
    }

    fn note(&mut self, verdict: &Verdict, place: &dyn Fn() -> String) {
        self.outcome.action = self.outcome.action.max(verdict.action);
        self.outcome.total_hits += verdict.total_hits;
        for hit in &verdict.hits {
            if self.outcome.hits.len() < MAX_HITS {
                self.outcome.hits.push(LocatedHit { place: place(), hit: hit.clone() });
            }
        }
    }

    /// Notes the verdict on a whole whose parts were noted before, without counting a rule twice.
    fn note_new(&mut self, verdict: &Verdict, place: &dyn Fn() -> String) {
        let at = place();
        let known = |hit: &Hit| self.outcome.hits.iter().any(|known| known.place == at && known.hit.rule == hit.rule);
        let hits: Vec<Hit> = verdict.hits.iter().filter(|hit| !known(hit)).cloned().collect();
        let new = Verdict { action: verdict.action, total_hits: hits.len(), hits, text: None };
        self.note(&new, place);
    }

    fn range(&self, raw: &RawValue) -> Range<usize> {
        // A raw value borrows from the body, so its place there is the distance of the two.
        let start = raw.get().as_ptr() as usize - self.body.as_ptr() as usize;
        start..start + raw.get().len()
    }

    fn replace(&mut self, raw: &RawValue, text: &str) {
        self.edits.push((self.range(raw), quoted(text)));
    }

    pub(crate) fn finish(mut self) -> Moderated {
        if self.outcome.action == Action::Redact {
            self.edits.sort_by_key(|(range, _)| range.start);
            self.outcome.body = Some(splice(self.body, &self.edits).into_bytes());
        }
        self.outcome
    }
}

/// The text of a JSON string; None for null and other values.
fn string<'a>(
    raw: Option<&'a RawValue>,
    place: &dyn Fn() -> String,
) -> Result<Option<(&'a RawValue, String)>, CompletionError> {
    let Some(raw) = raw.filter(|raw| raw.get().starts_with('"')) else { return Ok(None) };
    match serde_json::from_str(raw.get()) {
        Ok(text) => Ok(Some((raw, text))),
        Err(error) => Err(CompletionError::Text { place: place(), reason: error.to_string() }),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Puts other text in place of disjoint ranges, given in order.
fn splice(text: &str, edits: &[(Range<usize>, String)]) -> String {
    let mut spliced = String::with_capacity(text.len());
    let mut done = 0;
    for (range, other) in edits {
        spliced.push_str(&text[done..range.start]);
        spliced.push_str(other);
        done = range.end;
    }
    spliced.push_str(&text[done..]);
    spliced
}

/// The strings (names among them, in their quotes) and numbers of a valid JSON text.
pub(crate) fn tokens(json: &str) -> Vec<Range<usize>> {
    let bytes = json.as_bytes();
    let mut tokens = Vec::new();
    let mut place = 0;
    while place < bytes.len() {
        let start = place;
        place += 1;
        match bytes[start] {
            b'"' => {
                while place < bytes.len() && bytes[place] != b'"' {
                    place += if bytes[place] == b'\\' { 2 } else { 1 };
                }
                place = (place + 1).min(bytes.len());
                tokens.push(start..place);
            }
            b'-' | b'0'..=b'9' => {
                let is_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
                place += bytes[place..].iter().take_while(|byte| is_number(byte)).count();
                tokens.push(start..place);
            }
            _ => {}
        }
    }
    tokens
}
