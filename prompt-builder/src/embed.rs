//! The question's vector from a provider, recorded in `calls`.

use async_trait::async_trait;
use millrace_admission::tokens;
use millrace_provider::{Bounds, CallError, CallLog, CallsTopic, LedgerError, Ledgered, Target, Who};
use millrace_schemas::Operation;
use millrace_stage::{Received, StageError};

use crate::ports::{EmbedError, Embedded, Embedder};

/// An embedding model and the log of its calls.
pub(crate) struct PaidEmbedder<L = CallsTopic> {
    target: Target,
    ledger: Ledgered<L>,
    /// The longest text, in tokens of ours.
    max_tokens: u32,
}

impl<L: CallLog> PaidEmbedder<L> {
    /// `context_tokens` are the model's own. Some room is left, because other models cut words into
    /// other tokens than those that are counted here.
    pub fn new(target: Target, ledger: Ledgered<L>, context_tokens: u32) -> Self {
        Self { target, ledger, max_tokens: context_tokens - context_tokens / 8 }
    }
}

#[async_trait]
impl<L: CallLog> Embedder for PaidEmbedder<L> {
    async fn embed(&self, record: &Received, who: &Who, question: &str) -> Result<Embedded, EmbedError> {
        let input = [tokens::truncate(question, self.max_tokens).to_owned()];
        let bounds = Bounds {
            input_tokens: i64::from(tokens::upper_bound(input[0].len())),
            output_tokens: 0,
            timeout: self.target.timeout,
        };
        // The record waits outside, where its deadline is looked at.
        let slot = self
            .target
            .slot_unless_open(&who.lane, &who.tenant)
            .await
            .map_err(|refused| EmbedError::Later { error: refused.to_string(), after: Some(refused.after) })?;
        let call = self.ledger.start(record, who, &slot, Operation::Embeddings, bounds).await?;
        if record.assignment.is_cancelled() {
            self.ledger.not_sent(record, call, "the partition was taken away").await?;
            return Err(EmbedError::Later { error: "the partition was taken away".to_owned(), after: None });
        }
        let error = match slot.embed(&input, call.id()).await {
            Ok(answer) => {
                let line = self.ledger.line(&call, answer.usage);
                let vector = answer.vectors.into_iter().next().unwrap_or_default();
                return Ok(Embedded { vector, line });
            }
            Err(error) => error,
        };
        let line = self.ledger.failed(record, call, &error).await?;
        Err(match error {
            CallError::NotSent(_) => EmbedError::Later { error: error.to_string(), after: None },
            CallError::Answered(ref refusal) if refusal.retryable => {
                EmbedError::Later { error: error.to_string(), after: refusal.retry_after }
            }
            CallError::Answered(refusal) => EmbedError::Refused { status: refusal.status, line },
            CallError::Lost(_) => EmbedError::Lost { error: error.to_string(), line },
        })
    }

    fn max_attempts(&self) -> u32 {
        self.target.max_attempts
    }
}

impl From<LedgerError> for EmbedError {
    fn from(error: LedgerError) -> Self {
        Self::Unrecorded(StageError::from(error))
    }
}
