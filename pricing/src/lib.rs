//! What a call costs: integers only, rounded once per line, half to even.
//!
//! Amounts are **nano-units** of the table's currency (10⁻⁹ USD), prices nano-units per **million
//! tokens**. The bounds on both ([`MAX_PRICE`], 32-bit token counts) keep every amount of a call
//! far inside 64 bits, so that pricing a call cannot fail.

mod error;
mod price;
mod table;

pub use crate::error::PricingError;
pub use crate::price::{Amount, Line, LineKind, MAX_PRICE, Price, Rates, Usage};
pub use crate::table::{ANY_PROVIDER, PriceTable};
