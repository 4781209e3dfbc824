//! Which schema may follow which.

use apache_avro::{Schema as Avro, schema_compatibility::SchemaCompatibility};
use serde::{Deserialize, Serialize};

/// Confluent's compatibility levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Level {
    /// Nothing is checked.
    None,
    /// The new schema reads what the last one wrote.
    #[default]
    Backward,
    /// The new schema reads what any earlier one wrote.
    BackwardTransitive,
    /// The last schema reads what the new one writes.
    Forward,
    /// Every earlier schema reads what the new one writes.
    ForwardTransitive,
    /// Both ways with the last schema.
    Full,
    /// Both ways with every earlier schema.
    FullTransitive,
}

impl Level {
    fn reads_old(self) -> bool {
        matches!(self, Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn read_by_old(self) -> bool {
        matches!(self, Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }

    /// Returns why `new` may not follow `old`, oldest first; nothing when it may.
    pub(super) fn complaints(self, new: &Avro, old: &[Avro]) -> Vec<String> {
        let considered = if self.is_transitive() { old } else { &old[old.len().saturating_sub(1)..] };
        let mut complaints = Vec::new();
        for old in considered.iter().rev() {
            if self.reads_old()
                && let Err(error) = SchemaCompatibility::can_read(old, new)
            {
                complaints.push(format!("the new schema cannot read what an earlier one wrote: {error}"));
            }
            if self.read_by_old()
                && let Err(error) = SchemaCompatibility::can_read(new, old)
            {
                complaints.push(format!("an earlier schema cannot read what the new one writes: {error}"));
            }
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"name":"a","type":"long"}"#;
    const TWO: &str = r#"{"name":"a","type":"long"},{"name":"b","type":"string"}"#;
    const TWO_WITH_DEFAULT: &str = r#"{"name":"a","type":"long"},{"name":"b","type":"string","default":""}"#;
    const OTHER: &str = r#"{"name":"a","type":"string"}"#;

    fn avro(fields: &str) -> Avro {
        Avro::parse_str(&format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)).unwrap()
    }

    fn check(level: Level, old: &[&str], new: &str, compatible: bool) {
        let old: Vec<_> = old.iter().map(|fields| avro(fields)).collect();
        let complaints = level.complaints(&avro(new), &old);
        assert_eq!(complaints.is_empty(), compatible, "{level:?} {old:?} -> {new}: {complaints:?}");
    }

    #[test]
    fn each_level_checks_its_direction() {
        use Level::*;
        for (level, added, added_with_default, removed) in [
            (None, true, true, true),
            (Backward, false, true, true),
            (Forward, true, true, false),
            (Full, false, true, false),
        ] {
            check(level, &[ONE], TWO, added);
            check(level, &[ONE], TWO_WITH_DEFAULT, added_with_default);
            check(level, &[TWO], ONE, removed);
            check(level, &[ONE], OTHER, level == None);
            check(level, &[], OTHER, true);
        }
    }

    #[test]
    fn only_a_transitive_level_looks_beyond_the_last_schema() {
        check(Level::Backward, &[OTHER, ONE], ONE, true);
        check(Level::BackwardTransitive, &[OTHER, ONE], ONE, false);
        check(Level::Forward, &[OTHER, ONE], ONE, true);
        check(Level::ForwardTransitive, &[OTHER, ONE], ONE, false);
        check(Level::Full, &[OTHER, ONE], ONE, true);
        check(Level::FullTransitive, &[OTHER, ONE], ONE, false);
    }

    #[test]
    fn levels_have_their_names() {
        assert_eq!(serde_json::to_string(&Level::FullTransitive).unwrap(), r#""FULL_TRANSITIVE""#);
        assert!(serde_json::from_str::<Level>(r#""full""#).is_err());
    }
}
