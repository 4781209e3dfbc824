//! Token counts for answers that come without usage.

pub use millrace_admission::tokens::count;
use serde_json::Value;

/// What chat templates add around each message, and in front of the answer.
const PER_MESSAGE: i64 = 3;

/// Prompt tokens of a chat request, about: its messages and what else becomes part of the prompt. A
/// request that can not be read counts 0.
#[must_use]
pub fn asked(request: &[u8]) -> i64 {
    let request: Value = serde_json::from_slice(request).unwrap_or(Value::Null);
    let role = |message: &Value| message.get("role").and_then(Value::as_str).map_or(0, of_text);
    let messages = array(&request, "messages").iter().map(|message| of_message(message) + role(message) + PER_MESSAGE);
    let beside = ["tools", "functions", "response_format"].iter().filter_map(|name| request.get(name));
    messages.sum::<i64>() + beside.map(|value| of_text(&value.to_string())).sum::<i64>() + PER_MESSAGE
}

/// Output tokens of a chat completion: everything that the model wrote in all choices. An answer
/// that can not be read counts 0.
#[must_use]
pub fn written(answer: &[u8]) -> i64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or(Value::Null);
    array(&answer, "choices").iter().filter_map(|choice| choice.get("message")).map(of_message).sum()
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
        assert_eq!(written(b"{\"choices\":null}"), 0);
        assert_eq!(written(b"not json"), 0);
    }

    #[test]
    fn messages_parts_and_tools_count() {
        let request = r#"{"model":"m","messages":[
            {"role":"system","content":"hello world"},
            {"role":"user","content":[{"type":"text","text":"hello world"},{"type":"image_url","image_url":{"url":"x"}}]}]}"#;
        assert_eq!(asked(request.as_bytes()), 2 * (1 + 2 + PER_MESSAGE) + PER_MESSAGE);
        let with_tools = request.replacen('{', r#"{"tools":[{"type":"function"}],"#, 1);
        assert!(asked(with_tools.as_bytes()) > asked(request.as_bytes()));
    }
}
