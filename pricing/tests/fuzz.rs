//! Price tables as people write them.

use millrace_mutate as mutate;
use millrace_pricing::{PriceTable, PricingError};
use proptest::prelude::*;

const TABLES: &[&str] = &[r#"version = "1"
currency = "USD"
[[price]]
provider = "*"
model = "m"
effective_from = 2030-01-01T00:00:00Z
input_per_million = 1
output_per_million = 2
"#];

proptest! {
    #![proptest_config(mutate::cases(1_000))]

    #[test]
    fn a_table_is_read_or_refused_with_its_place(text in mutate::text(TABLES)) {
        match PriceTable::parse(&text, "prices.toml") {
            Ok(_) => {}
            Err(error @ (PricingError::Syntax { .. } | PricingError::Invalid { .. })) => {
                let said = error.to_string();
                prop_assert!(said.contains("prices.toml") && !said.contains('\n') && said.len() < 1_000, "{said}");
            }
            Err(other) => prop_assert!(false, "of another class: {other}"),
        }
    }
}
