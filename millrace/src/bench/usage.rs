//! What the operating system says of processes.

use std::collections::BTreeSet;

/// User and system time of a process in seconds, and its peak memory in MiB.
pub fn of(pid: u32) -> (f64, f64) {
    let seconds = seconds(&format!("/proc/{pid}/stat"));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    (seconds, peak.unwrap_or(0.0) / 1024.0)
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
