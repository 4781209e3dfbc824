//! The contract with everyone else's consumers.

use std::collections::BTreeMap;
use std::path::Path;

use apache_avro::Schema;
use apache_avro::schema_compatibility::SchemaCompatibility;
use millrace_schemas::{
    ALL_EVENTS, AuditRecord, Budget, Call, CallKind, CallLine, Cancellation, Codec, Completion, DeadLetter,
    DeadLetterAction, DirectoryEntry, Document, Ended, Event, Fact, Lane, LetterAction, LimitUse, Meta, Moderation,
    Outcome, OutcomeStatus, Prompt, PromptModeration, RecordHeader, Redrive, ReplyChunk, Request, StageTime,
};
use serde_json::Value;

fn schema_files(folder: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    std::fs::read_dir(&folder)
        .expect("the folder exists")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "avsc"))
        .map(|path| {
            let name = path.file_stem().expect("named").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("readable"))
        })
        .collect()
}

/// The newest folder under `released/` is what consumers in the field were built with.
fn last_released() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("released");
    let newest = std::fs::read_dir(root)
        .expect("the folder exists")
        .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
        .max_by_key(|v| v.split('.').map(|n| n.parse::<u32>().expect("a version")).collect::<Vec<_>>())
        .expect("a release");
    schema_files(&format!("released/{newest}"))
}

/// Both directions: yesterday's consumers read today's records, today's read yesterday's.
fn compatible(old: &str, new: &str) -> Result<(), String> {
    let old = Schema::parse_str(old).map_err(|e| e.to_string())?;
    let new = Schema::parse_str(new).map_err(|e| e.to_string())?;
    SchemaCompatibility::can_read(&old, &new).map_err(|e| format!("today's consumer can not read old records: {e}"))?;
    SchemaCompatibility::can_read(&new, &old)
        .map_err(|e| format!("yesterday's consumer can not read new records: {e}"))
        .map(|_| ())
}

#[test]
fn no_schema_breaks_the_last_release() {
    let now = schema_files("avro");
    for (name, old) in last_released() {
        let new = now.get(&name).unwrap_or_else(|| panic!("{name}.avsc was released and is gone"));
        if let Err(error) = compatible(&old, new) {
            panic!("{name}.avsc: {error}");
        }
    }
}

#[test]
fn the_compatibility_check_refuses_what_would_break() {
    let old = Request::SCHEMA;
    let renamed = old.replace("\"body\"", "\"payload\"");
    let retyped = old.replace("\"type\": \"bytes\"", "\"type\": \"long\"");
    for (what, broken) in [("renamed", renamed), ("retyped", retyped)] {
        assert!(broken != old && compatible(old, &broken).is_err(), "{what} must be refused");
    }
    let mut grown: Value = serde_json::from_str(old).expect("JSON");
    grown["fields"]
        .as_array_mut()
        .expect("fields")
        .push(serde_json::json!({"name": "priority", "type": "int", "default": 0, "doc": "New."}));
    assert_eq!(compatible(old, &grown.to_string()), Ok(()), "a new field with a default is fine");
}

#[test]
fn every_field_is_documented_and_shared_records_are_the_same_everywhere() {
    let mut shared: BTreeMap<String, Value> = BTreeMap::new();
    for (file, text) in schema_files("avro") {
        let schema: Value = serde_json::from_str(&text).expect("JSON");
        walk(&schema, &mut |record| {
            let name = record["name"].as_str().expect("a name").to_owned();
            assert!(record["doc"].is_string(), "{file}: {name} has no doc");
            for field in record["fields"].as_array().expect("fields") {
                assert!(
                    field["doc"].as_str().is_some_and(|d| d.len() > 3),
                    "{file}: {name}.{} has no doc",
                    field["name"]
                );
            }
            let before = shared.insert(name.clone(), record.clone());
            assert!(before.is_none_or(|b| b == *record), "{file}: {name} differs from its other definition");
        });
    }
    assert!(shared.contains_key("Meta") && shared.contains_key("CallLine"));
}

