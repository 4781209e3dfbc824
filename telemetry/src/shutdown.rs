//! How a process is asked to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a process that was told twice: 128 + SIGINT.
const TOLD_TWICE: i32 = 130;

/// A token that ctrl-C or SIGTERM cancels, so that the process drains and ends by itself. A second
/// signal ends it at once, with exit code 130. Call it once, inside the runtime.
///
/// # Errors
/// When the signal handlers cannot be installed.
#[expect(clippy::disallowed_methods, reason = "the one place that may end the process: the second signal")]
pub fn shutdown_signal() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        tracing::info!("shutting down");
        cancelled.cancel();
        either(&mut interrupt, &mut terminate).await;
        eprintln!("stopped at once by a second signal; unfinished work is taken up at the next start");
        std::process::exit(TOLD_TWICE);
    });
    Ok(token)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
