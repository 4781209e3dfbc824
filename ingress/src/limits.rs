//! What a request takes of the limits that it is under, and gives back.

use std::time::Duration;

use millrace_admission::{Admission, Admitted, Principal};
use millrace_config::Config;
use millrace_limits::{Exceeded, Left, Limiter, Permit, Standing, follow, tell};
use millrace_schemas::{Codec, Outcome, now_millis};
use millrace_stage::Producer;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::run::Ingress;

/// So often a request waits for the next share of this replica before it is sent away.
const SHARES: usize = 5;

/// What a request took. What it holds at the same time as others is given back when this is dropped.
#[derive(Default)]
pub(crate) struct Granted {
    permit: Option<Permit>,
    /// What was left then.
    pub standing: Standing,
}

impl Granted {
    /// Tells how many tokens it became, for a client who asked at `since`.
    pub fn settle(&mut self, outcome: &Outcome, since: i64) {
        let is_another = outcome.meta.received_at != since;
        let tokens = if is_another { 0 } else { outcome.input_tokens.saturating_add(outcome.output_tokens) };
        if let Some(permit) = &mut self.permit {
            permit.settle(u64::try_from(tokens).unwrap_or(0));
        }
    }
}

/// Hears and tells of what replicas let through, until `shutdown`.
///
/// # Errors
/// When there is no thread for it.
pub(crate) fn start(
    config: &Config,
    limiter: &Limiter,
    codec: &Codec,
    producer: Producer,
    shutdown: &CancellationToken,
) -> std::io::Result<()> {
    // A replica that hears nothing of the others still holds to the limits by itself.
    let report = Box::new(|is_heard: bool, why: &str| tracing::debug!(is_heard, why, "limits of all replicas"));
    follow(config, "ingress.limits", codec.clone(), limiter.clone(), report, shutdown.clone())?;
    tokio::spawn(tell(limiter.clone(), codec.clone(), producer, shutdown.clone()));
    Ok(())
}

impl Ingress {
    /// Takes what a request that `admission` admitted needs of its limits.
    ///
    /// # Errors
    /// [`ApiError`]: one of them is reached.
    pub(crate) async fn grant(
        &self,
        principal: &Principal,
        admission: &Admission,
        admitted: &Admitted,
    ) -> Result<Granted, ApiError> {
        let directory = self.directory();
        let mut limits: Vec<_> = directory
            .limits(principal, &admitted.meta.user)
            .into_iter()
            .map(|(name, limits)| (name.to_string(), limits))
            .collect();
        let model = admission.models().get(&admitted.model).map(|model| model.limits);
        let model = model.filter(|limits| !limits.is_empty());
        limits.extend(model.map(|limits| (format!("model/{}", admitted.model), limits)));
        if limits.is_empty() {
            return Ok(Granted::default());
        }
        let output = u64::from(admitted.max_output_tokens) * u64::from(admitted.choices);
        let tokens = u64::from(admitted.prompt_tokens).saturating_add(output);
        let mut waits = 0;
        loop {
            match self.limiter.take(&limits, tokens, now_millis()) {
                Ok((permit, standing)) => return Ok(Granted { permit: Some(permit), standing }),
                Err(Exceeded { is_share: true, retry_after: Some(millis), .. }) if waits < SHARES => {
                    waits += 1;
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                }
                Err(exceeded) => {
                    self.metrics.shed.with_label_values(&["limit"]).inc();
                    return Err(ApiError::rate_limited(&exceeded));
                }
            }
        }
    }
}

/// The headers that tell a client what is left.
pub(crate) fn headers(standing: &Standing) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    let names = [
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
    ];
    for (left, names) in [standing.requests, standing.tokens].into_iter().zip(names) {
        let Some(Left { limit, remaining, reset }) = left else { continue };
        headers.extend(names.into_iter().zip([limit.to_string(), remaining.to_string(), duration(reset)]));
    }
    headers
}

/// As OpenAI writes it: `1m30s`, `250ms`.
fn duration(millis: u64) -> String {
    match (millis / 60_000, millis % 60_000) {
        (0, millis) if millis < 1_000 => format!("{millis}ms"),
        (0, millis) => format!("{}s", millis.div_ceil(1_000)),
        (minutes, millis) => format!("{minutes}m{}s", millis.div_ceil(1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_as_openai_does() {
        let left = |reset: u64| Some(Left { limit: 60, remaining: 59, reset });
        let standing = Standing { requests: left(90_001), tokens: None };
        let expected = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1m31s"),
        ];
        assert_eq!(headers(&standing), expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!([0, 999, 1_000, 59_001].map(duration), ["0ms", "999ms", "1s", "60s"]);
    }
}
