//! Placeholders into what a model is asked, and values back into what it answers.

use std::cell::{Cell, RefCell};

use crate::completion::{Function, Moderated, Review, Reviewer, chat_completion};
use crate::placeholders::{MOST_RESTORED, Placeholders};
use crate::prompt::{OfPrompts, PromptVerdict};
use crate::response::response;
use crate::texts::Seen;
use crate::verdict::{Action, Verdict};
use crate::{Compiled, CompletionError};

/// Puts placeholders into texts. What can not be redacted stays, to be found afterwards.
struct Redacting<'a> {
    rules: &'a Compiled,
    placeholders: RefCell<Placeholders>,
}

impl Reviewer for Redacting<'_> {
    fn review(&self, text: &str) -> Verdict {
        let redacted = self.rules.redact_into(text, &mut self.placeholders.borrow_mut());
        redacted.filter(|redacted| redacted != text).map_or_else(Verdict::passes, Verdict::becomes)
    }
}

/// Puts values back into texts, as long as all of them together do not become too large.
struct Restoring<'a> {
    placeholders: &'a Placeholders,
    left: Cell<usize>,
}

impl Reviewer for Restoring<'_> {
    fn review(&self, text: &str) -> Verdict {
        let Some(restored) = self.placeholders.restore_within(text, self.left.get()) else {
            return Verdict::withheld();
        };
        self.left.set(self.left.get().saturating_sub(restored.len()));
        if restored == text { Verdict::passes() } else { Verdict::becomes(restored) }
    }
}

impl OfPrompts {
    /// Puts placeholders in place of what is to be redacted in the texts of `body`, which is `seen`. What stands anywhere
    /// else (a name, a number, an address of a picture) can not be replaced, and blocks the prompt.
    pub(crate) fn redact(&self, body: &str, seen: &Seen<'_>, verdict: &mut PromptVerdict) {
        let placeholders = RefCell::new(std::mem::take(&mut verdict.placeholders));
        let redacting = Redacting { rules: &self.rules, placeholders };
        let mut review = Review::new(&redacting, body);
        for text in seen.texts() {
            let raw = Some(text.raw);
            let reviewed = match text.is_arguments {
                true => review.arguments(&Function { arguments: raw }, "arguments"),
                false => review.text(raw, String::new),
            };
            if reviewed.is_err() {
                verdict.withhold();
            }
        }
        let redacted = review.finish().body.and_then(|body| String::from_utf8(body).ok());
        verdict.placeholders = redacting.placeholders.into_inner();
        let redacted = redacted.unwrap_or_else(|| body.to_owned());
        match Seen::of(&redacted) {
            Some(seen) => seen.each_token(&mut |text| {
                let left = self.rules.find(text.unwrap_or_default());
                let left = left.iter().filter(|found| found.action >= Action::Redact);
                left.for_each(|found| verdict.note(found.rule, found.kind, Action::Block));
            }),
            None => verdict.withhold(),
        }
        verdict.body = (verdict.action == Action::Redact).then(|| redacted.into_bytes());
    }
}

impl Compiled {
    /// What a model may be given of a text that becomes part of a prompt after `verdict`, with the same placeholders;
    /// `None` when it must not pass.
    pub fn redact_into_prompt(&self, text: &str, verdict: &mut PromptVerdict) -> Option<String> {
        let Some(rules) = self.for_prompts() else { return Some(text.to_owned()) };
        let mut placeholders = verdict.placeholders.clone();
        if placeholders.are_in(text) {
            // What the model says of it could not be told from what stands for a value.
            return None;
        }
        placeholders.avoid(text);
        let redacted = rules.rules.redact_into(text, &mut placeholders)?;
        verdict.placeholders = placeholders;
        rules.rules.find(text).iter().for_each(|found| verdict.note(found.rule, found.kind, found.action));
        Some(redacted)
    }
}

impl Placeholders {
    /// Puts the values back into every text of a chat completion that rules look at. Arguments that are JSON stay JSON. The
    /// log probabilities of a choice that changes become null. With [`Action::Block`], it would become too large.
    ///
    /// # Errors
    /// When the bytes are no chat completion.
    pub fn restore_chat_completion(&self, body: &[u8]) -> Result<Moderated, CompletionError> {
        chat_completion(&self.restoring(), body)
    }

    /// The same for a response.
    ///
    /// # Errors
    /// When the bytes are no response.
    pub fn restore_response(&self, body: &[u8]) -> Result<Moderated, CompletionError> {
        response(&self.restoring(), body)
    }

    fn restoring(&self) -> Restoring<'_> {
        Restoring { placeholders: self, left: Cell::new(MOST_RESTORED) }
    }
}
