//! Whether a group's position makes sense in the log that is there; if not, a sentence that says what to do.
//! Nothing is guessed: a guess would either skip records or pay for them again. Only where nothing was ever
//! written there is nothing to guess: a release may bring a topic that a running group reads from then on.

/// A group's position in one partition.
pub struct Place<'a> {
    /// The group, with its prefix.
    pub group: &'a str,
    /// The topic by its name on the broker.
    pub topic: &'a str,
    pub partition: i32,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "group `{}` on `{}` partition {}", self.group, self.topic, self.partition)
    }
}

/// Where to begin in a log that holds `low..end`.
///
/// # Errors
/// One sentence for the operator.
pub fn position(place: &Place<'_>, committed: Option<i64>, (low, end): (i64, i64)) -> Result<i64, String> {
    let Place { group, topic, partition } = place;
    let reset =
        format!("kafka-consumer-groups.sh --group {group} --topic {topic}:{partition} --execute --reset-offsets");
    match committed {
        None if (low, end) == (0, 0) => Ok(0),
        None => Err(format!(
            "{place} has no committed offset: a new installation needs `millrace topics apply`; if records were worked \
             off already, put the position back that it had: `{reset} --to-offset <offset>` (the log holds {low} to {end})"
        )),
        Some(offset) if offset > end => Err(format!(
            "{place} is committed at {offset}, beyond the end of the log at {end}: the topic was made anew; raise \
             kafka.generation for all services, drop the old position with `kafka-consumer-groups.sh --group {group} \
             --topic {topic} --delete-offsets`, and run `millrace topics apply`"
        )),
        Some(offset) if offset < low => Err(format!(
            "{place} is committed at {offset}, but the log begins at {low}: retention removed records that were not \
             worked off; accept their loss with `{reset} --to-earliest`, and let topics keep their records for longer"
        )),
        Some(offset) => Ok(offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(committed: Option<i64>, bounds: (i64, i64), expected: Result<i64, &[&str]>) {
        let place = Place { group: "g.moderator", topic: "t.completions", partition: 3 };
        match (position(&place, committed, bounds), expected) {
            (Ok(offset), Ok(expected)) => assert_eq!(offset, expected),
            (Err(said), Err(parts)) => {
                let all = ["g.moderator", "t.completions", "partition 3", "kafka-consumer-groups.sh"];
                for part in all.iter().chain(parts) {
                    assert!(said.contains(part), "`{part}` is not in: {said}");
                }
                assert!(!said.contains('\n') && !said.contains("  "), "one sentence: {said}");
            }
            (found, _) => panic!("{committed:?} in {bounds:?}: {found:?}"),
        }
    }

    #[test]
    fn a_position_in_the_log_is_taken_and_any_other_needs_an_operator() {
        check(Some(5), (5, 9), Ok(5));
        check(Some(9), (5, 9), Ok(9));
        check(Some(0), (0, 0), Ok(0));
        check(None, (0, 0), Ok(0));
        check(None, (0, 1), Err(&["millrace topics apply", "--to-offset"]));
        check(None, (7, 7), Err(&["millrace topics apply", "--to-offset"]));
        check(Some(10), (5, 9), Err(&["beyond the end of the log at 9", "kafka.generation", "--delete-offsets"]));
        check(Some(4), (5, 9), Err(&["begins at 5", "--to-earliest"]));
    }
}
