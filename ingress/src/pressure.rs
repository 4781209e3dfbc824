//! Whether the pipeline has fallen so far behind that a new request is better sent away. Pure: what
//! the brokers said and the time come in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::shares::Shares;

/// Over how long a stage's rate is taken.
const MEMORY: Duration = Duration::from_secs(30);
/// A stage must have had too much to do for so long before its rate says anything.
const BUSY_ENOUGH: Duration = Duration::from_secs(5);
/// After so long without a look nothing is known.
const STALE: Duration = Duration::from_secs(10);
/// Shortest and longest time that a client is told to stay away.
const RETRY_AFTER: (u64, u64) = (1, 60);
/// Fewer records than one in so many of the bound never are too many: some calls just take long. Nor do they
/// tell what a stage can do: it is not what it happens to be asked for.
const NEVER_TOO_MANY: u64 = 10;
/// From which part of the bound on, and how many times its share a tenant may have then.
const FAIR: [(f64, f64); 2] = [(2.0 / 3.0, 1.0), (1.0 / 3.0, 1.5)];

/// What the brokers say of one stage: sums over its partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Committed by the stage.
    pub committed: i64,
    /// Ends of the logs it reads.
    pub end: i64,
}

impl Look {
    /// Records not worked off yet.
    pub fn lag(self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.committed)).unwrap_or(0)
    }
}

/// Why a request is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// More requests are on their way than `ingress.max_lag`.
    Lag,
    /// It would wait for longer than its client does.
    Wait,
    /// There is much to do, and its tenant asks for more than its share.
    Share,
}

/// The verdict on a request that is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overload {
    pub reason: Reason,
    /// Seconds.
    pub retry_after: u64,
}

/// What is known of the lane.
pub struct Pressure {
    max_lag: u64,
    stages: Vec<Stage>,
    seen: Option<Seen>,
    /// Requests let in here since the last look.
    accepted: u64,
    shares: Shares,
}

struct Seen {
    at: Instant,
    /// Requests accepted and not stored yet, in whichever stage.
    behind: u64,
    /// How long the last of them waits, where that is known of every stage that is behind.
    wait: Option<Duration>,
}

#[derive(Default)]
struct Stage {
    last: Option<(Instant, Look)>,
    /// Spans in which there was more than enough to do: how long, and how much of it was done.
    busy: VecDeque<(Duration, u64)>,
}

impl Pressure {
    pub fn new(max_lag: u64, stages: usize) -> Self {
        let stages = (0..stages).map(|_| Stage::default()).collect();
        Self { max_lag, stages, seen: None, accepted: 0, shares: Shares::default() }
    }

    /// Takes note of a look at all stages, `None` for those that could not be seen.
    pub fn note(&mut self, at: Instant, looks: &[Option<Look>]) {
        for (stage, look) in self.stages.iter_mut().zip(looks) {
            stage.note(at, *look, self.max_lag / NEVER_TOO_MANY);
        }
        self.accepted = 0;
        let behind = looks.iter().flatten().map(|look| look.lag()).sum();
        let wait = self.stages.iter().map(|stage| stage.wait(self.max_lag / NEVER_TOO_MANY)).sum();
        self.seen = looks.iter().any(Option::is_some).then_some(Seen { at, behind, wait });
    }

    /// Nothing was moving: what was seen is as good as new.
    pub fn still(&mut self, at: Instant) {
        if let Some(seen) = &mut self.seen {
            seen.at = at;
        }
    }

    /// Whether somebody has to look again: there was work, or some has come.
    pub fn is_moving(&self) -> bool {
        self.accepted > 0 || self.seen.as_ref().is_none_or(|seen| seen.behind > 0)
    }

