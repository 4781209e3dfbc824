//! What the machine itself takes: figures of two machines can not be compared without it.

use std::io::{Read as _, Write as _, pipe};
use std::thread;
use std::time::Instant;

const ROUNDS: u32 = 10_000;

/// How long it takes to wake another thread and to be woken by it, microseconds: what processes that hand on records
/// do most. On virtual machines whose cores go to sleep it can take twenty times what it takes elsewhere.
///
/// # Errors
/// The system has no pipe left, or no thread.
pub fn round_trip_micros() -> anyhow::Result<f64> {
    let (mut asked, mut ask) = pipe()?;
    let (mut answered, mut answer) = pipe()?;
    let other = thread::Builder::new().name("woken".to_owned()).spawn(move || -> std::io::Result<()> {
        let mut byte = [0];
        for _ in 0..ROUNDS {
            asked.read_exact(&mut byte)?;
            answer.write_all(&byte)?;
        }
        Ok(())
    })?;
    let began = Instant::now();
    let mut byte = [0];
    for _ in 0..ROUNDS {
        ask.write_all(&byte)?;
        answered.read_exact(&mut byte)?;
    }
    let micros = began.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    other.join().map_err(|_| anyhow::anyhow!("the thread that is woken panicked"))??;
    Ok(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_time() {
        assert!(round_trip_micros().unwrap() > 0.0);
    }
}
