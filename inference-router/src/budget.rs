//! Room in the budgets before a call, and how a request ends for want of it. This is where budgets are
//! decided: the completion carries it, so nobody downstream decides it again.

use millrace_budgets::{Budgets, Caller, NotNow, Owner, Reservation, Standing, amount};
use millrace_config::BudgetPeriod;
use millrace_provider::{CallLog, Ledgered, Target};
use millrace_schemas::{Ended, now_micros, time_until};

use crate::decide::failed;
use crate::router::{TOO_LATE, Work};

impl Work<'_> {
    /// Room for the next call, whichever of the targets it goes to.
    ///
    /// # Errors
    /// How the request ends: no call may be made for it.
    pub(crate) async fn reserve<L: CallLog>(
        &self,
        budgets: &Budgets,
        ledger: &Ledgered<L>,
        route: &[Target],
    ) -> Result<Reservation, Ended> {
        let now = now_micros();
        let nanos = ledger.most_charged(route.iter().map(|target| (target, self.bounds(target))), now);
        let owner = Owner {
            topic: &self.record.at.topic,
            partition: self.record.at.partition,
            epoch: self.record.as_source.epoch,
        };
        let caller =
            Caller { tenant: &self.who.tenant, user: &self.who.user, key_id: self.prompt.meta.key_id.as_deref() };
        let left = time_until(self.prompt.meta.deadline).ok_or_else(|| Ended::expired(TOO_LATE))?;
        let reserved = budgets.reserve(owner, caller, (nanos, ledger.prices().currency()));
        tokio::select! {
            reserved = tokio::time::timeout(left, reserved) => match reserved {
                Ok(reserved) => reserved.map_err(|error| refused(error, nanos)),
                Err(_) => Err(Ended::expired(TOO_LATE)),
            },
            () = self.watch.cancelled() => Err(Ended::cancelled()),
        }
    }
}

fn refused(why: NotNow, nanos: i64) -> Ended {
    match why {
        NotNow::UsedUp(standing) => {
            let message = format!(
                "{} is used up: {} is spent and {} reserved for calls on their way, and this request may cost up to {}. \
                 Ask for fewer tokens (`max_tokens`), or have the budget raised.",
                budget(&standing),
                amount(standing.spent_nanos),
                amount(standing.reserved_nanos),
                amount(nanos),
            );
            failed(429, "insufficient_quota", "insufficient_quota", message)
        }
        NotNow::Currency(standing) => {
            let message = format!(
                "{} is in another currency than the prices. Tell the operator of this service.",
                budget(&standing)
            );
            failed(429, "insufficient_quota", "insufficient_quota", message)
        }
        NotNow::Unknown => {
            let message = "What is left of the budget is not known at the moment. Send the request again later.";
            failed(503, "budget_unknown", "server_error", message)
        }
    }
}

fn budget(standing: &Standing) -> String {
    let period = match standing.period {
        BudgetPeriod::Day => " a day",
        BudgetPeriod::Month => " a month",
        BudgetPeriod::Total => " in all",
    };
    let (whose, of) = (standing.whose(), amount(standing.budget_nanos));
    format!("The budget of {whose}, {of} {}{period},", standing.currency)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use millrace_budgets::BudgetMetrics;
    use millrace_config::BudgetConfig;
    use millrace_schemas::Account;
    use serde_json::json;

    use super::*;
    use crate::router::Router;
    use crate::tests::{Setup, verdict_of};

    /// How a request ends whose tenant has this budget, and what is in the log afterwards.
    async fn check(amount: &str, currency: &str, expected: Result<(), (i32, &str)>, entries: &[&str]) {
        let setup = Setup::new(json!([]), |_| ()).await;
        let (amount, currency) = (amount.to_owned(), currency.to_owned());
        let budget = BudgetConfig { amount, currency, period: BudgetPeriod::Month };
        let limits = Arc::new(move |_: Caller<'_>| vec![(Account::Tenant, budget.clone())]);
        let budgets = Budgets::new(limits, BudgetMetrics::new().expect("valid"));
        let router = Router { budgets, ..setup.router.clone() };
        let verdict = verdict_of(&router, "small", Duration::from_secs(10)).await;
        let ended = verdict.result.as_ref().map(|_| ()).map_err(|ended| (ended.http_status, ended.code.as_str()));
        assert_eq!(ended, expected);
        assert_eq!(setup.entries(), entries);
        assert_eq!(setup.server.count().requests, entries.len() as u64);
        assert_eq!(verdict.bill.len(), entries.len());
    }

    #[tokio::test]
    async fn without_room_in_the_budget_nothing_is_called_and_nothing_billed() {
        check("1", "USD", Ok(()), &["started sim-small"]).await;
        // The fallback is dearer, and the call might go there.
        check("0.0001", "USD", Err((429, "insufficient_quota")), &[]).await;
        check("0", "USD", Err((429, "insufficient_quota")), &[]).await;
        check("1", "EUR", Err((429, "insufficient_quota")), &[]).await;
    }
}
