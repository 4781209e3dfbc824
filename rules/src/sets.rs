//! All rule sets of an installation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::definition::syntax;
use crate::{Compiled, RuleSet, RulesError};

/// So many sets that are configured no more are kept.
const MOST_GONE: usize = 32;

/// Rule sets by name, and those that were there before: records that name them are on their way.
#[derive(Clone, Debug, Default)]
pub struct RuleSets {
    sets: BTreeMap<String, Arc<Compiled>>,
    /// The last one to go is the last.
    gone: Vec<(String, Arc<Compiled>)>,
}

impl RuleSets {
    /// [`compile_all`] with the file at `file`.
    ///
    /// # Errors
    /// When it can not be read, and as [`compile_all`].
    pub fn load(inline: &BTreeMap<String, toml::Value>, file: Option<&Path>) -> Result<Self, RulesError> {
        let Some(path) = file else { return compile_all(inline, None) };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| syntax(&name, &error.to_string()))?;
        compile_all(inline, Some((&name, &text)))
    }

    /// These, in the place of those before.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let Self { sets, .. } = self;
        let left = before.sets.iter().map(|(name, set)| (name.clone(), Arc::clone(set)));
        let gone = before.gone.iter().cloned().chain(left).filter(|(name, _)| !sets.contains_key(name));
        let mut gone: Vec<_> = gone.collect();
        gone.drain(..gone.len().saturating_sub(MOST_GONE));
        Self { sets, gone }
    }

    /// The set that a record names: as it is, or as it was when it went.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Compiled> {
        let gone = || self.gone.iter().find(|(gone, _)| gone == name).map(|(_, set)| set);
        self.sets.get(name).or_else(gone).map(|set| &**set)
    }

    /// Whether there is a set that may be named.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.sets.contains_key(name)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sets.len()
    }
}

/// Makes the named rule sets ready for use: those of a file (its name and text, one TOML table per
/// set) and those written in the configuration, which win. A set named `default` that is in neither
/// is added, and allows everything.
///
/// # Errors
/// The first set that cannot be used, and why.
pub fn compile_all(inline: &BTreeMap<String, toml::Value>, file: Option<(&str, &str)>) -> Result<RuleSets, RulesError> {
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
    let compiled = sets.into_iter().map(|(name, rules)| match rules.compile() {
        Ok(compiled) => Ok((name, Arc::new(compiled))),
        Err(error) => Err(RulesError::InSet { set: name, error: Box::new(error) }),
    });
    Ok(RuleSets { sets: compiled.collect::<Result<_, _>>()?, gone: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str], words: &str) -> RuleSets {
        let set =
            |name: &str| format!("[{name}]\nterms = [{{ name = \"t\", words = [\"{words}\"], action = \"block\" }}]\n");
        let text: String = names.iter().map(|name| set(name)).collect();
        compile_all(&BTreeMap::new(), Some(("rules.toml", &text))).expect("rules")
    }

    #[test]
    fn a_set_that_goes_is_kept_for_records_that_name_it() {
        let (first, second) = (named(&["a", "b"], "one"), named(&["b"], "two"));
        let version = |sets: &RuleSets, name: &str| sets.get(name).map(|set| set.version().to_owned());
        let now = second.clone().after(&first);
        assert_eq!(version(&now, "a"), version(&first, "a"));
        assert_eq!(version(&now, "b"), version(&second, "b"));
        assert!(!now.has("a") && now.has("b") && now.has("default") && now.get("c").is_none());
        // It comes back as another one, and goes again.
        let back = named(&["a", "b"], "three").after(&now);
        assert_eq!(version(&back, "a"), version(&named(&["a"], "three"), "a"));
        assert_eq!(version(&second.after(&back), "a"), version(&back, "a"));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let now = (0..100).fold(RuleSets::default(), |before, n| named(&[&format!("s{n}")], "x").after(&before));
        assert_eq!((now.count(), now.gone.len()), (2, MOST_GONE));
        assert!(now.get("s99").is_some() && now.get("s98").is_some() && now.get("s1").is_none());
    }
}
