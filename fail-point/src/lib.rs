//! Points before and after every effect at which a process can be killed or frozen on purpose.
//!
//! They stand in the few places through which every effect goes (the producer, the commit, the
//! database, the provider, the vector store), so a new effect has its points without anybody
//! thinking of it. Without the feature `armed` they are nothing at all; with it they are inert
//! until the environment arms one:
//!
//! ```text
//! MILLRACE_FAIL_POINT=kill:3:after produce prompts.batch    the third time it is reached
//! MILLRACE_FAIL_POINT=freeze:1:before commit                SIGSTOP, until somebody sends SIGCONT
//! MILLRACE_FAIL_POINT_LOG=points.txt                        each point that is reached, once
//! MILLRACE_OFF=write-ahead                                  what this promise costs: `started` is not waited for
//! ```

#[cfg(feature = "armed")]
mod armed;

/// Which side of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nothing has happened yet.
    Before,
    /// It has happened and is acknowledged.
    After,
}

/// Whether a promise is left out, to measure its price.
#[inline]
#[must_use]
pub fn is_off(promise: &str) -> bool {
    #[cfg(feature = "armed")]
    return armed::is_off(promise);
    #[cfg(not(feature = "armed"))]
    return {
        let _ = promise;
        false
    };
}

/// Passes a point. `effect` says what is done, such as `commit` or `produce calls`.
#[inline]
pub fn reach(side: Side, effect: impl Fn() -> String) {
    #[cfg(feature = "armed")]
    armed::reach(side, effect);
    #[cfg(not(feature = "armed"))]
    let _ = (side, effect);
}
