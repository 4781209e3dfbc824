//! What a request takes of the limits that it is under, and gives back.

use std::time::Duration;

use millrace_admission::{Admission, Admitted, Directory, EntryName, Principal};
use millrace_config::{Config, ModelConfig, UsageLimits};
use millrace_limits::{Exceeded, Left, Limiter, Permit, Reserved, Standing, Taken, follow, tell};
use millrace_schemas::{Codec, Meta, now_millis};
use millrace_settings::Current;
use millrace_stage::Producer;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::run::Ingress;
use crate::unsettled::Unsettled;

/// So often a request waits for the next share of this replica before it is sent away.
const SHARES: usize = 5;

/// What a request took. What it holds at the same time as others is given back when this is dropped; so are its
/// tokens, until it is to be [written](Granted::hand_over).
#[derive(Default)]
pub(crate) struct Granted {
    _permit: Option<Permit>,
    reserved: Option<Reserved>,
    /// Whether its tokens are limited, so that its outcome is worth a word to a replica on which nobody waits.
    pub counts_tokens: bool,
    /// What was left then.
    pub standing: Standing,
}

impl Granted {
    /// From now on its tokens are its outcome's matter.
    pub fn hand_over(&mut self, unsettled: &Unsettled, meta: &Meta) {
        if let Some(reserved) = self.reserved.take() {
            unsettled.keep(&meta.request_id, meta.received_at, meta.deadline, reserved);
        }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(reserved) = self.reserved.take() {
            reserved.settle(0);
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
    (directory, settings): (&Directory, &Current),
    (codec, producer): (&Codec, Producer),
    shutdown: &CancellationToken,
) -> std::io::Result<()> {
    // A replica that hears nothing of the others still holds to the limits by itself.
    let report = Box::new(|is_heard: bool, why: &str| tracing::debug!(is_heard, why, "limits of all replicas"));
    follow(config, "ingress.limits", codec.clone(), limiter.clone(), report, shutdown.clone())?;
    let (directory, settings) = (directory.clone(), settings.clone());
    let is_limited = move || {
        let of_model = |model: &ModelConfig| !model.limits.is_empty();
        directory.has_limits() || settings.now().admission.models().values().any(of_model)
    };
    tokio::spawn(tell(limiter.clone(), (codec.clone(), producer), is_limited, shutdown.clone()));
    Ok(())
}

impl Ingress {
    /// The limits that a request which `admission` admitted is under, each with whose it is.
    pub(crate) fn limits_of(
        &self,
        principal: &Principal,
        admission: &Admission,
        admitted: &Admitted,
    ) -> Vec<(String, UsageLimits)> {
        let named = |(name, limits): (EntryName, _)| (name.to_string(), limits);
        let mut limits: Vec<_> =
            self.directory().limits(principal, &admitted.meta.user).into_iter().map(named).collect();
        let model = admission.models().get(&admitted.model).map(|model| model.limits);
        let model = model.filter(|limits| !limits.is_empty());
        limits.extend(model.map(|limits| (format!("model/{}", admitted.model), limits)));
        limits
    }

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
        let limits = self.limits_of(principal, admission, admitted);
        if limits.is_empty() {
            return Ok(Granted::default());
        }
        let counts_tokens = limits.iter().any(|(_, l)| l.tokens_per_minute.or(l.tokens_per_day).is_some());
        let tokens = most_tokens(admitted);
        let mut waits = 0;
        loop {
            match self.limiter.take(&limits, tokens, now_millis()) {
                Ok(Taken { permit, reserved, standing }) => {
                    let (permit, reserved) = (Some(permit), Some(reserved));
                    return Ok(Granted { _permit: permit, reserved, counts_tokens, standing });
                }
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

/// The tokens that a request may become.
pub(crate) fn most_tokens(admitted: &Admitted) -> u64 {
    let output = u64::from(admitted.max_output_tokens) * u64::from(admitted.choices);
    u64::from(admitted.prompt_tokens).saturating_add(output)
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