    /// Judges a request of `tenant` whose client waits for at most `patience`.
    pub fn judge(&self, at: Instant, tenant: &str, patience: Duration) -> Result<(), Overload> {
        let Some(seen) = self.seen.as_ref().filter(|seen| at.saturating_duration_since(seen.at) < STALE) else {
            return Ok(());
        };
        let passed = at.saturating_duration_since(seen.at).as_secs_f64();
        let rate = seen.wait.filter(|wait| !wait.is_zero()).map(|wait| seen.behind as f64 / wait.as_secs_f64());
        let drained = rate.map_or(0, |rate| (rate * passed) as u64);
        let behind = (seen.behind + self.accepted).saturating_sub(drained);
        // Tenants take turns: who asks for less than its share waits for less than the lane.
        let times = self.shares.times(tenant);
        let wait = rate.map(|rate| times * behind as f64 / rate.max(0.001));
        let reason = if behind >= self.max_lag {
            Reason::Lag
        } else if behind > self.max_lag / NEVER_TOO_MANY && wait.is_some_and(|wait| wait > patience.as_secs_f64()) {
            Reason::Wait
        } else if self.is_too_much(times, behind) {
            Reason::Share
        } else {
            return Ok(());
        };
        let retry_after = wait.map_or(RETRY_AFTER.1 / 6, |wait| wait.ceil() as u64);
        Err(Overload { reason, retry_after: retry_after.clamp(RETRY_AFTER.0, RETRY_AFTER.1) })
    }

    /// [`Self::judge`], and one more is on its way.
    pub fn let_in(&mut self, at: Instant, tenant: &str, patience: Duration) -> Result<(), Overload> {
        self.judge(at, tenant, patience)?;
        self.accepted += 1;
        self.shares.let_in(at, tenant);
        Ok(())
    }

    /// Whether nobody may have so many times its share now.
    fn is_too_much(&self, times: f64, behind: u64) -> bool {
        let part = behind as f64 / self.max_lag.max(1) as f64;
        FAIR.iter().find(|(from, _)| part >= *from).is_some_and(|(_, most)| times > *most)
    }
}

impl Stage {
    fn note(&mut self, at: Instant, look: Option<Look>, enough: u64) {
        let last = std::mem::replace(&mut self.last, look.map(|look| (at, look)));
        let (Some((then, before)), Some(now)) = (last, look) else { return };
        let done = u64::try_from(now.committed.saturating_sub(before.committed)).unwrap_or(0);
        if before.lag() > enough {
            self.busy.push_back((at.saturating_duration_since(then), done));
        }
        let mut known: Duration = self.busy.iter().map(|(time, _)| *time).sum();
        while let Some((oldest, _)) = self.busy.front().copied()
            && known.saturating_sub(oldest) >= MEMORY
        {
            known -= oldest;
            self.busy.pop_front();
        }
    }

