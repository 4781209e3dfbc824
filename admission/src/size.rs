//! How long a prompt and its answer may be.

use millrace_config::{LimitsConfig, ModelConfig};
use millrace_schemas::Ended;

use crate::body::EditableBody;
use crate::checks::integer;
use crate::directory::Standing;

pub(crate) struct Size {
    pub prompt: u32,
    pub limit: u32,
    pub output: u32,
}

/// The longest prompt and answer that there may be, whatever the model is capable of.
#[derive(Clone, Copy)]
pub(crate) struct Most {
    pub prompt: u32,
    pub output: Option<u32>,
}

impl Most {
    pub fn of(limits: &LimitsConfig, standing: Option<&Standing>) -> Self {
        let (tenant, key) = standing.map(|s| (s.limits(), s.key_limits())).unwrap_or_default();
        let least = |tenant: Option<u32>, key: Option<u32>| tenant.into_iter().chain(key).min();
        Self {
            prompt: least(tenant.prompt_tokens, key.prompt_tokens).unwrap_or(u32::MAX).min(limits.prompt_tokens),
            output: least(tenant.output_tokens, key.output_tokens),
        }
    }

    /// The length of an answer that a request names, if it may.
    pub fn held(self, named: Option<u32>, param: &str) -> Result<Option<u32>, Ended> {
        match (named, self.output) {
            (Some(tokens), Some(most)) if tokens > most => {
                let message = format!("{param} is too large: {tokens}. Your limit is {most} tokens.");
                Err(Ended::invalid("invalid_value", Some(param), message))
            }
            (named, _) => Ok(named),
        }
    }

    /// Tokens reserved for an answer whose request names no length.
    pub fn output_of(self, model: &ModelConfig) -> u32 {
        self.output.map_or(model.max_output_tokens, |most| most.min(model.max_output_tokens))
    }
}

/// Holds a prompt to the context, of which `bound` is what `counted` never exceeds; what is beyond the number
/// that `counted` is given is refused, and need not be counted to its end.
pub(crate) fn fit(
    model: &ModelConfig,
    most: Most,
    param: &str,
    (bound, counted): (u32, impl FnOnce(u32) -> u32),
    named: Option<u32>,
    exactly: bool,
) -> Result<Size, Ended> {
    let context = model.context_tokens;
    let limit = most.prompt.min(context.saturating_sub(named.unwrap_or(most.output_of(model))));
    let prompt = if bound <= limit && !exactly { bound } else { counted(most.prompt.min(context)) };
    let too_long = |message: String| Err(Ended::invalid("context_length_exceeded", Some(param), message));
    if prompt > most.prompt {
        return too_long(format!(
            "Here the maximum prompt length is {} tokens. However, your {param} resulted in {prompt} \
             tokens. Please reduce the length of the {param}.",
            most.prompt
        ));
    }
    match named {
        Some(output) if prompt.saturating_add(output) > context => too_long(format!(
            "This model's maximum context length is {context} tokens. However, you requested {} tokens ({prompt} in \
             the {param}, {output} in the completion). Please reduce the length of the {param} or completion.",
            prompt.saturating_add(output)
        )),
        None if prompt >= context => too_long(format!(
            "This model's maximum context length is {context} tokens. However, your {param} resulted in {prompt} \
             tokens. Please reduce the length of the {param}."
        )),
        // Without a limit of its own the answer gets what the prompt leaves.
        output => Ok(Size {
            prompt,
            limit: limit.max(prompt),
            output: output.unwrap_or_else(|| most.output_of(model).min(context - prompt)),
        }),
    }
}

/// The longest answer that the request names; the newer name counts where both are given.
pub(crate) fn named_output(body: &EditableBody, model: &ModelConfig) -> Result<Option<u32>, Ended> {
    let old = named_limit(body, model, "max_tokens")?;
    Ok(named_limit(body, model, "max_completion_tokens")?.or(old))
}

pub(crate) fn named_limit(body: &EditableBody, model: &ModelConfig, param: &str) -> Result<Option<u32>, Ended> {
    let named = integer(param, body.get(param), 1..=u32::MAX)?;
    match named {
        Some(tokens) if tokens > model.context_tokens => {
            let message = format!(
                "{param} is too large: {tokens}. This model supports at most {} tokens, prompt and completion together.",
                model.context_tokens
            );
            Err(Ended::invalid("invalid_value", Some(param), message))
        }
        Some(_) | None => Ok(named),
    }
}
