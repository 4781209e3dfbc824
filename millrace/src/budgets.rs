//! Who follows budgets, and where they come from. Whether a tenant has one is asked for every decision.

use std::sync::Arc;

use anyhow::Context;
use millrace_admission::Directory;
use millrace_budgets::{BudgetMetrics, Budgets, Caller};
use millrace_config::Config;
use millrace_cost_ledger::Counting;
use millrace_schemas::Codec;
use millrace_telemetry::Readiness;
use tokio_util::sync::CancellationToken;

use crate::services::Service;

/// Follows the topic when one of `services` needs it.
pub fn follow(
    config: &Config,
    services: &[Service],
    (directory, codec): (Directory, &Codec),
    (metrics, readiness): (&BudgetMetrics, &Readiness),
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Budgets>> {
    let Some(service) = services.iter().find(|service| holds_budgets(**service)) else { return Ok(None) };
    let limits = directory.clone();
    let limits = move |caller: Caller<'_>| limits.budgets_of(caller.tenant, caller.user, caller.key_id);
    let budgets = Budgets::new(Arc::new(limits), metrics.clone());
    let flag = readiness.register("budgets");
    let in_use: Arc<dyn Fn() -> bool + Send + Sync> = Arc::new(move || directory.has_budgets());
    millrace_budgets::follow(
        &config.kafka,
        &format!("{}.budgets", service.name()),
        codec.clone(),
        budgets.clone(),
        services.contains(&Service::InferenceRouter).then_some(in_use),
        Box::new(move |ready, why| flag.set(ready, why)),
        shutdown.clone(),
    )
    .context("no thread for the budgets")?;
    Ok(Some(budgets))
}

/// What the ledger counts.
pub fn counting(directory: &Directory) -> Counting {
    let (listed, directory) = (directory.clone(), directory.clone());
    Counting {
        listed: Arc::new(move |tenant, account| listed.counts(tenant, account)),
        in_use: Arc::new(move || directory.has_budgets()),
    }
}

fn holds_budgets(service: Service) -> bool {
    match service {
        Service::InferenceRouter | Service::Ingress | Service::PromptBuilder | Service::Indexer => true,
        Service::Moderator
        | Service::ResultSink
        | Service::Webhooks
        | Service::CostLedger
        | Service::SimulatedProvider => false,
    }
}
