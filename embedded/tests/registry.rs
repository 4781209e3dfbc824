//! The embedded registry through schema_registry_converter and over plain HTTP.
#![expect(clippy::unwrap_used, reason = "tests")]

use millrace_embedded::{EmbeddedError, Registry};
use reqwest::Method;
use schema_registry_converter::{
    async_impl::schema_registry::{SrSettings, get_schema_by_id, get_schema_by_subject, post_schema},
    schema_registry_common::{SchemaType, SubjectNameStrategy, SuppliedSchema},
};
use serde_json::{Value, json};

const ONE: &str = r#"{"type":"record","name":"R","doc":"first","fields":[{"name":"a","type":"long"}]}"#;
const TWO: &str =
    r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"string","default":""}]}"#;
const INCOMPATIBLE: &str =
    r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"c","type":"string"}]}"#;

fn supplied(schema: &str) -> SuppliedSchema {
    SuppliedSchema::new(Some("R".into()), SchemaType::Avro, schema.into())
}

async fn call(registry: &Registry, method: Method, path: &str, body: Value) -> (u16, Value) {
    let mut request = reqwest::Client::new().request(method, format!("{}{path}", registry.url()));
    if !body.is_null() {
        request = request.header("content-type", "application/vnd.schemaregistry.v1+json").body(body.to_string());
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/vnd.schemaregistry.v1+json", "{path}");
    (response.status().as_u16(), response.json().await.unwrap())
}

/// But for the schema's GUID.
async fn check(registry: &Registry, method: Method, path: &str, body: Value, status: u16, expected: Value) {
    let (answered, mut answer) = call(registry, method, path, body).await;
    if let Value::Object(members) = &mut answer {
        members.remove("guid");
    }
    assert_eq!((answered, answer), (status, expected), "{path}");
}

#[tokio::test]
async fn a_schema_has_one_guid_and_is_found_by_it() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path(), 0).unwrap();
    let register = async |subject: &str, text: &str| {
        let path = format!("/subjects/{subject}/versions");
        let (_, answer) = call(&registry, Method::POST, &path, json!({ "schema": text })).await;
        answer["guid"].as_str().unwrap().to_owned()
    };
    let (one, two, again) = (register("s", ONE).await, register("s", TWO).await, register("t", ONE).await);
    assert_eq!(one, again);
    assert_ne!(one, two);
    for (guid, text) in [(one, ONE), (two, TWO)] {
        check(&registry, Method::GET, &format!("/schemas/guids/{guid}"), Value::Null, 200, json!({ "schema": text }))
            .await;
    }
    check_error(&registry, Method::GET, "/schemas/guids/00000000-0000-0000-0000-000000000000", Value::Null, 40403)
        .await;
    registry.shutdown().await;
}

async fn check_error(registry: &Registry, method: Method, path: &str, body: Value, code: u64) {
    let (status, answer) = call(registry, method, path, body).await;
    assert_eq!(answer["error_code"], code, "{path}: {answer}");
    assert_eq!(u64::from(status), if code < 1000 { code } else { code / 100 }, "{path}");
    assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()));
}

#[tokio::test]
async fn the_serializer_registers_looks_up_and_reads_through_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path(), 0).unwrap();
    let settings = SrSettings::new(registry.url().to_owned());
    let one = post_schema(&settings, "requests-value".into(), supplied(ONE)).await.unwrap();
    let two = post_schema(&settings, "requests-value".into(), supplied(TWO)).await.unwrap();
    let again = post_schema(&settings, "other-value".into(), supplied(ONE)).await.unwrap();
    assert_eq!((one.id, two.id, again.id), (1, 2, 1));
    registry.shutdown().await;

    let registry = Registry::start(directory.path(), 0).unwrap();
    let settings = SrSettings::new(registry.url().to_owned());
    let latest = get_schema_by_subject(&settings, &SubjectNameStrategy::TopicNameStrategy("requests".into(), false))
        .await
        .unwrap();
    assert_eq!((latest.id, latest.schema.as_str()), (2, TWO));
    assert_eq!(get_schema_by_id(1, &settings).await.unwrap().schema, ONE);
    assert!(get_schema_by_id(3, &settings).await.is_err());
    registry.shutdown().await;
}

