//! The price of one model, and what a call costs by it.

use std::fmt;

/// Tokens that a price is for.
const PER: i128 = 1_000_000;

/// The highest price of a million tokens, in nano-units: 10,000 units of the currency. With it, a
/// line of 2³² tokens stays under 4.3 × 10¹⁶ nano-units, and hundreds of such calls under 2⁶³.
pub const MAX_PRICE: i64 = 10_000_000_000_000;

/// What a provider says a call used, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// All tokens of the prompt, those from the cache included.
    pub input_tokens: u32,
    /// Those of them that came from the provider's cache.
    pub cached_input_tokens: u32,
    /// Tokens of the answer, hidden reasoning included.
    pub output_tokens: u32,
}

impl Usage {
    /// From the counts of a provider's answer, which may be any number: what does not fit is taken
    /// for the largest that does.
    pub fn saturating(input_tokens: u64, cached_input_tokens: u64, output_tokens: u64) -> Self {
        let fit = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            input_tokens: fit(input_tokens),
            cached_input_tokens: fit(cached_input_tokens),
            output_tokens: fit(output_tokens),
        }
    }
}

/// Nano-units per million tokens, each from 0 to [`MAX_PRICE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Tokens of the prompt.
    pub input: i64,
    /// Tokens of the prompt from the provider's cache.
    pub cached_input: i64,
    /// Tokens of the answer.
    pub output: i64,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// The provider's name in the configuration, or `*`.
    pub provider: String,
    /// The model's name at the provider.
    pub model: String,
    /// From when the row holds, in milliseconds since 1970.
    pub effective_from_ms: i64,
    /// What the provider takes.
    pub cost: Rates,
    /// What the customer pays.
    pub charge: Rates,
}

/// What was bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LineKind {
    /// Tokens of the prompt that the provider read anew.
    Input,
    /// Tokens of the prompt from the provider's cache.
    CachedInput,
    /// Tokens of the answer.
    Output,
}

impl LineKind {
    /// Its name in records and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::Output => "output",
        }
    }
}

impl fmt::Display for LineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of a call's bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What was bought.
    pub kind: LineKind,
    /// How many tokens of it; never 0.
    pub quantity: u32,
    /// What the provider takes for a million, in nano-units.
    pub unit_price: i64,
    /// What the customer pays for a million, in nano-units.
    pub unit_charge: i64,
    /// What the provider takes for the line, in nano-units.
    pub cost_nanos: i64,
    /// What the customer pays for the line, in nano-units.
    pub charge_nanos: i64,
}

/// A cost and the charge for it, in nano-units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// What the provider takes.
    pub cost_nanos: i64,
    /// What the customer pays.
    pub charge_nanos: i64,
}

impl Amount {
    /// The sum of a call's lines. Nothing is rounded again.
    pub fn total(lines: &[Line]) -> Self {
        lines.iter().fold(Self::default(), |sum, line| Self {
            cost_nanos: sum.cost_nanos + line.cost_nanos,
            charge_nanos: sum.charge_nanos + line.charge_nanos,
        })
    }
}

impl Price {
    /// The bill of a call, at most one line of each kind, each rounded once. More cached tokens
    /// than tokens count as all of them.
    pub fn lines(&self, usage: Usage) -> Vec<Line> {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        [
            (LineKind::Input, usage.input_tokens - cached, self.cost.input, self.charge.input),
            (LineKind::CachedInput, cached, self.cost.cached_input, self.charge.cached_input),
            (LineKind::Output, usage.output_tokens, self.cost.output, self.charge.output),
        ]
        .into_iter()
        .filter(|(_, quantity, ..)| *quantity > 0)
        .map(|(kind, quantity, unit_price, unit_charge)| Line {
            kind,
            quantity,
            unit_price,
            unit_charge,
            cost_nanos: half_even(quantity, unit_price),
            charge_nanos: half_even(quantity, unit_charge),
        })
        .collect()
    }

    /// The most that a call can cost whose prompt and answer have at most so many tokens, however
    /// much of the prompt was cached: what is reserved before it is sent.
    pub fn upper_bound(&self, prompt_tokens: u32, max_output_tokens: u32) -> Amount {
        let bound = |rates: &Rates| {
            // The prompt may be two lines, each rounded up by half a nano-unit at most.
            let prompt = down(prompt_tokens, rates.input.max(rates.cached_input)) + i64::from(prompt_tokens > 0);
            let output = down(max_output_tokens, rates.output);
            let is_cut = i128::from(max_output_tokens) * i128::from(rates.output) % PER != 0;
            prompt + output + i64::from(is_cut)
        };
        Amount { cost_nanos: bound(&self.cost), charge_nanos: bound(&self.charge) }
    }
}

const FITS: &str = "2^32 tokens at the highest price stay under 2^63";

fn down(quantity: u32, price: i64) -> i64 {
    i64::try_from(i128::from(quantity) * i128::from(price) / PER).expect(FITS)
}

