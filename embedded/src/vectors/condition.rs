//! Filters: from the protocol's form to qdrant-edge's, by way of the JSON form that both have.

use qdrant_client::qdrant::{
    Condition, FieldCondition, Filter, MinShould, PointId, Range, ValuesCount, condition::ConditionOneOf,
    r#match::MatchValue, point_id::PointIdOptions,
};
use serde_json::{Map, Value, json};
use tonic::Status;

use super::not_here;

/// Converts a filter; none matches everything.
pub(super) fn filter(filter: Option<Filter>) -> Result<Option<qdrant_edge::Filter>, Status> {
    let Some(filter) = filter else { return Ok(None) };
    let json = json_filter(filter)?;
    serde_json::from_value(json)
        .map(Some)
        .map_err(|error| Status::invalid_argument(format!("Wrong input: filter: {error}")))
}

fn json_filter(filter: Filter) -> Result<Value, Status> {
    let Filter { should, must, must_not, min_should } = filter;
    let mut json = Map::new();
    for (name, conditions) in [("should", should), ("must", must), ("must_not", must_not)] {
        if !conditions.is_empty() {
            json.insert(name.into(), json_conditions(conditions)?);
        }
    }
    if let Some(MinShould { conditions, min_count }) = min_should {
        let conditions = json_conditions(conditions)?;
        json.insert("min_should".into(), json!({ "conditions": conditions, "min_count": min_count }));
    }
    Ok(Value::Object(json))
}

fn json_conditions(conditions: Vec<Condition>) -> Result<Value, Status> {
    conditions.into_iter().map(json_condition).collect()
}

fn json_condition(condition: Condition) -> Result<Value, Status> {
    let Some(condition) = condition.condition_one_of else {
        return Err(Status::invalid_argument("Wrong input: a condition of the filter is empty"));
    };
    Ok(match condition {
        ConditionOneOf::Field(field) => json_field(field)?,
        ConditionOneOf::IsEmpty(condition) => json!({ "is_empty": { "key": condition.key } }),
        ConditionOneOf::IsNull(condition) => json!({ "is_null": { "key": condition.key } }),
        ConditionOneOf::HasId(condition) => {
            let ids = condition.has_id.into_iter().map(json_id).collect::<Result<Vec<_>, _>>()?;
            json!({ "has_id": ids })
        }
        ConditionOneOf::HasVector(condition) => json!({ "has_vector": condition.has_vector }),
        ConditionOneOf::Filter(filter) => json_filter(filter)?,
        ConditionOneOf::Nested(nested) => {
            let filter = json_filter(nested.filter.unwrap_or_default())?;
            json!({ "nested": { "key": nested.key, "filter": filter } })
        }
        ConditionOneOf::Slice(_) => return Err(not_here("slice conditions")),
    })
}

fn json_id(id: PointId) -> Result<Value, Status> {
    match id.point_id_options {
        Some(PointIdOptions::Num(number)) => Ok(json!(number)),
        Some(PointIdOptions::Uuid(uuid)) => Ok(json!(uuid)),
        None => Err(Status::invalid_argument("Wrong input: a point id is empty")),
    }
}

fn json_field(condition: FieldCondition) -> Result<Value, Status> {
    let FieldCondition {
        key,
        r#match,
        range,
        geo_bounding_box,
        geo_radius,
        values_count,
        geo_polygon,
        datetime_range,
        is_empty,
        is_null,
    } = condition;
    if geo_bounding_box.is_some() || geo_radius.is_some() || geo_polygon.is_some() {
        return Err(not_here("conditions on places"));
    }
    if datetime_range.is_some() {
        return Err(not_here("conditions on dates"));
    }
    let mut json = Map::from_iter([("key".to_owned(), json!(key))]);
    if let Some(value) = r#match.and_then(|wanted| wanted.match_value) {
        json.insert("match".into(), json_match(value)?);
    }
    if let Some(Range { lt, gt, gte, lte }) = range {
        json.insert("range".into(), json!({ "lt": lt, "gt": gt, "gte": gte, "lte": lte }));
    }
    if let Some(ValuesCount { lt, gt, gte, lte }) = values_count {
        json.insert("values_count".into(), json!({ "lt": lt, "gt": gt, "gte": gte, "lte": lte }));
    }
    if let Some(is_empty) = is_empty {
        json.insert("is_empty".into(), json!(is_empty));
    }
    if let Some(is_null) = is_null {
        json.insert("is_null".into(), json!(is_null));
    }
    if json.len() == 1 {
        return Err(Status::invalid_argument(format!("Wrong input: the condition on field {key} asks for nothing")));
    }
    Ok(Value::Object(json))
}

