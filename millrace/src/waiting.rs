//! What people see while something takes its time.

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// Nothing is said of what takes less.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Between two lines where standard error is no terminal.
pub const LINES: Duration = Duration::from_secs(5);

/// Shows what is waited for, from two seconds on until it is dropped: a spinner on a terminal, else a
/// line every few seconds, on standard error.
#[must_use = "it is gone when dropped"]
pub struct Waiting {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// For `what`, such as "asking the brokers".
    pub fn new(what: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let (end, ended) = channel();
        let show = move || {
            if is_terminal {
                spin(what, &ended);
            } else {
                say(what, &ended, AT_ONCE, LINES, |line| eprintln!("{line}"));
            }
        };
        // Without a thread there is nothing to see, which is no reason to do nothing.
        let thread = std::thread::Builder::new().name("waiting".to_owned()).spawn(show).ok();
        Self { end: Some(end), thread }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // The spinner is taken away before anything else is printed.
            let _ended = thread.join();
        }
    }
}

fn spin(what: &'static str, ended: &Receiver<()>) {
    if ended.recv_timeout(AT_ONCE) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    let _ended = ended.recv();
    spinner.finish_and_clear();
}

fn say(what: &str, ended: &Receiver<()>, at_once: Duration, every: Duration, tell: impl Fn(String)) {
    let began = Instant::now();
    let mut pause = at_once;
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        tell(format!("{what} … {} s", began.elapsed().as_secs()));
        pause = every;
    }
}

/// Tells how far `bar` is, again and again, until it is finished or dropped.
pub fn lines(bar: &ProgressBar, what: &'static str, every: Duration, tell: impl Fn(String) + Send + 'static) {
    let bar = bar.downgrade();
    let show = move || {
        loop {
            std::thread::sleep(every);
            match bar.upgrade() {
                Some(bar) if !bar.is_finished() => match bar.length() {
                    Some(length) => tell(format!("{what}: {} of {length}", bar.position())),
                    None => tell(format!("{what}: {}", bar.position())),
                },
                Some(_) | None => return,
            }
        }
    };
    // Without a thread there is nothing to see, which is no reason to do nothing.
    let _started = std::thread::Builder::new().name("progress".to_owned()).spawn(show);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn what_takes_its_time_is_said_until_it_ends() {
        let (end, ended) = channel();
        let (told, heard) = channel();
        let saying = std::thread::spawn(move || {
            say("asking", &ended, SOON, SOON, |line| told.send(line).expect("somebody listens"));
        });
        for _ in 0..2 {
            assert!(heard.recv().expect("a line").starts_with("asking … "));
        }
        drop(end);
        saying.join().expect("it ends");
    }

    #[test]
    fn what_is_done_at_once_is_not_mentioned() {
        let (end, ended) = channel();
        drop(end);
        say("asking", &ended, Duration::from_secs(60), SOON, |line| panic!("{line}"));
    }

    #[test]
    fn progress_is_told_until_it_is_finished() {
        let (told, heard) = channel();
        let bar = ProgressBar::hidden();
        bar.set_length(10);
        bar.inc(3);
        lines(&bar, "outcomes", SOON, move |line| told.send(line).expect("somebody listens"));
        assert_eq!(heard.recv().expect("a line"), "outcomes: 3 of 10");
        bar.finish_and_clear();
        // Its end ends the lines: the sender is dropped.
        while heard.recv().is_ok() {}
    }
}
