//! Whether a batch's file may be worked on: every line is judged before any is paid for.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use millrace_admission::{BatchLine, MAX_BATCH_LINES, Principal};
use millrace_schemas::{Ended, Operation, derived_uuid, now_micros};
use uuid::Uuid;

use crate::batches::BatchError;
use crate::batches::day::fits;
use crate::limits::most_tokens;
use crate::lines::Line;
use crate::run::Ingress;

/// What is wrong with a file is listed up to so many lines of it.
const MAX_ERRORS: usize = 100;

/// What is wrong with a file as a whole.
pub(crate) fn of_file(code: &str, message: String) -> BatchError {
    BatchError { code: code.to_owned(), line: None, message, param: None }
}

/// The judgement so far.
pub(crate) struct Judge {
    principal: Principal,
    operation: Operation,
    /// Names of the lines, by their hash: names are long, and there are many.
    seen: HashSet<Uuid>,
    /// Two are enough to know that there is not one.
    models: BTreeSet<String>,
    pub total: u32,
    pub errors: Vec<BatchError>,
}

impl Judge {
    /// Of a batch of this key.
    pub(crate) fn new(principal: Principal, operation: Operation) -> Self {
        let (seen, models, errors) = (HashSet::new(), BTreeSet::new(), Vec::new());
        Self { principal, operation, seen, models, total: 0, errors }
    }

    /// Judges more lines, where the clients' requests need not wait for it.
    pub(crate) async fn lines(mut self, ingress: Arc<Ingress>, lines: Vec<Line>) -> Self {
        let judged = tokio::task::spawn_blocking(move || {
            for line in lines {
                if self.is_enough() {
                    break;
                }
                self.line(&ingress, line);
            }
            self
        });
        match judged.await {
            Ok(judge) => judge,
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        }
    }

    /// Nothing that follows changes the judgement.
    pub(crate) fn is_enough(&self) -> bool {
        self.errors.len() >= MAX_ERRORS || self.total > MAX_BATCH_LINES
    }

    /// The model that all lines name.
    pub(crate) fn one_model(&self) -> Option<String> {
        self.models.first().filter(|_| self.models.len() == 1).cloned()
    }

    fn line(&mut self, ingress: &Ingress, Line { number, text }: Line) {
        self.total += 1;
        if self.total > MAX_BATCH_LINES {
            let message = format!("The file has more than {MAX_BATCH_LINES} requests: split it.");
            self.errors.push(of_file("too_many_requests", message));
            return;
        }
        if let Err(Ended { code, message, param, .. }) = self.judge(ingress, text) {
            self.errors.push(BatchError { code, line: Some(number), message, param });
        }
    }

    fn judge(&mut self, ingress: &Ingress, text: Option<String>) -> Result<(), Ended> {
        let text = text.ok_or_else(|| {
            let message = format!("The line is no UTF-8, or its body has more than {} bytes.", ingress.inline_bytes);
            Ended::invalid("invalid_line", None, message)
        })?;
        let line = BatchLine::read(&text, self.operation)?;
        if !self.seen.insert(derived_uuid(&[&line.custom_id])) {
            let message = "Another line has the same 'custom_id': give each line its own.";
            return Err(Ended::invalid("duplicate_custom_id", Some("custom_id"), message));
        }
        let settings = ingress.settings.now();
        let admitted = settings.admission.judge_line(&self.principal, self.operation, &line, now_micros())?;
        fits(&ingress.limits_of(&self.principal, &settings.admission, &admitted), most_tokens(&admitted))?;
        if self.models.len() < 2 {
            self.models.insert(admitted.model);
        }
        Ok(())
    }
}
