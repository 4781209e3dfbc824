//! All rule sets of an installation.

use std::collections::BTreeMap;
use std::path::Path;

use crate::definition::syntax;
use crate::{Compiled, RuleSet, RulesError};

/// [`compile_all`] with the file at `file`.
///
/// # Errors
/// When it can not be read, and as [`compile_all`].
pub fn load(
    inline: &BTreeMap<String, toml::Value>,
    file: Option<&Path>,
) -> Result<BTreeMap<String, Compiled>, RulesError> {
    let Some(path) = file else { return compile_all(inline, None) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| syntax(&name, &error.to_string()))?;
    compile_all(inline, Some((&name, &text)))
}

/// Makes the named rule sets ready for use: those of a file (its name and text, one TOML table per
/// set) and those written in the configuration, which win. A set named `default` that is in neither
/// is added, and allows everything.
///
/// # Errors
/// The first set that cannot be used, and why.
pub fn compile_all(
    inline: &BTreeMap<String, toml::Value>,
    file: Option<(&str, &str)>,
) -> Result<BTreeMap<String, Compiled>, RulesError> {
    let mut sets: BTreeMap<String, RuleSet> = BTreeMap::new();
    sets.insert("default".to_owned(), RuleSet::default());
    if let Some((name, text)) = file {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| syntax(name, error.message()))?;
        for (set, value) in table {
            let rules = RuleSet::from_toml(value, &format!("`{set}` in {name}"))?;
            sets.insert(set, rules);
        }
    }
    for (set, value) in inline {
        let rules = RuleSet::from_toml(value.clone(), &format!("moderation.rule_sets.{set}"))?;
        sets.insert(set.clone(), rules);
    }
    sets.into_iter()
        .map(|(name, rules)| match rules.compile() {
            Ok(compiled) => Ok((name, compiled)),
            Err(error) => Err(RulesError::InSet { set: name, error: Box::new(error) }),
        })
        .collect()
}