/// Quantity times price per million, to the nearest nano-unit, halves to the even one. Prices are
/// never negative.
fn half_even(quantity: u32, price: i64) -> i64 {
    let exact = i128::from(quantity) * i128::from(price);
    let (whole, rest) = (exact / PER, exact % PER);
    let is_up = match (rest * 2).cmp(&PER) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => whole % 2 == 1,
        std::cmp::Ordering::Greater => true,
    };
    i64::try_from(whole + i128::from(is_up)).expect(FITS)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn price(cost: Rates, charge: Rates) -> Price {
        Price { provider: "p".to_owned(), model: "m".to_owned(), effective_from_ms: 0, cost, charge }
    }

    fn flat(rate: i64) -> Rates {
        Rates { input: rate, cached_input: rate, output: rate }
    }

    fn check(quantity: u32, per_million: i64, expected: i64) {
        assert_eq!(half_even(quantity, per_million), expected, "{quantity} at {per_million}");
    }

    #[test]
    fn halves_go_to_the_even_one() {
        check(1, 499_999, 0);
        check(1, 500_000, 0);
        check(1, 500_001, 1);
        check(1, 1_499_999, 1);
        check(1, 1_500_000, 2);
        check(1, 2_500_000, 2);
        check(3, 500_000, 2);
        check(5, 500_000, 2);
        check(0, MAX_PRICE, 0);
        check(u32::MAX, 0, 0);
        check(1_000, 150_000_000, 150_000);
        check(u32::MAX, MAX_PRICE, 42_949_672_950_000_000);
    }

    /// Mixes tiny, round and huge numbers, where rounding goes wrong.
    fn some(random: &mut StdRng, most: i64) -> i64 {
        match random.random_range(0..4) {
            0 => random.random_range(0..=most.min(10)),
            1 => random.random_range(0..=most / 500_000) * 500_000 % (most + 1),
            2 => most - random.random_range(0..=most.min(3)),
            _ => random.random_range(0..=most),
        }
    }

    fn some_usage(random: &mut StdRng) -> Usage {
        let mut tokens = || u32::try_from(some(random, i64::from(u32::MAX))).expect("within u32");
        let (input, cached, output) = (tokens(), tokens(), tokens());
        Usage { input_tokens: input, cached_input_tokens: cached % (input.saturating_add(2)), output_tokens: output }
    }

    fn some_rates(random: &mut StdRng) -> Rates {
        let mut rate = || some(random, MAX_PRICE);
        Rates { input: rate(), cached_input: rate(), output: rate() }
    }

    /// The definition: no integer is nearer to the exact quotient, and of two that are equally near
    /// it is the even one.
    fn assert_nearest(quantity: u32, per_million: i64, amount: i64) {
        let exact = i128::from(quantity) * i128::from(per_million);
        let distance = (i128::from(amount) * PER - exact).abs() * 2;
        assert!(distance <= PER, "{quantity} at {per_million} is not {amount}");
        assert!(distance < PER || amount % 2 == 0, "{quantity} at {per_million}: {amount} is the odd one");
    }

    #[test]
    fn every_line_is_the_nearest_amount_and_lines_add_up() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..200_000 {
            let usage = some_usage(&mut random);
            let price = price(some_rates(&mut random), some_rates(&mut random));
            let lines = price.lines(usage);
            for line in &lines {
                assert_nearest(line.quantity, line.unit_price, line.cost_nanos);
                assert_nearest(line.quantity, line.unit_charge, line.charge_nanos);
                assert!(line.quantity > 0);
            }
            let quantity: u64 = lines.iter().map(|line| u64::from(line.quantity)).sum();
            assert_eq!(quantity, u64::from(usage.input_tokens) + u64::from(usage.output_tokens), "{usage:?}");
            let total = Amount::total(&lines);
            assert_eq!(total.cost_nanos, lines.iter().map(|line| line.cost_nanos).sum::<i64>());
            assert_eq!(total.charge_nanos, lines.iter().map(|line| line.charge_nanos).sum::<i64>());
            let bound = price.upper_bound(usage.input_tokens, usage.output_tokens);
            assert!(total.cost_nanos <= bound.cost_nanos, "{usage:?} {price:?}");
            assert!(total.charge_nanos <= bound.charge_nanos, "{usage:?} {price:?}");
        }
    }

    #[test]
    fn an_upper_bound_is_hardly_above_the_amount() {
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..10_000 {
            let usage = Usage { cached_input_tokens: 0, ..some_usage(&mut random) };
            let price = price(flat(some(&mut random, MAX_PRICE)), flat(0));
            let bound = price.upper_bound(usage.input_tokens, usage.output_tokens).cost_nanos;
            assert!(bound - Amount::total(&price.lines(usage)).cost_nanos <= 2, "{usage:?} {price:?}");
        }
    }

    #[test]
    fn two_prompt_lines_rounded_up_stay_under_the_bound() {
        let price = price(flat(1_500_000), flat(1_500_000));
        let usage = Usage { input_tokens: 2, cached_input_tokens: 1, output_tokens: 0 };
        assert_eq!(Amount::total(&price.lines(usage)).cost_nanos, 4);
        assert_eq!(price.upper_bound(2, 0).cost_nanos, 4);
    }

    #[test]
    fn cached_tokens_have_their_own_price_and_never_exceed_the_prompt() {
        let rates = Rates { input: 10_000_000, cached_input: 1_000_000, output: 100_000_000 };
        let price = price(rates, flat(0));
        let bill = |input, cached, output| -> Vec<(&str, u32, i64)> {
            price
                .lines(Usage::saturating(input, cached, output))
                .iter()
                .map(|line| (line.kind.as_str(), line.quantity, line.cost_nanos))
                .collect()
        };
        assert_eq!(bill(7, 3, 2), [("input", 4, 40), ("cached_input", 3, 3), ("output", 2, 200)]);
        assert_eq!(bill(7, 9, 0), [("cached_input", 7, 7)]);
        assert_eq!(bill(0, 0, 0), []);
        assert_eq!(bill(u64::MAX, 0, 0), [("input", u32::MAX, 42_949_672_950)]);
    }
}
