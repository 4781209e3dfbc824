//! What a process makes of its configuration, in one value that another configuration replaces as a whole.
//!
//! ```text
//! Config ── Settings::new ───> Settings ── Current::new ──> Current ── now() ──> Arc<Settings>, kept to the end of a request
//! Config ── Settings::next ──> Settings ── Current::replace ──^
//! ```
//!
//! Invariant: settings never change. Whoever judges, prices or calls asks for them once, and so by one configuration.
//!
//! Invariant: settings that can not be used are not made: every rule set compiles, every model has a price, and every name
//! names something.
//!
//! Who somebody is may change at any time and is not part of it: the directory that [`Admission`] asks is shared by all
//! settings of a process.

mod check;
mod current;

use std::sync::Arc;

use millrace_admission::{Admission, Directory};
use millrace_config::Config;
use millrace_pricing::{PriceTable, PricingError};
use millrace_provider::{Providers, ProvidersError, Target};
use millrace_rules::{RuleSets, RulesError};

pub use current::Current;

/// What a process works with.
pub struct Settings {
    /// What may be asked, and by whom.
    pub admission: Admission,
    /// What prompts and answers are held to.
    pub rules: Arc<RuleSets>,
    /// What calls cost.
    pub prices: Arc<PriceTable>,
    /// Where models are; none in a process that calls nobody.
    pub providers: Providers,
    calls: bool,
}

/// Why a configuration can not be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A rule set can not be used, or their file can not be read.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The price table can not be used, or a model has no price: it could not be accounted for.
    #[error(transparent)]
    Prices(#[from] PricingError),
    /// A provider can not be called.
    #[error(transparent)]
    Providers(#[from] ProvidersError),
    /// A rule set is named that is not there.
    #[error(
        "`{key}` names the rule set `{name}`, which is not known; write it in `moderation.rules_file` or `moderation.rule_sets`"
    )]
    RuleSet {
        /// Where it is named.
        key: String,
        /// The set.
        name: String,
    },
    /// A budget could never be held.
    #[error("a budget of tenant `{tenant}` is in {theirs}, and the prices are in {ours}: write it in {ours}")]
    Currency {
        /// Whose.
        tenant: String,
        /// The budget's.
        theirs: String,
        /// The price table's.
        ours: String,
    },
}

impl Settings {
    /// What `config` says. Reads the files that it names. `calls` is false for a process that calls no provider, and may not
    /// have their keys.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(config: &Config, directory: Directory, calls: bool) -> Result<Self, SettingsError> {
        let (rules, prices) = check::read(config)?;
        let providers = if calls { Providers::new(config)? } else { Providers::none() };
        let admission = Admission::new(config, directory);
        Ok(Self { admission, rules: Arc::new(rules), prices: Arc::new(prices), providers, calls })
    }

    /// What another configuration says, for the same process: see [`RuleSets::after`] and [`Providers::next`] for what goes
    /// on.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn next(&self, config: &Config) -> Result<Self, SettingsError> {
        let (rules, prices) = check::read(config)?;
        let rules = Arc::new(rules.after(&self.rules));
        let is_same = config.models == *self.admission.models() && self.providers.are_of(&config.providers);
        let providers = if is_same || !self.calls { self.providers.clone() } else { self.providers.next(config)? };
        let admission = Admission::new(config, self.admission.directory().clone());
        Ok(Self { admission, rules, prices: Arc::new(prices), providers, calls: self.calls })
    }

    /// For who only judges, at the built-in prices.
    #[must_use]
    pub fn judging(admission: Admission, rules: RuleSets) -> Self {
        let prices = Arc::new(PriceTable::built_in());
        Self { admission, rules: Arc::new(rules), prices, providers: Providers::none(), calls: false }
    }

    /// Where a model is; `None` when no model has this name.
    #[must_use]
    pub fn target(&self, model: &str) -> Option<&Target> {
        self.providers.target(model)
    }
}
