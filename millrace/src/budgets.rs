//! Who follows budgets, and where they come from. Whether a tenant has one is asked for every decision.

use std::sync::Arc;

use anyhow::{Context, ensure};
use millrace_admission::Directory;
use millrace_budgets::{BudgetMetrics, Budgets, Caller};
use millrace_config::Config;
use millrace_cost_ledger::Counting;
use millrace_pricing::PriceTable;
use millrace_schemas::Codec;
use millrace_telemetry::Readiness;
use tokio_util::sync::CancellationToken;

use crate::services::Service;

/// A budget in another currency than the prices could never be held.
pub fn check_currency(config: &Config, prices: &PriceTable) -> anyhow::Result<()> {
    for (id, tenant) in &config.tenants {
        let of_users = tenant.users.values().filter_map(|user| user.budget.as_ref());
        let of_keys = tenant.keys.iter().filter_map(|key| key.budget.as_ref());
        for budget in tenant.budget.iter().chain(of_users).chain(of_keys) {
            let (theirs, ours) = (&budget.currency, prices.currency());
            ensure!(
                theirs == ours,
                "a budget of tenant `{id}` is in {theirs}, and the prices are in {ours}: write it in {ours}"
            );
        }
    }
    Ok(())
}

/// Follows the topic when one of `services` needs it.
pub fn follow(
    config: &Config,
    services: &[Service],
    prices: &PriceTable,
    (directory, codec): (Directory, &Codec),
    (metrics, readiness): (&BudgetMetrics, &Readiness),
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Budgets>> {
    let Some(service) = services.iter().find(|service| holds_budgets(**service)) else { return Ok(None) };
    check_currency(config, prices)?;
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
        Service::InferenceRouter | Service::Ingress => true,
        Service::PromptBuilder
        | Service::Moderator
        | Service::ResultSink
        | Service::Webhooks
        | Service::CostLedger
        | Service::Indexer
        | Service::SimulatedProvider => false,
    }
}
