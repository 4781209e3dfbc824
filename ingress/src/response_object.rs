//! Responses as clients see them that ask for them later.

use millrace_admission::{EditableBody, responses};
use millrace_schemas::{Outcome, OutcomeStatus};
use serde_json::{Map, Value, json};

/// Members of a request that its response repeats, and what they are where it does not name them.
const REPEATED: [(&str, &str); 15] = [
    ("background", "false"),
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("metadata", "{}"),
    ("model", "null"),
    ("parallel_tool_calls", "true"),
    ("previous_response_id", "null"),
    ("reasoning", "null"),
    ("store", "true"),
    ("temperature", "null"),
    ("text", "null"),
    ("tool_choice", "\"auto\""),
    ("tools", "[]"),
    ("top_p", "null"),
    ("truncation", "\"disabled\""),
];

/// A response that has no output; `received_at` in microseconds since the epoch.
pub fn without_output(request_id: &str, received_at: Option<i64>, asked: Option<&EditableBody>, status: &str) -> Value {
    let id = asked.map_or_else(|| responses::id_of(request_id), |asked| responses::name_of(request_id, asked));
    let mut object = Map::from_iter([
        ("id".to_owned(), id.into()),
        ("object".to_owned(), "response".into()),
        ("created_at".to_owned(), received_at.map_or(Value::Null, |micros| (micros / 1_000_000).into())),
        ("status".to_owned(), status.into()),
        ("error".to_owned(), Value::Null),
        ("incomplete_details".to_owned(), Value::Null),
        ("output".to_owned(), json!([])),
        ("usage".to_owned(), Value::Null),
    ]);
    for (name, default) in REPEATED {
        let raw = asked.and_then(|asked| asked.get(name)).filter(|raw| *raw != "null").unwrap_or(default);
        object.insert(name.to_owned(), serde_json::from_str(raw).unwrap_or(Value::Null));
    }
    Value::Object(object)
}

/// The response of a request that has ended; `None` when its answer can not be read.
pub fn of_outcome(outcome: &Outcome, asked: Option<&EditableBody>) -> Option<Value> {
    let meta = &outcome.meta;
    match (&outcome.response, &outcome.error) {
        (Some(answer), None) => serde_json::from_slice(answer).ok(),
        (_, Some(error)) => {
            let status = match outcome.status {
                OutcomeStatus::Cancelled => "cancelled",
                OutcomeStatus::Succeeded | OutcomeStatus::Blocked | OutcomeStatus::Failed | OutcomeStatus::Expired => {
                    "failed"
                }
            };
            let mut object = without_output(&meta.request_id, Some(meta.received_at), asked, status);
            if status == "failed" {
                object["error"] = json!({ "code": error.code, "message": error.message });
            }
            Some(object)
        }
        (None, None) => None,
    }
}

/// One page of the items that a response was asked with.
pub fn input_items(asked: &EditableBody, page: &Page) -> Value {
    let items = responses::items(asked).into_iter().enumerate().map(|(index, item)| {
        let mut item: Value = serde_json::from_str(&item).unwrap_or(Value::Null);
        if let Some(members) = item.as_object_mut() {
            members.entry("id").or_insert_with(|| format!("item_{index}").into());
            members.entry("type").or_insert_with(|| "message".into());
        }
        item
    });
    let mut items: Vec<Value> = items.collect();
    if !page.ascending {
        items.reverse();
    }
    let after = page.after.as_ref().and_then(|id| items.iter().position(|item| item["id"] == **id));
    let rest = items.split_off(after.map_or(0, |at| at + 1));
    let data: Vec<&Value> = rest.iter().take(page.limit).collect();
    let id = |item: Option<&&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    json!({ "object": "list", "first_id": id(data.first()), "last_id": id(data.last()),
        "has_more": rest.len() > data.len(), "data": data })
}

/// Which items are asked for.
pub struct Page {
    pub ascending: bool,
    pub limit: usize,
    /// The last item of the page before.
    pub after: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> EditableBody {
        let text = r#"{"model":"m","instructions":"Be brief","input":[{"role":"user","content":"a"},{"id":"x","type":"y"}],"tools":null}"#;
        EditableBody::parse(text.to_owned()).expect("an object")
    }

    #[test]
    fn a_response_repeats_what_was_asked() {
        let object = without_output("req_1", Some(7_000_000), Some(&asked()), "queued");
        let told = (&object["id"], &object["created_at"], &object["status"], &object["instructions"], &object["tools"]);
        assert_eq!(told, (&json!("resp_1"), &json!(7), &json!("queued"), &json!("Be brief"), &json!([])));
        assert_eq!(without_output("req_1", None, None, "queued")["model"], Value::Null);
    }

    #[test]
    fn items_come_page_by_page() {
        let page = |ascending, limit, after: Option<&str>| {
            input_items(&asked(), &Page { ascending, limit, after: after.map(str::to_owned) })
        };
        let all = page(false, 20, None);
        assert_eq!(
            (&all["first_id"], &all["last_id"], &all["has_more"]),
            (&json!("x"), &json!("item_0"), &json!(false))
        );
        let first = page(true, 1, None);
        assert_eq!((&first["data"][0]["content"], &first["has_more"]), (&json!("a"), &json!(true)));
        assert_eq!(page(true, 1, Some("item_0"))["data"][0]["id"], "x");
        assert_eq!(page(true, 1, Some("x"))["data"], json!([]));
    }
}
