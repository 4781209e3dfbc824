//! The configuration as TOML for people.

use std::fmt::Write;

use crate::Config;
use crate::layers::inline;
use crate::read::written;

/// The whole configuration as TOML, with the origin of every value that is not a default.
pub(crate) fn dump(config: &Config) -> String {
    let mut text = String::new();
    if let Ok(toml::Value::Table(root)) = toml::Value::try_from(config) {
        table(&mut text, config, &root, &mut Vec::new());
    }
    text
}

fn table(text: &mut String, config: &Config, table_: &toml::Table, path: &mut Vec<String>) {
    let is_section = |value: &toml::Value| match value {
        toml::Value::Table(_) => true,
        toml::Value::Array(items) => items.iter().any(toml::Value::is_table),
        toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_) => false,
    };
    // TOML wants the plain values of a table before its sub-tables.
    if !path.is_empty() && (table_.is_empty() || table_.values().any(|value| !is_section(value))) {
        let _ = writeln!(text, "{}[{}]", separator(text), written(path));
    }
    for (key, value) in table_.iter().filter(|(_, value)| !is_section(value)) {
        path.push(key.clone());
        let origin = config.origins.get(path).map(|origin| format!("  # from {origin}")).unwrap_or_default();
        path.pop();
        let _ = writeln!(text, "{} = {}{origin}", written(std::slice::from_ref(key)), inline(value));
    }
    for (key, value) in table_ {
        path.push(key.clone());
        match value {
            toml::Value::Table(inner) => table(text, config, inner, path),
            toml::Value::Array(items) if is_section(value) => {
                let origin = config.origins.get(path).map(|origin| format!("  # from {origin}")).unwrap_or_default();
                for item in items {
                    let _ = writeln!(text, "{}[[{}]]{origin}", separator(text), written(path));
                    for (key, value) in item.as_table().into_iter().flatten() {
                        let _ = writeln!(text, "{} = {}", written(std::slice::from_ref(key)), inline(value));
                    }
                }
            }
            // Written above.
            toml::Value::Array(_)
            | toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => {}
        }
        path.pop();
    }
}

fn separator(text: &str) -> &'static str {
    if text.is_empty() { "" } else { "\n" }
}
