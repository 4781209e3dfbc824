//! Whether a loop is able to work.

/// What is known of the brokers and of the loop's partitions.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// A connection to a broker is up.
    pub connected: bool,
    /// Partitions, or none, were assigned since the group was last lost.
    pub joined: bool,
    /// Partitions that are consumed.
    pub active: usize,
    /// Partitions whose state is being rebuilt.
    pub restoring: usize,
}

/// Whether the loop is able to work, and a word why.
pub fn readiness(known: Known) -> (bool, &'static str) {
    match known {
        Known { connected: false, .. } => (false, "kafka is not available"),
        Known { joined: false, .. } => (false, "joining the group"),
        Known { active: 0, restoring: 0, .. } => (true, "no partition assigned"),
        Known { active: 0, .. } => (false, "rebuilding the state of its partitions"),
        Known { .. } => (true, "consuming"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_makes_it_unready_only_until_the_brokers_are_back() {
        let check = |known: Known, expected: (bool, &str)| assert_eq!(readiness(known), expected, "{known:?}");
        let starting = Known { connected: true, joined: false, active: 0, restoring: 0 };
        check(starting, (false, "joining the group"));
        check(Known { joined: true, ..starting }, (true, "no partition assigned"));
        let restoring = Known { joined: true, restoring: 2, ..starting };
        check(restoring, (false, "rebuilding the state of its partitions"));
        let consuming = Known { active: 1, ..restoring };
        check(consuming, (true, "consuming"));
        check(Known { connected: false, ..consuming }, (false, "kafka is not available"));
        check(consuming, (true, "consuming"));
    }
}
