//! The price table: rows with dates.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, de};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use crate::PricingError;
use crate::price::{MAX_PRICE, Price, Rates};

/// In place of a provider's name: any provider. A row that names the provider wins over it.
pub const ANY_PROVIDER: &str = "*";

/// All prices, by model and date.
#[derive(Clone, Debug)]
pub struct PriceTable {
    version: String,
    currency: String,
    source: String,
    /// By model, then provider; each list from the newest row to the oldest.
    rows: HashMap<String, HashMap<String, Vec<Price>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    version: String,
    currency: String,
    #[serde(default)]
    price: Vec<RawPrice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrice {
    provider: String,
    model: String,
    #[serde(deserialize_with = "millis")]
    effective_from: i64,
    input_per_million: i64,
    cached_input_per_million: Option<i64>,
    output_per_million: i64,
    charge_input_per_million: Option<i64>,
    charge_cached_input_per_million: Option<i64>,
    charge_output_per_million: Option<i64>,
}

impl PriceTable {
    /// The table of the simulated models.
    pub fn built_in() -> Self {
        Self::parse(include_str!("../prices.toml"), "the built-in price table").expect("a test reads it")
    }

    /// Reads a table from a file.
    ///
    /// # Errors
    /// When the file cannot be read or is no price table.
    pub fn load(path: &Path) -> Result<Self, PricingError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| PricingError::Unreadable { path: name.clone(), reason: error.to_string() })?;
        Self::parse(&text, &name)
    }

    /// Reads a table from TOML; `source` names it in errors.
    ///
    /// # Errors
    /// When it is no price table: the line or row, and what is wrong with it.
    pub fn parse(text: &str, source: &str) -> Result<Self, PricingError> {
        let raw: RawTable = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            PricingError::Syntax {
                path: source.to_owned(),
                line: text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1,
                reason: error.message().lines().collect::<Vec<_>>().join(" "),
            }
        })?;
        let invalid = |place: String, reason: &str| {
            Err(PricingError::Invalid { path: source.to_owned(), place, reason: reason.to_owned() })
        };
        if raw.version.is_empty() || raw.version.len() > 64 {
            return invalid("version".to_owned(), "must have 1 to 64 characters, and change with the table");
        }
        if raw.currency.len() != 3 || !raw.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return invalid("currency".to_owned(), "must be three capitals, such as USD");
        }
        let mut rows: HashMap<String, HashMap<String, Vec<Price>>> = HashMap::new();
        for (index, row) in raw.price.into_iter().enumerate() {
            let place = format!("price {} (`{}` of `{}`)", index + 1, row.model, row.provider);
            if row.provider.is_empty() || row.model.is_empty() {
                return invalid(place, "needs a provider (or \"*\") and a model");
            }
            let price = row.price();
            let Rates { input, cached_input, output } = price.cost;
            let Rates { input: charge_input, cached_input: charge_cached, output: charge_output } = price.charge;
            if [input, cached_input, output, charge_input, charge_cached, charge_output]
                .iter()
                .any(|rate| !(0..=MAX_PRICE).contains(rate))
            {
                return invalid(
                    place,
                    &format!("every price must be from 0 to {MAX_PRICE} nano-units per million tokens"),
                );
            }
            let dated = rows.entry(price.model.clone()).or_default().entry(price.provider.clone()).or_default();
            match dated.binary_search_by(|other| price.effective_from_ms.cmp(&other.effective_from_ms)) {
                Ok(_) => return invalid(place, "has the date of an earlier row; give it another effective_from"),
                Err(position) => dated.insert(position, price),
            }
        }
        Ok(Self { version: raw.version, currency: raw.currency, source: source.to_owned(), rows })
    }

    /// Names the table's content; written into every call.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The currency of all amounts, ISO 4217.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// The newest row for this model, by its name at the provider, that is effective at that time
    /// (milliseconds since 1970).
    pub fn lookup(&self, provider: &str, model: &str, at_millis: i64) -> Option<&Price> {
        let providers = self.rows.get(model)?;
        [provider, ANY_PROVIDER]
            .iter()
            .filter_map(|name| providers.get(*name))
            .find_map(|dated| dated.iter().find(|price| price.effective_from_ms <= at_millis))
    }

    /// [`lookup`](Self::lookup) for those who cannot go on without a price.
    ///
    /// # Errors
    /// When there is none: the model, the table, and what to add.
    pub fn price(&self, provider: &str, model: &str, at_millis: i64) -> Result<&Price, PricingError> {
        self.lookup(provider, model, at_millis).ok_or_else(|| PricingError::NoPrice {
            path: self.source.clone(),
            provider: provider.to_owned(),
            model: model.to_owned(),
            at: OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_millis) * 1_000_000)
                .ok()
                .and_then(|time| time.format(&Rfc3339).ok())
                .unwrap_or_else(|| format!("{at_millis} ms")),
        })
    }
}

