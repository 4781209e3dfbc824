//! The question's vector from a provider, recorded in `calls`.

use async_trait::async_trait;
use millrace_admission::tokens;
use millrace_budgets::{Budgets, Caller};
use millrace_provider::{Bounds, CallError, CallLog, CallsTopic, LedgerError, Ledgered, Who};
use millrace_schemas::Operation;
use millrace_settings::Current;
use millrace_stage::{Received, StageError};

use crate::ports::{EmbedError, Embedded, Embedder};

/// An embedding model and the log of its calls.
pub(crate) struct PaidEmbedder<L = CallsTopic> {
    settings: Current,
    /// Its name in the configuration.
    model: String,
    ledger: Ledgered<L>,
    budgets: Budgets,
    /// The longest text, in tokens of ours.
    max_tokens: u32,
}

impl<L: CallLog> PaidEmbedder<L> {
    /// `context_tokens` are the model's own. Some room is left, because other models cut words into
    /// other tokens than those that are counted here.
    pub fn new(
        settings: Current,
        model: String,
        (ledger, budgets): (Ledgered<L>, Budgets),
        context_tokens: u32,
    ) -> Self {
        Self { settings, model, ledger, budgets, max_tokens: context_tokens - context_tokens / 8 }
    }
}

#[async_trait]
impl<L: CallLog + Clone> Embedder for PaidEmbedder<L> {
    async fn embed(&self, record: &Received, who: &Who, question: &str) -> Result<Embedded, EmbedError> {
        let settings = self.settings.now();
        let Some(target) = settings.target(&self.model) else {
            return Err(EmbedError::Later { error: format!("there is no model `{}`", self.model), after: None });
        };
        let caller = Caller { tenant: &who.tenant, user: &who.user, key_id: who.key_id.as_deref() };
        if let Some(standing) = self.budgets.refuses(caller) {
            return Err(EmbedError::UsedUp(standing.used_up()));
        }
        let ledger = self.ledger.with_prices(settings.prices.clone());
        let input = [tokens::truncate(question, self.max_tokens).to_owned()];
        let bounds = Bounds {
            input_tokens: i64::from(tokens::upper_bound(input[0].len())),
            output_tokens: 0,
            timeout: target.timeout,
        };
        // The record waits outside, where its deadline is looked at.
        let slot = target
            .slot_unless_open(&who.lane, &who.tenant)
            .await
            .map_err(|refused| EmbedError::Later { error: refused.to_string(), after: Some(refused.after) })?;
        let call = ledger.start(record, who, &slot, Operation::Embeddings, bounds).await?;
        if record.assignment.is_cancelled() {
            ledger.not_sent(record, call, "the partition was taken away").await?;
            return Err(EmbedError::Later { error: "the partition was taken away".to_owned(), after: None });
        }
        let error = match slot.embed(&input, call.id()).await {
            Ok(answer) => {
                let line = ledger.line(&call, answer.usage);
                let vector = answer.vectors.into_iter().next().unwrap_or_default();
                return Ok(Embedded { vector, line });
            }
            Err(error) => error,
        };
        let line = ledger.failed(record, call, &error).await?;
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
        self.settings.now().target(&self.model).map_or(1, |target| target.max_attempts)
    }
}

impl From<LedgerError> for EmbedError {
    fn from(error: LedgerError) -> Self {
        Self::Unrecorded(StageError::from(error))
    }
}
