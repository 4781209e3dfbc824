//! What the operating system says of processes.

use std::collections::BTreeSet;

/// User and system time of a process in seconds, and its peak memory in MiB.
pub fn of(pid: u32) -> (f64, f64) {
    (seconds(&format!("/proc/{pid}/stat")), kilobytes(pid, "VmHWM:") / 1024.0)
}

/// User and system time in a `stat` file of /proc, seconds; 0 when its owner is gone.
fn seconds(stat: &str) -> f64 {
    // Clock ticks of /proc are 100 a second on every Linux that Rust supports.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<f64> = after_name.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / TICKS
}

/// The threads of this process.
pub fn threads() -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The time of some threads of this process, seconds.
pub fn of_threads(threads: &BTreeSet<u32>) -> f64 {
    threads.iter().map(|thread| seconds(&format!("/proc/self/task/{thread}/stat"))).sum()
}

/// Sums over processes.
pub fn sum(pids: &[u32]) -> (f64, f64) {
    pids.iter().map(|pid| of(*pid)).fold((0.0, 0.0), |total, one| (total.0 + one.0, total.1 + one.1))
}

/// A process and everything that it started, and that again.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<u32> = children.flat_map(|line| numbers(&line)).collect();
        all.extend(children);
        next += 1;
    }
    all
}

fn numbers(line: &str) -> Vec<u32> {
    line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What processes have in memory now, MiB.
pub fn resident(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| kilobytes(*pid, "VmRSS:")).sum::<f64>() / 1024.0
}

fn kilobytes(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value =
        status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.trim().parse().ok());
    value.unwrap_or(0.0)
}
