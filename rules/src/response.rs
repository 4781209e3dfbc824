//! A response of the Responses API, checked and rewritten like a chat completion.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::completion::{Function, Moderated, Part, Review, Reviewer};
use crate::{Compiled, CompletionError};

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    output: Vec<&'a RawValue>,
    /// All texts together, as some servers add them.
    #[serde(borrow, default)]
    output_text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    summary: Option<&'a RawValue>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    revised_prompt: Option<&'a RawValue>,
}

impl Compiled {
    /// Checks every text of a response: of messages, refusals, reasoning and its summaries, the arguments and inputs
    /// of calls, and whatever is said in items of other types, of which everything is looked at.
    ///
    /// # Errors
    /// When the bytes are no response. They must not be let through.
    pub fn apply_to_response(&self, body: &[u8]) -> Result<Moderated, CompletionError> {
        response(self, body)
    }
}

/// Reviews every text of a response.
pub(crate) fn response(reviewer: &dyn Reviewer, body: &[u8]) -> Result<Moderated, CompletionError> {
    let malformed = |error: String| CompletionError::Malformed(error);
    let text = std::str::from_utf8(body).map_err(|error| malformed(error.to_string()))?;
    let response: Response<'_> = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let mut review = Review::new(reviewer, text);
    for (index, item) in response.output.into_iter().enumerate() {
        review.item(item, &format!("output[{index}]"))?;
    }
    review.text(response.output_text, || "output_text".to_owned())?;
    Ok(review.finish())
}

impl Review<'_> {
    fn item(&mut self, raw: &RawValue, at: &str) -> Result<(), CompletionError> {
        let item: Item<'_> =
            serde_json::from_str(raw.get()).map_err(|error| CompletionError::Malformed(format!("{at}: {error}")))?;
        match item.kind.as_deref() {
            Some("message" | "reasoning") | None => {
                self.parts(item.summary, &format!("{at}.summary"))?;
                self.parts(item.content, &format!("{at}.content"))
            }
            Some("function_call") => self.arguments(&Function { arguments: item.arguments }, at),
            Some("custom_tool_call") => self.text(item.input, || format!("{at}.input")),
            // The picture itself is no text.
            Some("image_generation_call") => self.text(item.revised_prompt, || format!("{at}.revised_prompt")),
            Some(_) => {
                self.raw_json(raw, &|| at.to_owned());
                Ok(())
            }
        }
    }

    /// A text, or a list of parts.
    fn parts(&mut self, raw: Option<&RawValue>, at: &str) -> Result<(), CompletionError> {
        let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(()) };
        if raw.get().starts_with('"') {
            return self.text(Some(raw), || at.to_owned());
        }
        let parts: Vec<Part<'_>> =
            serde_json::from_str(raw.get()).map_err(|error| CompletionError::Malformed(format!("{at}: {error}")))?;
        for (index, part) in parts.iter().enumerate() {
            let edits = self.edits();
            self.text(part.text, || format!("{at}[{index}].text"))?;
            self.text(part.refusal, || format!("{at}[{index}].refusal"))?;
            // They repeat its text.
            if let Some(logprobs) = part.logprobs.filter(|_| self.edits() > edits) {
                self.put(logprobs, "[]");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{Action, RuleSet};

    fn check(output: &str, action: Action, expected: Option<&str>) {
        let rules: RuleSet = r#"
            pii = { email = "redact" }
            terms = [{ name = "bomb", words = ["bomb"], action = "block" }]
        "#
        .parse()
        .expect("rules");
        let rules = rules.compile().expect("rules");
        let response = |output: &str| format!(r#"{{"id":"r", "new":1e2, "output":[{output}]}}"#);
        let moderated = rules.apply_to_response(response(output).as_bytes()).expect("a response");
        assert_eq!(moderated.action, action, "{output}: {moderated:?}");
        let body = moderated.body.map(|body| String::from_utf8(body).expect("UTF-8"));
        assert_eq!(body, expected.map(response), "{output}");
    }

    #[test]
    fn every_text_of_a_response_is_held_to_the_rules() {
        use Action::{Allow, Block, Redact};
        check(r#"{"type":"message","content":[{"type":"output_text","text":"fine"}]}"#, Allow, None);
        check(
            r#"{"type":"message","content":[{"text":"to a@b.com","logprobs":[{"token":"a@b.com"}]},{"refusal":"x"}]}"#,
            Redact,
            Some(r#"{"type":"message","content":[{"text":"to [EMAIL]","logprobs":[]},{"refusal":"x"}]}"#),
        );
        check(
            r#"{"type":"reasoning","summary":[{"text":"a@b.com"}],"encrypted_content":"a@b.com"}"#,
            Redact,
            Some(r#"{"type":"reasoning","summary":[{"text":"[EMAIL]"}],"encrypted_content":"a@b.com"}"#),
        );
        check(
            r#"{"type":"function_call","name":"f","arguments":"{\"to\":\"a@b.com\"}"}"#,
            Redact,
            Some(r#"{"type":"function_call","name":"f","arguments":"{\"to\":\"[EMAIL]\"}"}"#),
        );
        check(
            r#"{"type":"file_search_call","results":[{"text":"a@b.com"}]}"#,
            Redact,
            Some(r#"{"type":"file_search_call","results":[{"text":"[EMAIL]"}]}"#),
        );
        check(r#"{"type":"custom_tool_call","input":"a bomb"}"#, Block, None);
        check(r#"{"type":"message","content":[{"refusal":"no bomb"}]}"#, Block, None);
        check(r#"{"type":"mcp_call","output":"a bomb"}"#, Block, None);
        check(r#"{"type":"image_generation_call","result":"bomb","revised_prompt":"a boat"}"#, Allow, None);
    }

    #[test]
    fn what_is_no_response_is_not_let_through() {
        let rules = RuleSet::default().compile().expect("rules");
        for body in ["[]", "{}", r#"{"output":null}"#, r#"{"output":[1]}"#, r#"{"output":[{"content":7}]}"#, "<html>"] {
            assert!(rules.apply_to_response(body.as_bytes()).is_err(), "{body}");
        }
        assert!(rules.apply_to_response(br#"{"output":[{"content":[{"text":"\ud800"}]}]}"#).is_err());
    }
}
