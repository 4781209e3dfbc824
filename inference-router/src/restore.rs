//! Values of a prompt in the place of their placeholders in its answer, before that is held to the rules for answers.

use millrace_rules::{Action, Compiled, Placeholders, Redactor, Streaming};
use millrace_schemas::Operation;

/// The answer with its values; as it is when there are none, or it is no answer of that operation: the moderator says so.
/// `None` when it would become too large.
pub(crate) fn restored(operation: Operation, answer: Vec<u8>, placeholders: &Placeholders) -> Option<Vec<u8>> {
    if placeholders.is_empty() {
        return Some(answer);
    }
    let restored = match operation {
        Operation::Chat => placeholders.restore_chat_completion(&answer),
        Operation::Responses => placeholders.restore_response(&answer),
        Operation::Embeddings => return Some(answer),
    };
    match restored {
        Ok(restored) if restored.action == Action::Block => None,
        Ok(restored) => Some(restored.body.unwrap_or(answer)),
        Err(_) => Some(answer),
    }
}

/// What texts pass through on their way to a client who reads along; inside, `None` where they pass as they come. `None` when
/// the rules let nothing be seen before it is whole.
pub(crate) fn redactor(rules: &Compiled, placeholders: &Placeholders) -> Option<Option<Redactor>> {
    match rules.streaming() {
        Streaming::Free if placeholders.is_empty() => Some(None),
        Streaming::Free | Streaming::HeldBack => Some(Some(Redactor::restoring(rules, placeholders))),
        Streaming::Whole => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_values_again_or_stays_as_it_is() {
        let placeholders = Placeholders::from_iter([("[EMAIL_1]".to_owned(), "a@x.org".to_owned())]);
        let check = |operation: Operation, answer: &str, expected: &str| {
            let answer = restored(operation, answer.as_bytes().to_vec(), &placeholders).expect("not too large");
            assert_eq!(String::from_utf8(answer).expect("UTF-8"), expected);
        };
        check(
            Operation::Chat,
            r#"{"choices":[{"message":{"content":"to [EMAIL_1]"}}], "new":1e2}"#,
            r#"{"choices":[{"message":{"content":"to a@x.org"}}], "new":1e2}"#,
        );
        check(
            Operation::Responses,
            r#"{"output":[{"type":"message","content":[{"text":"to [EMAIL_1]"}]}]}"#,
            r#"{"output":[{"type":"message","content":[{"text":"to a@x.org"}]}]}"#,
        );
        for operation in [Operation::Chat, Operation::Responses, Operation::Embeddings] {
            check(operation, r#"<html> [EMAIL_1]"#, r#"<html> [EMAIL_1]"#);
        }
        let long = Placeholders::from_iter([("[T_1]".to_owned(), "x".repeat(1 << 19))]);
        let answer = br#"{"choices":[{"message":{"content":"[T_1] [T_1] [T_1]"}}]}"#.to_vec();
        assert_eq!(restored(Operation::Chat, answer, &long), None);
    }
}