#[tokio::test]
async fn every_path_answers_as_confluents() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path(), 0).unwrap();
    let r = &registry;
    let schema = |text: &str| json!({ "schema": text });
    check(r, Method::GET, "/subjects", Value::Null, 200, json!([])).await;
    check(r, Method::GET, "/schemas/types", Value::Null, 200, json!(["AVRO"])).await;
    check(r, Method::POST, "/subjects/s/versions?normalize=false", schema(ONE), 200, json!({ "id": 1 })).await;
    check(r, Method::POST, "/subjects/s/versions", schema(TWO), 200, json!({ "id": 2 })).await;
    check(r, Method::POST, "/subjects/s/versions", schema(ONE), 200, json!({ "id": 1 })).await;
    check(r, Method::POST, "/subjects/with%2Fslash/versions", schema(TWO), 200, json!({ "id": 2 })).await;
    check(r, Method::GET, "/subjects", Value::Null, 200, json!(["s", "with/slash"])).await;
    check(r, Method::GET, "/subjects/s/versions", Value::Null, 200, json!([1, 2])).await;
    let first = json!({ "subject": "s", "version": 1, "id": 1, "schema": ONE });
    let second = json!({ "subject": "s", "version": 2, "id": 2, "schema": TWO });
    check(r, Method::GET, "/subjects/s/versions/1", Value::Null, 200, first.clone()).await;
    check(r, Method::GET, "/subjects/s/versions/latest", Value::Null, 200, second.clone()).await;
    check(r, Method::GET, "/subjects/s/versions/-1", Value::Null, 200, second).await;
    check(r, Method::GET, "/subjects/s/versions/1/schema", Value::Null, 200, serde_json::from_str(ONE).unwrap()).await;
    check(r, Method::POST, "/subjects/s?deleted=false", schema(ONE), 200, first).await;
    check(r, Method::GET, "/schemas/ids/1?subject=s", Value::Null, 200, schema(ONE)).await;
    let uses = json!([{ "subject": "s", "version": 2 }, { "subject": "with/slash", "version": 1 }]);
    check(r, Method::GET, "/schemas/ids/2/versions", Value::Null, 200, uses).await;

    check_error(r, Method::GET, "/subjects/none/versions", Value::Null, 40401).await;
    check_error(r, Method::GET, "/subjects/none/versions/1", Value::Null, 40401).await;
    check_error(r, Method::GET, "/subjects/s/versions/3", Value::Null, 40402).await;
    check_error(r, Method::GET, "/subjects/s/versions/zero", Value::Null, 42202).await;
    check_error(r, Method::GET, "/schemas/ids/9", Value::Null, 40403).await;
    check_error(r, Method::POST, "/subjects/none", schema(ONE), 40401).await;
    check_error(r, Method::POST, "/subjects/s", schema("\"string\""), 40403).await;
    check_error(r, Method::POST, "/subjects/s/versions", schema(INCOMPATIBLE), 409).await;
    check_error(r, Method::POST, "/subjects/s/versions", schema("{\"type\":\"nonsense\"}"), 42201).await;
    check_error(r, Method::POST, "/subjects/s/versions", json!({ "schema": "{}", "schemaType": "JSON" }), 42201).await;
    check_error(r, Method::POST, "/subjects/s/versions", json!({ "shema": "" }), 422).await;
    check_error(r, Method::GET, "/nowhere", Value::Null, 404).await;
    registry.shutdown().await;
}

#[tokio::test]
async fn compatibility_is_set_by_subject_and_checked_without_registering() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path(), 0).unwrap();
    let r = &registry;
    let schema = |text: &str| json!({ "schema": text });
    check(r, Method::GET, "/config", Value::Null, 200, json!({ "compatibilityLevel": "BACKWARD" })).await;
    check_error(r, Method::GET, "/config/s", Value::Null, 40408).await;
    check(
        r,
        Method::GET,
        "/config/s?defaultToGlobal=true",
        Value::Null,
        200,
        json!({ "compatibilityLevel": "BACKWARD" }),
    )
    .await;
    check_error(r, Method::PUT, "/config/s", json!({ "compatibility": "SOMETIMES" }), 42203).await;
    check(r, Method::POST, "/subjects/s/versions", schema(ONE), 200, json!({ "id": 1 })).await;
    let path = "/compatibility/subjects/s/versions/latest";
    check(r, Method::POST, path, schema(INCOMPATIBLE), 200, json!({ "is_compatible": false })).await;
    let (_, verbose) = call(r, Method::POST, &format!("{path}?verbose=true"), schema(INCOMPATIBLE)).await;
    assert!(verbose["messages"][0].as_str().unwrap().contains('c'), "{verbose}");
    check(
        r,
        Method::PUT,
        "/config/s",
        json!({ "compatibility": "forward" }),
        200,
        json!({ "compatibility": "FORWARD" }),
    )
    .await;
    check(r, Method::POST, path, schema(INCOMPATIBLE), 200, json!({ "is_compatible": true })).await;
    check(r, Method::PUT, "/config", json!({ "compatibility": "NONE" }), 200, json!({ "compatibility": "NONE" })).await;
    check(r, Method::GET, "/config/s", Value::Null, 200, json!({ "compatibilityLevel": "FORWARD" })).await;
    check(r, Method::GET, "/subjects/s/versions", Value::Null, 200, json!([1])).await;
    check_error(r, Method::POST, "/compatibility/subjects/none/versions/latest", schema(ONE), 40401).await;
    registry.shutdown().await;
}

#[tokio::test]
async fn a_schema_may_refer_to_another_subject() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path(), 0).unwrap();
    let r = &registry;
    check(r, Method::POST, "/subjects/r/versions", json!({ "schema": ONE }), 200, json!({ "id": 1 })).await;
    let outer = r#"{"type":"record","name":"Outer","fields":[{"name":"r","type":"R"}]}"#;
    let references = json!([{ "name": "R", "subject": "r", "version": 1 }]);
    check_error(r, Method::POST, "/subjects/outer/versions", json!({ "schema": outer }), 42201).await;
    let body = json!({ "schema": outer, "references": references });
    check(r, Method::POST, "/subjects/outer/versions", body.clone(), 200, json!({ "id": 2 })).await;
    check(r, Method::GET, "/schemas/ids/2", Value::Null, 200, body).await;
    let missing = json!({ "schema": outer, "references": [{ "name": "R", "subject": "r", "version": 2 }] });
    check_error(r, Method::POST, "/subjects/outer/versions", missing, 42201).await;
    registry.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path(), 0).unwrap();
    let port = registry.url().rsplit(':').next().unwrap().parse().unwrap();
    let error = Registry::start(directory.path(), port).unwrap_err();
    assert!(matches!(error, EmbeddedError::PortTaken { .. }), "{error}");
    registry.shutdown().await;
}