fn walk(node: &Value, visit: &mut impl FnMut(&Value)) {
    match node {
        Value::Object(object) => {
            if object.get("type").and_then(Value::as_str) == Some("record") {
                visit(node);
            }
            object.values().for_each(|child| walk(child, visit));
        }
        Value::Array(items) => items.iter().for_each(|child| walk(child, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

async fn survives<E: Event + PartialEq + std::fmt::Debug>(codec: &Codec, event: E) -> Vec<u8> {
    let bytes = codec.encode(&event).unwrap_or_else(|e| panic!("{}: {e}", E::NAME));
    let back: E = codec.decode(&bytes).await.unwrap_or_else(|e| panic!("{}: {e}", E::NAME));
    assert_eq!(back, event);
    // The generic reader, which everyone else's libraries amount to, agrees with the typed one.
    let view = codec.view(&bytes).await.expect("decodes");
    assert_eq!(view.name, E::NAME);
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(codec.decode::<E>(&longer).await.is_err(), "trailing bytes are refused");
    for cut in 0..bytes.len() {
        let _never_panics = codec.decode::<E>(&bytes[..cut]).await;
    }
    bytes
}

#[tokio::test]
async fn every_event_survives_and_the_clients_json_is_kept_byte_for_byte() {
    let codec = Codec::detached().expect("no registry is asked");
    // Spaces, escapes, number forms and fields of next month: nothing is normalised.
    let body =
        br#" { "model":"m",  "messages":[{"role":"user","content":"\u00e9\t"}], "x": 1.50e+2 , "new": {"b":1,"a":2}}"#;
    let meta = Meta {
        request_id: "req_1".into(),
        run: 1,
        tenant: "acme".into(),
        user: "ada".into(),
        key_id: Some("k1".into()),
        lane: Lane::Batch,
        operation: "chat.completions".into(),
        idempotency_key: None,
        body_hash: None,
        received_at: 1,
        deadline: i64::MAX,
        reply_replica: Some("r".into()),
        reply_topic: None,
        labels: BTreeMap::from([("a".into(), "b".into()), ("c".into(), "d".into())]),
    };
    let ended = Ended::invalid("code", Some("messages"), "message");
    let line = CallLine {
        call_id: "call_1".into(),
        operation: "chat.completions".into(),
        provider: "p".into(),
        model: "m".into(),
        status: "finished".into(),
        input_tokens: 1,
        cached_input_tokens: 0,
        output_tokens: 2,
        estimated: false,
        cost_nanos: -3,
        charge_nanos: i64::MIN,
        currency: "USD".into(),
        price_version: "v".into(),
    };
    let stages = vec![StageTime { stage: "s".into(), started_at: 1, finished_at: 2 }];

    let request = Request { body: body.to_vec(), labels: meta.labels.clone(), ..Request::new(Vec::new()) };
    let bytes = survives(&codec, request).await;
    assert!(bytes.windows(body.len()).any(|window| window == body));
    let found = PromptModeration { action: "allow".into(), rules_version: "v".into(), hits: vec!["injection".into()] };
    let prompt = Prompt {
        meta: meta.clone(),
        body: Some(body.to_vec()),
        model: "m".into(),
        rule_set: "default".into(),
        prompt_tokens: 3,
        max_output_tokens: 4,
        choices: 1,
        passages: 0,
        ended: Some(ended.clone()),
        bill: vec![line.clone(), line.clone()],
        stages: stages.clone(),
        prompt_moderation: Some(found.clone()),
        placeholders: BTreeMap::from([("[EMAIL_1]".to_owned(), "a@x.org".to_owned())]),
        body_file: Some("body-1".to_owned()),
    };
    survives(&codec, prompt).await;
    let completion = Completion {
        meta: meta.clone(),
        response: Some(vec![0, 159, 146, 150]),
        model: "m".into(),
        provider: None,
        rule_set: "default".into(),
        ended: None,
        bill: vec![],
        stages: stages.clone(),
        prompt_moderation: None,
    };
    survives(&codec, completion).await;
    let outcome = Outcome {
        meta,
        status: OutcomeStatus::Blocked,
        response: None,
        error: Some(ended),
        model: "m".into(),
        provider: Some("p".into()),
        moderation: Moderation {
            action: "block".into(),
            rule_set: "default".into(),
            rules_version: "v".into(),
            hits: vec!["email".into()],
        },
        input_tokens: 1,
        output_tokens: 2,
        cost_nanos: 3,
        charge_nanos: 4,
        currency: "USD".into(),
        bill: vec![line],
        stages,
        finished_at: 5,
        prompt_moderation: Some(found),
    };
    survives(&codec, outcome).await;
    for kind in CallKind::ALL {
        let call = Call {
            call_id: "call_1".into(),
            kind: *kind,
            request_id: "req_1".into(),
            run: 0,
            tenant: "acme".into(),
            user: "ada".into(),
            key_id: None,
            lane: "batch".into(),
            operation: "embeddings".into(),
            provider: "p".into(),
            model: "m".into(),
            at: 1,
            started_at: 1,
            deadline: 2,
            price_version: "v".into(),
            currency: "USD".into(),
            reserved_nanos: 9,
            input_tokens: 0,
            cached_input_tokens: 0,
            output_tokens: 0,
            estimated: true,
            cost_nanos: 0,
            charge_nanos: 0,
            http_status: Some(429),
            reason: Some("why".into()),
            reserved_charge_nanos: Some(9),
            provider_key: Some("main".to_owned()),
        };
        survives(&codec, call).await;
    }
    let fact = Fact {
        event_id: "e".into(),
        request_id: "r".into(),
        run: 0,
        tenant: "t".into(),
        user: "u".into(),
        key_id: None,
        labels: BTreeMap::new(),
        lane: Lane::Interactive,
        operation: "chat.completions".into(),
        model: "m".into(),
        provider: None,
        status: OutcomeStatus::Succeeded,
        error_code: None,
        moderation_action: "allow".into(),
        calls: 1,
        input_tokens: 1,
        output_tokens: 1,
        cost_nanos: 1,
        charge_nanos: 1,
        currency: "USD".into(),
        received_at: 1,
        finished_at: 2,
        latency_micros: 1,
        stage_micros: BTreeMap::from([("moderator".into(), 7)]),
    };
    survives(&codec, fact).await;
    let document = Document {
        document_id: None,
        collection: "c".into(),
        text: "text".into(),
        title: Some("t".into()),
        user: None,
        metadata: BTreeMap::new(),
    };
    survives(&codec, document).await;
    let letter = DeadLetter {
        stage: "s".into(),
        topic: "t".into(),
        generation: 0,
        partition: 0,
        offset: 1,
        timestamp: 2,
        code: "c".into(),
        error: "e".into(),
        tenant: None,
        request_id: None,
        key: Some(vec![1]),
        value: Some(vec![255; 100]),
        headers: vec![RecordHeader { name: "n".into(), value: None }],
        at: 3,
    };
    survives(&codec, letter).await;
    let cancellation = Cancellation { tenant: "t".into(), request_id: "r".into(), cancelled_at: 1 };
    survives(&codec, cancellation).await;
    let redrive = Redrive {
        run: 2,
        letters: vec!["3/57".into(), "3/99".into()],
        topic: "requests.batch".into(),
        generation: 0,
        partition: 3,
        offset: 1,
        timestamp: 2,
        key: None,
        value: body.to_vec(),
        headers: vec![RecordHeader { name: "n".into(), value: Some(vec![0, 255]) }],
        at: 3,
    };
    survives(&codec, redrive).await;
    let action = DeadLetterAction { letter: "3/57".into(), action: LetterAction::Redriven, at: 1 };
    survives(&codec, action).await;
    let chunk = ReplyChunk {
        request_id: "r".into(),
        body_hash: None,
        call_id: "call_1".into(),
        sequence: 7,
        events: vec![r#"{"choices":[]}"#.into(), String::new()],
    };
    survives(&codec, chunk).await;
    let entry = DirectoryEntry {
        name: "key/t/k".into(),
        body: Some("{}".into()),
        change_id: "c".into(),
        changed_at: 1,
        changed_by: "admin".into(),
    };
    survives(&codec, entry).await;
    let audit = AuditRecord {
        change_id: "c".into(),
        at: 1,
        actor: "admin".into(),
        address: None,
        action: "create".into(),
        name: "plan/p".into(),
        before: None,
        after: Some("{}".into()),
    };
    survives(&codec, audit).await;
    let limit_use = LimitUse {
        replica: "a".into(),
        subject: "tenant/t".into(),
        at: 1,
        minute: 2,
        requests: 3,
        previous_requests: 4,
        tokens: 5,
        previous_tokens: 6,
        day: 7,
        day_tokens: 8,
        concurrent: 9,
    };
    survives(&codec, limit_use).await;
    let budget = Budget { tenant: Some("t".into()), user: Some("u".into()), ..Budget::mark(0, 3, 57) };
    survives(&codec, budget).await;
    survives(&codec, Budget::mark(0, 3, -1)).await;
    assert_eq!(ALL_EVENTS.len(), 16, "every event is in this test");
}
