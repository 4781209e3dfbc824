//! How many calls a provider takes at once, learned from its 429s. Pure.
//!
//! A rate limit halves it, once for all the calls that were on their way; as many successes as the
//! limit counts raise it by one. It stays between 1 and what is configured, where it begins.

/// The limit of one provider.
#[derive(Debug)]
pub(crate) struct Limit {
    most: usize,
    current: usize,
    successes: usize,
    /// Moves with every cut: a 429 to a call of an earlier round was cut for already.
    round: u64,
}

/// The round of cuts that a call began in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round(u64);

impl Limit {
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), current: most.max(1), successes: 0, round: 0 }
    }

    pub fn current(&self) -> usize {
        self.current
    }

    pub fn round(&self) -> Round {
        Round(self.round)
    }

    /// A call was answered; whether the limit is one higher now.
    pub fn succeeded(&mut self) -> bool {
        if self.current == self.most {
            return false;
        }
        self.successes += 1;
        let raised = self.successes >= self.current;
        if raised {
            self.successes = 0;
            self.current += 1;
        }
        raised
    }

    /// A call of `round` was told that there are too many; by how much the limit is lower now.
    pub fn rate_limited(&mut self, round: Round) -> usize {
        if round.0 != self.round {
            return 0;
        }
        let lower = (self.current / 2).max(1);
        let cut = self.current - lower;
        self.current = lower;
        self.successes = 0;
        self.round += 1;
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_of_calls_cuts_once() {
        let mut limit = Limit::new(16);
        let first = limit.round();
        assert_eq!([(); 5].map(|()| limit.rate_limited(first)), [8, 0, 0, 0, 0]);
        let second = limit.round();
        assert_eq!((limit.rate_limited(second), limit.current()), (4, 4));
        for _ in 0..5 {
            limit.rate_limited(limit.round());
        }
        assert_eq!(limit.current(), 1, "one call is always tried");
    }

    #[test]
    fn a_limits_worth_of_successes_raises_it_by_one_up_to_the_most() {
        let mut limit = Limit::new(4);
        assert!(!limit.succeeded());
        limit.rate_limited(limit.round());
        limit.rate_limited(limit.round());
        assert_eq!(limit.current(), 1);
        let raised: Vec<usize> = (0..20).filter(|_| limit.succeeded()).collect();
        assert_eq!(raised, [0, 2, 5], "after 1, 2 and 3 more");
        assert_eq!(limit.current(), 4);
        limit.succeeded();
        limit.rate_limited(limit.round());
        assert!(!limit.succeeded(), "a cut begins to count anew");
    }
}
