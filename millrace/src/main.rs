//! `millrace`: one binary for every service, the embedded stack and the tools around them.

#[cfg(feature = "harness")]
mod bench;
mod budgets;
#[cfg(feature = "harness")]
mod chaos;
mod cli;
mod commands;
mod config_metrics;
mod door;
mod endpoints;
#[cfg(test)]
mod fuzz;
mod generations;
mod keys;
mod letters;
mod outcomes;
mod positions;
mod publish;
mod reading;
mod redrive;
mod reload;
mod retention;
mod services;
mod stack;
mod subjects;
mod topic_data;
mod ui;
mod waiting;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

/// Records are made and dropped on different threads, many of each size: a third of the router's
/// time went into the system's allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("millrace: the runtime can not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(cli));
    // Blocking tasks that wait for a broker must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = ui::one_line(&error);
            if json {
                eprintln!("{}", serde_json::json!({ "error": error }));
            } else {
                eprintln!("millrace: {error}");
            }
            ExitCode::FAILURE
        }
    }
}
