//! A value that a JSON schema accepts, for tool calls and structured outputs.

use serde_json::{Map, Value, json};

use crate::dice::Dice;

/// Deeper schemas (recursive ones too) are filled with `null`.
const DEEPEST: usize = 8;

/// Makes a value of `schema`; `words` fill its strings.
pub(crate) fn sample(schema: &Value, words: &str, dice: &mut Dice) -> Value {
    fill(schema, schema, words, dice, 0)
}

fn fill(schema: &Value, root: &Value, words: &str, dice: &mut Dice, depth: usize) -> Value {
    if depth > DEEPEST {
        return Value::Null;
    }
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str) {
        let target = pointer.strip_prefix('#').and_then(|path| root.pointer(path));
        return target.map_or(Value::Null, |target| fill(target, root, words, dice, depth + 1));
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.is_empty()
    {
        return choices[dice.below(choices.len())].clone();
    }
    for union in ["anyOf", "oneOf"] {
        if let Some(first) = schema.get(union).and_then(Value::as_array).and_then(|all| all.first()) {
            return fill(first, root, words, dice, depth + 1);
        }
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None => None,
    };
    match kind {
        Some("string") => json!(words),
        Some("integer") => json!(dice.below(100)),
        Some("number") => json!(dice.below(1_000) as f64 / 10.0),
        Some("boolean") => json!(dice.below(2) == 1),
        Some("null") => Value::Null,
        Some("array") => {
            let item = schema.get("items").unwrap_or(&Value::Null);
            json!([fill(item, root, words, dice, depth + 1)])
        }
        Some(_) | None => {
            let mut object = Map::new();
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                for (name, property) in properties {
                    object.insert(name.clone(), fill(property, root, words, dice, depth + 1));
                }
            }
            Value::Object(object)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Digester;

    #[test]
    fn every_type_is_filled_and_recursion_ends() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": ["integer", "null"]},
                "exact": {"type": "boolean"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "next": {"$ref": "#"},
            }
        });
        let value = sample(&schema, "rain", &mut Digester::new(1).finish().dice());
        assert_eq!(value["city"], "rain");
        assert!(value["unit"] == "C" || value["unit"] == "F");
        assert!(value["days"].is_u64() && value["exact"].is_boolean());
        assert_eq!(value["tags"], json!(["rain"]));
        assert_eq!(value["next"]["city"], "rain");
    }
}