impl RawPrice {
    fn price(self) -> Price {
        let cost = Rates {
            input: self.input_per_million,
            cached_input: self.cached_input_per_million.unwrap_or(self.input_per_million),
            output: self.output_per_million,
        };
        let charge_input = self.charge_input_per_million.unwrap_or(cost.input);
        let charge = Rates {
            input: charge_input,
            // Without a price of its own, cached input is input to the customer too.
            cached_input: self
                .charge_cached_input_per_million
                .or(self.cached_input_per_million)
                .unwrap_or(charge_input),
            output: self.charge_output_per_million.unwrap_or(cost.output),
        };
        Price { provider: self.provider, model: self.model, effective_from_ms: self.effective_from, cost, charge }
    }
}

/// A date or time, as a string or as TOML's own, in milliseconds since 1970.
fn millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text,
        toml::Value::Datetime(datetime) => datetime.to_string(),
        toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => return Err(de::Error::custom(NO_DATE)),
    };
    let date = Date::parse(&text, format_description!("[year]-[month]-[day]"));
    let time = match date {
        Ok(date) => date.midnight().assume_utc(),
        Err(_) => OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| de::Error::custom(NO_DATE))?,
    };
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(de::Error::custom)
}

const NO_DATE: &str = "effective_from must be a date such as 2026-07-01, or a time such as 2026-07-01T12:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Amount, Usage};

    const DAY: i64 = 86_400_000;
    const HEAD: &str = "version = \"1\"\ncurrency = \"USD\"\n";

    fn row(provider: &str, from: &str, input: i64, more: &str) -> String {
        format!(
            "[[price]]\nprovider = \"{provider}\"\nmodel = \"m\"\neffective_from = {from}\n\
             input_per_million = {input}\noutput_per_million = 9\n{more}\n"
        )
    }

    fn table(rows: &[String]) -> PriceTable {
        PriceTable::parse(&format!("{HEAD}{}", rows.concat()), "prices.toml").unwrap()
    }

    #[test]
    fn the_built_in_table_has_the_simulated_models() {
        let table = PriceTable::built_in();
        assert_eq!((table.version(), table.currency()), ("built-in-1", "USD"));
        let now = 20_000 * DAY;
        let usage = Usage { input_tokens: 1_000, cached_input_tokens: 200, output_tokens: 100 };
        let cost = |model| Amount::total(&table.price("any", model, now).unwrap().lines(usage)).cost_nanos;
        assert_eq!(cost("sim-small"), 800 * 150 + 200 * 75 + 100 * 600);
        assert_eq!(cost("sim-large"), 800 * 2_500 + 200 * 1_250 + 100 * 10_000);
        assert_eq!(cost("sim-embed"), 1_000 * 20);
    }

    #[test]
    fn the_newest_row_that_is_effective_holds() {
        // Days 19358, 19359 and, at noon, 19360, in another order.
        let table = table(&[
            row("p", "\"2023-01-02\"", 2, ""),
            row("p", "2023-01-03T14:00:00+02:00", 3, ""),
            row("p", "2023-01-01", 1, ""),
            row("*", "1970-01-01", 4, ""),
        ]);
        let input = |provider: &str, at: i64| table.lookup(provider, "m", at).map(|price| price.cost.input);
        assert_eq!(input("p", 19_358 * DAY - 1), Some(4), "before its first row, the row for any provider");
        assert_eq!(input("p", 19_358 * DAY), Some(1));
        assert_eq!(input("p", 19_359 * DAY - 1), Some(1));
        assert_eq!(input("p", 19_359 * DAY), Some(2));
        assert_eq!(input("p", 19_360 * DAY + DAY / 2 - 1), Some(2));
        assert_eq!(input("p", 19_360 * DAY + DAY / 2), Some(3));
        assert_eq!(input("p", i64::MAX), Some(3));
        assert_eq!(input("q", 0), Some(4));
        assert_eq!(input("q", -1), None);
        assert_eq!(table.lookup("p", "other", i64::MAX), None);
    }

    #[test]
    fn a_missing_price_names_model_and_table() {
        let message = table(&[]).price("p", "m", 19_358 * DAY).unwrap_err().to_string();
        assert_eq!(
            message,
            "no price for the model `m` of provider `p` at 2023-01-01T00:00:00Z in prices.toml; \
             add a [[price]] row for it that is effective by then"
        );
        assert!(table(&[]).price("p", "m", i64::MAX).unwrap_err().to_string().contains(" ms in prices.toml"));
    }

    #[test]
    fn what_is_not_said_follows_from_what_is() {
        let check = |more: &str, cost: [i64; 3], charge: [i64; 3]| {
            let table = table(&[row("p", "2020-01-01", 5, more)]);
            let price = table.lookup("p", "m", i64::MAX).unwrap();
            let list = |rates: Rates| [rates.input, rates.cached_input, rates.output];
            assert_eq!((list(price.cost), list(price.charge)), (cost, charge), "{more}");
        };
        check("", [5, 5, 9], [5, 5, 9]);
        check("cached_input_per_million = 2", [5, 2, 9], [5, 2, 9]);
        check("charge_input_per_million = 6", [5, 5, 9], [6, 6, 9]);
        check("charge_input_per_million = 6\ncached_input_per_million = 2", [5, 2, 9], [6, 2, 9]);
        check("charge_cached_input_per_million = 3\ncharge_output_per_million = 10", [5, 5, 9], [5, 3, 10]);
    }

    #[test]
    fn what_is_no_price_table_is_refused() {
        let check = |text: String, parts: &[&str]| {
            let message = PriceTable::parse(&text, "prices.toml").unwrap_err().to_string();
            assert!(message.starts_with("prices.toml") && !message.contains('\n'), "{message}");
            for part in parts {
                assert!(message.contains(part), "`{part}` is not in: {message}");
            }
        };
        check("version = \"1\"\n".into(), &["currency"]);
        check("version = \"\"\ncurrency = \"USD\"".into(), &["version", "1 to 64"]);
        check("version = \"1\"\ncurrency = \"usd\"".into(), &["currency", "three capitals"]);
        check(format!("{HEAD}{}", row("p", "2020-01-01", -1, "")), &["price 1 (`m` of `p`)", "from 0 to"]);
        check(format!("{HEAD}{}", row("p", "2020-01-01", MAX_PRICE + 1, "")), &["from 0 to"]);
        check(format!("{HEAD}{}", row("p", "2020-01-01", 1, "charge_output_per_million = -1")), &["from 0 to"]);
        check(format!("{HEAD}{}", row("", "2020-01-01", 1, "")), &["needs a provider"]);
        check(format!("{HEAD}{}", row("p", "\"yesterday\"", 1, "")), &["line", "a date such as 2026-07-01"]);
        check(format!("{HEAD}{}", row("p", "2020-01-01T10:00:00", 1, "")), &["a date such as"]);
        check(format!("{HEAD}{}", row("p", "2020-01-01", 1, "input = 1")), &["line 9", "unknown field"]);
        check(format!("{HEAD}{}", row("p", "2020-01-01", 1, "cached_input_per_million = 0.5")), &["line 9"]);
        let twice = [row("p", "2020-01-01", 1, ""), row("p", "2020-01-01T00:00:00Z", 2, "")];
        check(format!("{HEAD}{}", twice.concat()), &["price 2", "another effective_from"]);
        check("]".into(), &["line 1"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.toml");
        assert!(PriceTable::load(&path).unwrap_err().to_string().contains("check `pricing.file`"));
        std::fs::write(&path, HEAD).unwrap();
        assert_eq!(PriceTable::load(&path).unwrap().version(), "1");
    }
}
