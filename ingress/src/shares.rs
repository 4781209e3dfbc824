//! Who was let in lately, and whether that is more than its share. Pure: the time comes in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Counts are kept for so long, and for up to twice as long.
const SPAN: Duration = Duration::from_secs(5);

/// Requests that were let in, by tenant.
#[derive(Default)]
pub struct Shares {
    began: Option<Instant>,
    now: Counts,
    before: Counts,
    /// Tenants that are in both.
    stayed: usize,
}

#[derive(Default)]
struct Counts {
    by_tenant: HashMap<String, u64>,
    total: u64,
}

impl Counts {
    fn of(&self, tenant: &str) -> u64 {
        self.by_tenant.get(tenant).copied().unwrap_or_default()
    }
}

impl Shares {
    /// One more of `tenant`.
    pub fn let_in(&mut self, at: Instant, tenant: &str) {
        let age = self.began.map(|began| at.saturating_duration_since(began));
        if age.is_none_or(|age| age >= SPAN) {
            let last = std::mem::take(&mut self.now);
            self.before = if age.is_some_and(|age| age < SPAN * 2) { last } else { Counts::default() };
            self.began = Some(at);
            self.stayed = 0;
        }
        self.now.total += 1;
        if let Some(count) = self.now.by_tenant.get_mut(tenant) {
            *count += 1;
        } else {
            self.now.by_tenant.insert(tenant.to_owned(), 1);
            self.stayed += usize::from(self.before.by_tenant.contains_key(tenant));
        }
    }

    /// How many times its share `tenant` had: what each had on average, of those that had any.
    pub fn times(&self, tenant: &str) -> f64 {
        let total = self.now.total + self.before.total;
        if total == 0 {
            return 1.0;
        }
        let tenants = self.now.by_tenant.len() + self.before.by_tenant.len() - self.stayed;
        (self.now.of(tenant) + self.before.of(tenant)) as f64 * tenants as f64 / total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_each_had_on_average() {
        let (began, mut shares) = (Instant::now(), Shares::default());
        assert_eq!(shares.times("acme"), 1.0, "nobody had anything");
        for _ in 0..30 {
            shares.let_in(began, "greedy");
        }
        assert_eq!(shares.times("greedy"), 1.0, "alone it has what there is");
        for _ in 0..10 {
            shares.let_in(began + SPAN, "modest");
        }
        // 40 for two of them.
        assert_eq!(["greedy", "modest", "new"].map(|tenant| shares.times(tenant)), [1.5, 0.5, 0.0]);
        // What was before is forgotten.
        shares.let_in(began + SPAN * 2, "modest");
        assert_eq!(["greedy", "modest"].map(|tenant| shares.times(tenant)), [0.0, 1.0]);
        shares.let_in(began + SPAN * 9, "greedy");
        assert_eq!(["greedy", "modest"].map(|tenant| shares.times(tenant)), [1.0, 0.0]);
    }
}
