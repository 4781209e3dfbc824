//! Which partition of `replies` an ingress replica reads.

use millrace_schemas::derived_uuid;

/// The partition of `replies` that belongs to `replica`, of `count` partitions. The same in every
/// version of every service: whoever answers and the replica itself must agree on it.
#[must_use]
pub fn partition(replica: &str, count: i32) -> i32 {
    let count = u128::from(count.max(1).unsigned_abs());
    let number = derived_uuid(&["replica", replica]).as_u128() % count;
    i32::try_from(number).expect("a remainder of an i32 is an i32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_spread_over_all_partitions_and_keep_theirs() {
        let mut seen = [false; 12];
        for replica in 0..200 {
            let number = partition(&format!("ingress-{replica}"), 12);
            seen[usize::try_from(number).expect("not negative")] = true;
        }
        assert!(seen.iter().all(|s| *s));
        assert_eq!(partition("ingress-0", 0), 0);
        // Fixed for ever: a change of this number is a change of the protocol.
        assert_eq!(partition("ingress-0", 1 << 20), 312912);
    }
}
