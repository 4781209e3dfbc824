//! When something that is looked at now and then has changed and is finished.

/// What was seen, look by look. Files are written in steps and one after the other, so a change counts when it
/// has been seen a few times in a row.
#[derive(Clone, Debug)]
pub struct Settled<T> {
    known: T,
    seen: Option<T>,
    times: u32,
    looks: u32,
}

impl<T: PartialEq> Settled<T> {
    /// `known` is how it is now; a change counts at the look at which it is the same for the `looks`th time.
    pub fn new(known: T, looks: u32) -> Self {
        Self { known, seen: None, times: 0, looks }
    }

    /// Takes a look. True, once, when there is a change that counts: it is known from now on.
    pub fn look(&mut self, now: T) -> bool {
        if now == self.known {
            self.seen = None;
            return false;
        }
        self.times = if self.seen.as_ref() == Some(&now) { self.times + 1 } else { 1 };
        if self.times < self.looks {
            self.seen = Some(now);
            return false;
        }
        self.know(now);
        true
    }

    /// This is known from now on, however often it was seen.
    pub fn know(&mut self, now: T) {
        self.known = now;
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_and_only_when_it_is_finished() {
        let mut file = Settled::new("old", 2);
        let looks = ["old", "ne", "new", "new", "new", "old", "new", "x", "x", "old", "old"];
        let counted: Vec<bool> = looks.iter().map(|now| file.look(now)).collect();
        let at: Vec<usize> = counted.iter().enumerate().filter(|(_, counts)| **counts).map(|(at, _)| at).collect();
        assert_eq!(at, [3, 8, 10]);
        file.know("y");
        assert!(!file.look("y"));
        assert!(Settled::new(1, 1).look(2), "at the first look");
    }
}
