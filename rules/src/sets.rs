//! All rule sets of an installation.

use std::collections::BTreeMap;

use crate::definition::syntax;
use crate::{Compiled, RuleSet, RulesError};

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
