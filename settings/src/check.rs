//! What no single part of the settings shows.

use millrace_config::Config;
use millrace_pricing::PriceTable;
use millrace_rules::RuleSets;
use millrace_schemas::now_millis;

use crate::SettingsError;

type Checked = Result<(), SettingsError>;

/// The rules and prices of a configuration, with everything in it that needs them.
pub(crate) fn read(config: &Config) -> Result<(RuleSets, PriceTable), SettingsError> {
    let rules = RuleSets::load(&config.moderation.rule_sets, config.moderation.rules_file.as_deref())?;
    let prices = match &config.pricing.file {
        Some(file) => PriceTable::load(file)?,
        None => PriceTable::built_in(),
    };
    rule_sets(config, &rules)?;
    models(config, &prices)?;
    currency(config, &prices)?;
    Ok((rules, prices))
}

fn rule_sets(config: &Config, rules: &RuleSets) -> Checked {
    let of_tenants = config.tenants.iter();
    let of_tenants =
        of_tenants.filter_map(|(id, tenant)| Some((format!("tenants.{id}.moderation"), tenant.moderation.as_ref()?)));
    let default = ("moderation.default".to_owned(), &config.moderation.default);
    match std::iter::once(default).chain(of_tenants).find(|(_, name)| !rules.has(name)) {
        Some((key, name)) => Err(SettingsError::RuleSet { key, name: name.clone() }),
        None => Ok(()),
    }
}

/// A model without a price can not be accounted for, so it is not served.
fn models(config: &Config, prices: &PriceTable) -> Checked {
    let now = now_millis();
    for (name, model) in &config.models {
        prices.price(&model.provider, model.upstream_name(name), now)?;
    }
    Ok(())
}

fn currency(config: &Config, prices: &PriceTable) -> Checked {
    for (id, tenant) in &config.tenants {
        let of_users = tenant.users.values().filter_map(|user| user.budget.as_ref());
        let of_keys = tenant.keys.iter().filter_map(|key| key.budget.as_ref());
        let mut budgets = tenant.budget.iter().chain(of_users).chain(of_keys);
        if let Some(budget) = budgets.find(|budget| budget.currency != prices.currency()) {
            return Err(SettingsError::Currency {
                tenant: id.clone(),
                theirs: budget.currency.clone(),
                ours: prices.currency().to_owned(),
            });
        }
    }
    Ok(())
}
