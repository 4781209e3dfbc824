//! How much a tenant or a user may be charged.

use serde::{Deserialize, Serialize};

/// A billionth of the currency's unit is the smallest amount.
const DIGITS: usize = 9;

/// A budget.
// Kept on a topic, too, where a member that is not known here may be next month's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetConfig {
    /// In units of the currency with up to nine decimals, such as `"25.00"`.
    pub amount: String,
    /// ISO 4217; that of the prices. Default `USD`.
    #[serde(default = "BudgetConfig::default_currency")]
    pub currency: String,
    /// What it is for. Default: every month anew.
    #[serde(default)]
    pub period: BudgetPeriod,
}

/// When a budget begins anew, by the clock of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetPeriod {
    /// At midnight.
    Day,
    /// On the first of a month.
    #[default]
    Month,
    /// Never.
    Total,
}

impl BudgetConfig {
    fn default_currency() -> String {
        "USD".to_owned()
    }

    /// The amount in nano-units.
    ///
    /// # Errors
    /// One sentence that says what to write.
    pub fn nanos(&self) -> Result<i64, String> {
        let wrong = || format!("is `{}`; write an amount such as \"25.00\", with at most nine decimals", self.amount);
        let (whole, decimals) = self.amount.split_once('.').unwrap_or((&self.amount, "0"));
        let is_number = |digits: &str| !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || decimals.len() > DIGITS {
            return Err(wrong());
        }
        format!("{whole}{decimals:0<DIGITS$}").parse().map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_exact_to_the_nano_unit() {
        let check = |amount: &str, expected: Option<i64>| {
            let budget: BudgetConfig = toml::from_str(&format!("amount = {amount:?}")).expect("a budget");
            assert_eq!((budget.currency.as_str(), budget.period), ("USD", BudgetPeriod::Month));
            assert_eq!(budget.nanos().ok(), expected, "{amount}");
        };
        check("25.00", Some(25_000_000_000));
        check("0", Some(0));
        check("0.000000001", Some(1));
        check("9223372036.854775807", Some(i64::MAX));
        for wrong in ["", ".5", "5.", "-1", "1e3", "0.0000000001", "9223372036.854775808", "1,5", "1.-5", "+1"] {
            check(wrong, None);
        }
    }
}
