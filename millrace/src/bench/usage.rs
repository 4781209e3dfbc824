//! What the operating system says of processes.

/// User and system time of a process in seconds, and its peak memory in MiB.
pub fn of(pid: u32) -> (f64, f64) {
    // Clock ticks of /proc are 100 a second on every Linux that Rust supports.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<f64> = after_name.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    let seconds = (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / TICKS;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    (seconds, peak.unwrap_or(0.0) / 1024.0)
}

/// Sums over processes.
pub fn sum(pids: &[u32]) -> (f64, f64) {
    pids.iter().map(|pid| of(*pid)).fold((0.0, 0.0), |total, one| (total.0 + one.0, total.1 + one.1))
}
