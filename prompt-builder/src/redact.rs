//! What rules let a model see, in the place of what was asked.

use millrace_admission::{Admitted, EditableBody};
use millrace_rules::{Compiled, PromptVerdict};
use millrace_schemas::Ended;

use crate::decide::blocked;
use crate::ports::Passage;

/// Puts what passes in the place of the body, which may have `most` bytes then, and of the question that passages are
/// looked for by.
///
/// # Errors
/// How it ends, when it has become too large or the question can not be redacted.
pub(crate) fn redact(
    admitted: &mut Admitted,
    rules: &Compiled,
    found: &mut PromptVerdict,
    most: usize,
) -> Result<(), Ended> {
    let redacted = found.body.take().and_then(|body| String::from_utf8(body).ok());
    if let Some(body) = redacted.and_then(EditableBody::parse) {
        admitted.body = body;
        let written = u32::try_from(found.placeholders.written()).unwrap_or(u32::MAX);
        // A placeholder has at most as many tokens as bytes; what it stands for may have had none.
        admitted.prompt_tokens = admitted.prompt_tokens.saturating_add(written);
        let bytes = admitted.body.to_bytes().len();
        if bytes > most {
            let message = format!(
                "The prompt has {bytes} bytes once it is redacted, more than the {most} that are passed on. Send a \
                 shorter one."
            );
            return Err(Ended::invalid("context_length_exceeded", None, message));
        }
    }
    let Some(wanted) = &mut admitted.collection else { return Ok(()) };
    match rules.redact_into_prompt(&wanted.question, found) {
        Some(question) => wanted.question = question,
        // Its parts stand together here, and only together they are hit.
        None => {
            found.withhold();
            return blocked(found).map_or(Ok(()), Err);
        }
    }
    Ok(())
}

/// The passages that may be seen, redacted; one that must not be is left out.
pub(crate) fn redact_passages(passages: Vec<Passage>, rules: &Compiled, found: &mut PromptVerdict) -> Vec<Passage> {
    let redacted = |passage: Passage| {
        let title = match passage.title {
            Some(title) => Some(rules.redact_into_prompt(&title, found)?),
            None => None,
        };
        Some(Passage { title, text: rules.redact_into_prompt(&passage.text, found)? })
    };
    passages.into_iter().filter_map(redacted).collect()
}
