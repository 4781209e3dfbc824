//! The API's own description, and a page to browse it.

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Where the description is.
const DESCRIPTION: &str = "/openapi.json";
/// Where it is shown.
const PAGE: &str = "/docs";

const OPENAPI: &str = include_str!("../openapi.json");

/// The description and its page; nobody needs a key for them.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let page = SwaggerUi::new(PAGE).config(Config::from(DESCRIPTION));
    Router::new().route(DESCRIPTION, get(description)).merge(page)
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let spec: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let described: BTreeSet<&str> = spec["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
        let served: BTreeSet<&str> = crate::routes::API.iter().map(|route| route.path).collect();
        assert_eq!(described, served);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_answer_is_described() {
        let spec: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut stack = vec![&spec];
        while let Some(value) = stack.pop() {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                assert!(spec.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            }
            match value {
                Value::Array(items) => stack.extend(items),
                Value::Object(members) => stack.extend(members.values()),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        for (path, methods) in spec["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                assert!(operation["summary"].is_string(), "{method} {path}");
                assert!(operation["responses"].get("401").is_some(), "{method} {path} needs a key");
            }
        }
    }
}
