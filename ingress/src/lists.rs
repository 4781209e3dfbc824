//! Lists that are read page by page.

use serde_json::{Value, json};

use crate::error::ApiError;

/// How many are wanted of a list.
pub(crate) fn limit(given: Option<u32>, default: u32, most: u32) -> Result<usize, ApiError> {
    let limit = given.unwrap_or(default);
    if !(1..=most).contains(&limit) {
        return Err(ApiError::invalid(Some("limit"), format!("'limit' must be 1 to {most}.")));
    }
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// OpenAI's list of the first `limit` of what was found.
pub(crate) fn page_of(mut found: Vec<Value>, limit: usize) -> axum::Json<Value> {
    let has_more = found.len() > limit;
    found.truncate(limit);
    let id = |value: Option<&Value>| value.map(|value| value["id"].clone());
    let (first, last) = (id(found.first()), id(found.last()));
    axum::Json(json!({ "object": "list", "data": found, "first_id": first, "last_id": last, "has_more": has_more }))
}