    /// How long a record that comes now waits here; `None` while the stage's rate is not known. A
    /// stage that did nothing all the time is taken to do one record in it.
    fn wait(&self, enough: u64) -> Option<Duration> {
        let lag = self.last.map_or(0, |(_, look)| look.lag());
        if lag <= enough {
            return Some(Duration::ZERO);
        }
        let time: Duration = self.busy.iter().map(|(time, _)| *time).sum();
        let done: u64 = self.busy.iter().map(|(_, done)| *done).sum();
        let seconds = time.as_secs_f64() * lag as f64 / done.max(1) as f64;
        (time >= BUSY_ENOUGH).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(20);
    const TENANT: &str = "acme";

    /// A stage that gets `offered` and works off `done` records a second, for `seconds`; then, the
    /// pressure and the time.
    fn after(seconds: u32, offered: i64, done: i64) -> (Pressure, Instant) {
        let began = Instant::now();
        let mut pressure = Pressure::new(1_000, 2);
        for second in 0..=seconds {
            let end = i64::from(second) * offered;
            let look = Look { committed: (i64::from(second) * done).min(end), end };
            pressure.note(began + SECOND * second, &[Some(look), Some(Look { committed: 7, end: 7 })]);
        }
        (pressure, began + SECOND * seconds)
    }

    fn check(seconds: u32, offered: i64, done: i64, expected: Option<(Reason, u64)>) {
        let (pressure, at) = after(seconds, offered, done);
        let found = pressure.judge(at, TENANT, PATIENCE).err().map(|o| (o.reason, o.retry_after));
        assert_eq!(found, expected, "{offered}/s in, {done}/s out, after {seconds} s");
    }

    #[test]
    fn it_sheds_what_would_wait_for_too_long_and_what_is_beyond_the_bound() {
        check(30, 100, 100, None);
        // 300 behind, 40 a second: 8 seconds, which the client has.
        check(10, 70, 40, None);
        // 900 behind, 40 a second: 23 seconds, which it has not.
        check(30, 70, 40, Some((Reason::Wait, 23)));
        check(30, 400, 40, Some((Reason::Lag, 60)));
        // At such a rate 990 are nothing.
        check(10, 1_099, 1_000, None);
        check(11, 1_099, 1_000, Some((Reason::Lag, 2)));
        // Nothing is worked off: a few calls that take long, or an outage.
        check(30, 3, 0, None);
        check(30, 30, 0, Some((Reason::Wait, 60)));
        // Too early to know a rate: only the bound counts.
        check(3, 200, 1, None);
        check(3, 400, 1, Some((Reason::Lag, 10)));
    }

    #[test]
    fn requests_let_in_since_the_last_look_count() {
        let (mut pressure, at) = after(3, 300, 100);
        let let_in = (0..1_000).filter(|_| pressure.let_in(at, TENANT, PATIENCE).is_ok()).count();
        assert_eq!(let_in, 400, "600 were on their way, and 1,000 may be");
        assert!(pressure.is_moving());
    }

    #[test]
    fn who_asks_for_more_than_its_share_is_sent_away_first() {
        let (mut pressure, began) = after(1, 0, 0);
        // A second's worth at a time: one asks for 500, one for 20, and 100 can be done.
        let (mut end, mut committed, mut most) = (0_i64, 0_i64, 0);
        let (mut greedy, mut modest) = (0, 0);
        for second in 1..=60_u32 {
            let at = began + SECOND * second;
            for n in 0..520 {
                let tenant = if n % 26 == 0 { "modest" } else { "greedy" };
                let let_in = pressure.let_in(at, tenant, SECOND * 600).is_ok();
                let count = if tenant == "modest" { &mut modest } else { &mut greedy };
                *count += i32::from(let_in);
                end += i64::from(let_in);
            }
            committed = (committed + 100).min(end);
            most = most.max(end - committed);
            pressure.note(at, &[Some(Look { committed, end }), Some(Look { committed: 7, end: 7 })]);
        }
        assert_eq!(modest, 20 * 60, "nothing of it is sent away");
        // The rest of what can be done, and what waits.
        assert!((4_800..5_200).contains(&greedy), "{greedy}");
        assert!(most < 500, "far from the bound of 1,000: {most}");
        let refused = pressure.judge(began + SECOND * 60, "greedy", SECOND * 600).err().map(|overload| overload.reason);
        assert_eq!((refused, pressure.judge(began + SECOND * 60, "new", SECOND * 600)), (Some(Reason::Share), Ok(())));
    }

    #[test]
    fn a_burst_after_a_quiet_time_is_bounded_too() {
        let (mut pressure, at) = after(3, 0, 0);
        assert!(!pressure.is_moving());
        let later = at + SECOND * 600;
        pressure.still(later);
        let let_in = (0..2_000).filter(|_| pressure.let_in(later + SECOND, TENANT, PATIENCE).is_ok()).count();
        assert_eq!(let_in, 1_000);
    }

    #[test]
    fn what_is_not_known_sheds_nothing() {
        let (mut pressure, at) = after(30, 400, 40);
        assert!(pressure.judge(at + STALE, TENANT, PATIENCE).is_ok(), "an old look says nothing");
        pressure.note(at + SECOND, &[None, None]);
        assert!(pressure.judge(at + SECOND, TENANT, PATIENCE).is_ok(), "nor does a broker that is silent");
        assert!(Pressure::new(1, 2).judge(at, TENANT, PATIENCE).is_ok());
    }

    #[test]
    fn a_stage_that_was_asked_for_little_is_not_slow() {
        let (mut pressure, at) = after(1, 0, 0);
        for second in 2..=40 {
            // One request a second, each of which takes a second.
            let look = Look { committed: second - 1, end: second };
            pressure.note(at + SECOND * second as u32, &[Some(look), Some(Look { committed: 0, end: 0 })]);
        }
        let let_in = (0..2_000).filter(|_| pressure.let_in(at + SECOND * 40, TENANT, PATIENCE).is_ok()).count();
        assert_eq!(let_in, 999);
    }

    #[test]
    fn an_idle_time_is_no_slow_time() {
        let (mut pressure, at) = after(60, 0, 0);
        for second in 1..=6 {
            // 200 come at once and leave within a second, again and again.
            let end = i64::from(second) * 200;
            let look = Look { committed: end - 200, end };
            pressure.note(at + SECOND * second, &[Some(look), Some(Look { committed: 0, end: 0 })]);
        }
        assert!(pressure.judge(at + SECOND * 6, TENANT, SECOND * 3).is_ok());
    }
}
