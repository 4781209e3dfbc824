//! What an armed point does.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::Side;

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Freeze,
}

#[derive(Debug, PartialEq, Eq)]
struct Armed {
    action: Action,
    /// Which time it is reached, from 1.
    time: u32,
    point: String,
}

static ARMED: LazyLock<Option<Armed>> =
    LazyLock::new(|| std::env::var("MILLRACE_FAIL_POINT").ok().and_then(|text| parse(&text)));
static LOG: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("MILLRACE_FAIL_POINT_LOG").map(PathBuf::from));
static OFF: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("MILLRACE_OFF").ok());
static REACHED: AtomicU32 = AtomicU32::new(0);
static LOGGED: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Reads `action:time:point`. Anything else arms nothing.
fn parse(text: &str) -> Option<Armed> {
    let mut parts = text.splitn(3, ':');
    let action = match parts.next()? {
        "kill" => Action::Kill,
        "freeze" => Action::Freeze,
        _ => return None,
    };
    Some(Armed { action, time: parts.next()?.parse().ok()?, point: parts.next()?.to_owned() })
}

pub fn is_off(promise: &str) -> bool {
    OFF.as_deref() == Some(promise)
}

pub fn reach(side: Side, effect: impl Fn() -> String) {
    if ARMED.is_none() && LOG.is_none() {
        return;
    }
    let side = match side {
        Side::Before => "before",
        Side::After => "after",
    };
    let point = format!("{side} {}", effect());
    if let Some(armed) = ARMED.as_ref().filter(|armed| armed.point == point)
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == armed.time
    {
        act(&armed.action);
    }
    if let Some(path) = LOG.as_ref() {
        log(path, point);
    }
}

fn act(action: &Action) {
    let signal = match action {
        Action::Kill => "-KILL",
        Action::Freeze => "-STOP",
    };
    let pid = std::process::id().to_string();
    // The signal comes while this waits: nothing of ours runs beyond the point.
    if let Err(error) = Command::new("kill").args([signal, &pid]).status() {
        eprintln!("fail point: kill can not be run: {error}");
    }
}

fn log(path: &PathBuf, point: String) {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.get_or_insert_default().insert(point.clone()) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{point}")) {
            eprintln!("fail point: {} can not be written: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_armed_by_action_time_and_name() {
        let armed = parse("kill:3:after produce prompts.batch");
        let expected = Armed { action: Action::Kill, time: 3, point: "after produce prompts.batch".to_owned() };
        assert_eq!(armed, Some(expected));
        for wrong in ["", "kill", "kill:x:after commit", "maim:1:after commit"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
