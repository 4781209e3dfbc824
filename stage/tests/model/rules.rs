//! What must hold, and the ways to break it that the model must notice.

/// A deliberate fault in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// A reader starts an assignment without its duplicate windows.
    ReaderForgets,
    /// A reader's floor lies one too high.
    FloorTooHigh,
    /// A reader's floor lies one too low.
    FloorTooLow,
    /// State is rebuilt from the last S records only.
    ReadsBackTooLittle,
    /// State is rebuilt as if every writer had had at least no more than the present one's window.
    TrustsPresentWindow,
    /// The window is counted from what is settled, not from what is committed.
    GatesOnHead,
    /// The highest settled record is committed, not the contiguous head.
    CommitsHighest,
    /// A stage that pays does not read its own output.
    DoesNotScan,
    /// An answer to a commit that was given up waiting for is taken for the answer to the next.
    TakesAnyAnswer,
}

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The first record in log order of each source offset counts, and no other.
    FirstCounts,
    /// Nothing unsettled lies before a committed offset.
    CommittedIsSettled,
    /// An offset is taken only less than S beyond what the broker has committed.
    Window,
    /// An output in the log before the scan is not paid for again.
    RecordedIsNotPaidAgain,
    /// One call for each record, and one more for each crash, stall or loss during its work.
    Calls,
    /// A duplicate window holds at most S bits.
    Memory,
    /// Every source record has exactly one accepted output in the end.
    ExactlyOne,
    /// With a healthy owner everything is worked off and committed.
    Progress,
    /// The tracker's own answers.
    Tracker,
}

#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: Rule,
    pub text: String,
}

impl Violation {
    pub fn new(rule: Rule, text: String) -> Self {
        Self { rule, text }
    }
}

/// What a run has been through: a property that was never put to the test is not tested.
#[derive(Debug, Default, Clone)]
pub struct Coverage {
    pub crashes: u64,
    pub stalls: u64,
    pub drained: u64,
    pub drain_overruns: u64,
    pub copies_dropped: u64,
    pub late_zombie_outputs: u64,
    pub recovered: u64,
    pub paid_twice: u64,
    pub commits_refused: u64,
    pub answers_late: u64,
    pub gaps_wider_than_window: u64,
    pub read_back_short_of_start: u64,
    /// Copies accepted of a source that was out of sight when the state was rebuilt.
    pub out_of_sight: u64,
    /// The same, though the writer had read its own output on assignment.
    pub out_of_sight_though_scanned: u64,
}

impl Coverage {
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.stalls += other.stalls;
        self.drained += other.drained;
        self.drain_overruns += other.drain_overruns;
        self.copies_dropped += other.copies_dropped;
        self.late_zombie_outputs += other.late_zombie_outputs;
        self.recovered += other.recovered;
        self.paid_twice += other.paid_twice;
        self.commits_refused += other.commits_refused;
        self.answers_late += other.answers_late;
        self.gaps_wider_than_window += other.gaps_wider_than_window;
        self.read_back_short_of_start += other.read_back_short_of_start;
        self.out_of_sight += other.out_of_sight;
        self.out_of_sight_though_scanned += other.out_of_sight_though_scanned;
    }
}