fn json_match(value: MatchValue) -> Result<Value, Status> {
    Ok(match value {
        MatchValue::Keyword(keyword) => json!({ "value": keyword }),
        MatchValue::Integer(integer) => json!({ "value": integer }),
        MatchValue::Boolean(boolean) => json!({ "value": boolean }),
        MatchValue::Text(text) => json!({ "text": text }),
        MatchValue::TextAny(text) => json!({ "text_any": text }),
        MatchValue::Phrase(phrase) => json!({ "phrase": phrase }),
        MatchValue::Keywords(keywords) => json!({ "any": keywords.strings }),
        MatchValue::Integers(integers) => json!({ "any": integers.integers }),
        MatchValue::ExceptKeywords(keywords) => json!({ "except": keywords.strings }),
        MatchValue::ExceptIntegers(integers) => json!({ "except": integers.integers }),
        MatchValue::Prefix(_) => return Err(not_here("matching by prefix")),
        MatchValue::Substring(_) => return Err(not_here("matching by substring")),
    })
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn check(given: Filter, expected: &Value) {
        assert_eq!(json_filter(given.clone()).unwrap(), *expected);
        let converted = filter(Some(given)).unwrap().unwrap();
        let expected: qdrant_edge::Filter = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(converted, expected);
    }

    #[test]
    fn every_supported_condition_keeps_its_meaning() {
        check(
            Filter::must([Condition::matches("tenant", "a".to_owned())]),
            &json!({ "must": [{ "key": "tenant", "match": { "value": "a" } }] }),
        );
        check(
            Filter::should([Condition::matches("n", 7), Condition::matches("b", true)]),
            &json!({ "should": [{ "key": "n", "match": { "value": 7 } }, { "key": "b", "match": { "value": true } }] }),
        );
        check(
            Filter::must_not([Condition::matches("k", vec!["a".to_owned(), "b".to_owned()])]),
            &json!({ "must_not": [{ "key": "k", "match": { "any": ["a", "b"] } }] }),
        );
        check(
            Filter::must([Condition::has_id([1, 2]), Condition::is_empty("x")]),
            &json!({ "must": [{ "has_id": [1, 2] }, { "is_empty": { "key": "x" } }] }),
        );
        check(
            Filter::must([Condition::range("x", Range { lt: Some(2.0), gte: Some(1.0), ..Range::default() })]),
            &json!({ "must": [{ "key": "x", "range": { "lt": 2.0, "gt": null, "gte": 1.0, "lte": null } }] }),
        );
        let nested: Condition = Filter::must([Condition::matches("t", "a".to_owned())]).into();
        check(Filter::must([nested]), &json!({ "must": [{ "must": [{ "key": "t", "match": { "value": "a" } }] }] }));
    }

    #[test]
    fn a_condition_that_would_match_everything_by_mistake_is_refused() {
        let empty = Filter::must([Condition { condition_one_of: None }]);
        let no_test = Filter::must([Condition {
            condition_one_of: Some(ConditionOneOf::Field(FieldCondition {
                key: "tenant".into(),
                ..FieldCondition::default()
            })),
        }]);
        for given in [empty, no_test] {
            assert_eq!(filter(Some(given)).unwrap_err().code(), Code::InvalidArgument);
        }
        let prefix = Filter::must([Condition::matches("tenant", MatchValue::Prefix("a".into()))]);
        assert_eq!(filter(Some(prefix)).unwrap_err().code(), Code::Unimplemented);
    }
}
