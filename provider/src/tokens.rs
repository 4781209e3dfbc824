//! Token counts for answers that come without usage.

use millrace_admission::responses;
pub use millrace_admission::tokens::count;
use millrace_schemas::Operation;
use serde_json::Value;

/// What chat templates add around each message, and in front of the answer.
const PER_MESSAGE: i64 = 3;

/// Prompt tokens of a request, about: its messages and what else becomes part of the prompt, or its inputs. A
/// request that can not be read counts 0.
#[must_use]
pub fn asked(operation: Operation, request: &[u8]) -> i64 {
    let request: Value = serde_json::from_slice(request).unwrap_or(Value::Null);
    match operation {
        Operation::Chat => of_chat(&request),
        Operation::Embeddings => request.get("input").map_or(0, of_input),
        Operation::Responses => of_response_request(&request),
    }
}

/// A text, a token, or any number of them.
fn of_input(input: &Value) -> i64 {
    match input {
        Value::String(text) => of_text(text),
        Value::Array(items) => items.iter().map(of_input).sum(),
        Value::Number(_) => 1,
        Value::Null | Value::Bool(_) | Value::Object(_) => 0,
    }
}

fn of_response_request(request: &Value) -> i64 {
    let text = |name: &str| match request.get(name) {
        None | Some(Value::Null) => 0,
        Some(Value::String(text)) => of_text(text),
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            of_text(&value.to_string())
        }
    };
    let input = request.get("input").map_or(0, |input| i64::from(responses::tokens_of(&input.to_string())));
    input + ["instructions", "tools", "text"].into_iter().map(text).sum::<i64>()
}

fn of_chat(request: &Value) -> i64 {
    let role = |message: &Value| message.get("role").and_then(Value::as_str).map_or(0, of_text);
    let messages = array(request, "messages").iter().map(|message| of_message(message) + role(message) + PER_MESSAGE);
    let beside = ["tools", "functions", "response_format"].iter().filter_map(|name| request.get(name));
    messages.sum::<i64>() + beside.map(|value| of_text(&value.to_string())).sum::<i64>() + PER_MESSAGE
}

/// Output tokens of a chat completion or a response: everything that the model wrote in all choices and items. An
/// answer that can not be read counts 0.
#[must_use]
pub fn written(answer: &[u8]) -> i64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or(Value::Null);
    let choices = array(&answer, "choices").iter().filter_map(|choice| choice.get("message")).map(of_message);
    choices.chain(array(&answer, "output").iter().map(of_item)).sum()
}

fn of_item(item: &Value) -> i64 {
    let parts = ["content", "summary"].iter().flat_map(|name| array(item, name));
    let texts = parts.flat_map(|part| ["text", "refusal"].map(|name| part.get(name).and_then(Value::as_str)));
    let call = ["name", "arguments", "input"].map(|name| item.get(name).and_then(Value::as_str));
    texts.chain(call).flatten().map(of_text).sum()
}

fn of_message(message: &Value) -> i64 {
    let texts =
        ["content", "refusal", "reasoning_content", "name"].iter().filter_map(|name| message.get(name)?.as_str());
    let parts = array(message, "content").iter().filter_map(|part| part.get("text")?.as_str());
    let functions = array(message, "tool_calls")
        .iter()
        .filter_map(|call| call.get("function"))
        .flat_map(|function| ["name", "arguments"].map(|name| function.get(name).and_then(Value::as_str)))
        .flatten();
    texts.chain(parts).chain(functions).map(of_text).sum()
}

fn of_text(text: &str) -> i64 {
    i64::from(count(text))
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_tool_calls_of_all_choices_count() {
        let answer = r#"{"choices":[
            {"message":{"role":"assistant","content":"hello world","refusal":null}},
            {"message":{"content":null,"tool_calls":[{"function":{"name":"hello","arguments":" world"}}]}}]}"#;
        assert_eq!(written(answer.as_bytes()), 4);
        let response = r#"{"output":[{"type":"message","content":[{"text":"hello world"}]},
            {"type":"function_call","name":"hello","arguments":" world"}]}"#;
        assert_eq!(written(response.as_bytes()), 4);
        assert_eq!(written(b"{\"choices\":null}"), 0);
        assert_eq!(written(b"not json"), 0);
    }

    #[test]
    fn inputs_of_embeddings_count_as_texts_or_tokens() {
        let embedded = |input: &str| asked(Operation::Embeddings, format!("{{\"input\":{input}}}").as_bytes());
        assert_eq!((embedded("\"hello world\""), embedded("[\"hello\",\"world\"]")), (2, 2));
        assert_eq!((embedded("[1,2,3]"), embedded("[[1,2],[3]]"), embedded("null")), (3, 3, 0));
    }

    #[test]
    fn messages_parts_and_tools_count() {
        let request = r#"{"model":"m","messages":[
            {"role":"system","content":"hello world"},
            {"role":"user","content":[{"type":"text","text":"hello world"},{"type":"image_url","image_url":{"url":"x"}}]}]}"#;
        assert_eq!(asked(Operation::Chat, request.as_bytes()), 2 * (1 + 2 + PER_MESSAGE) + PER_MESSAGE);
        let with_tools = request.replacen('{', r#"{"tools":[{"type":"function"}],"#, 1);
        assert!(asked(Operation::Chat, with_tools.as_bytes()) > asked(Operation::Chat, request.as_bytes()));
    }
}
