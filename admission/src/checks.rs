//! Checks of single values, with OpenAI's codes and wording.

use millrace_schemas::Ended;

use crate::json;
use crate::nearest::nearest;

pub(crate) fn missing<'a>(param: &str, instead: impl IntoIterator<Item = &'a str>) -> Ended {
    let name = param.rsplit('.').next().unwrap_or(param);
    let message = match nearest(name, instead) {
        Some(found) => format!("Missing required parameter: '{param}'. The request has '{found}' instead: rename it."),
        None => format!("Missing required parameter: '{param}'."),
    };
    Ended::invalid("missing_required_parameter", Some(param), message)
}

pub(crate) fn wrong_type(param: &str, expected: &str, found: &str) -> Ended {
    let message = format!("Invalid type for '{param}': expected {expected}, but got {found} instead.");
    Ended::invalid("invalid_type", Some(param), message)
}

/// An integer of `range`; `None` when the member is absent or null.
pub(crate) fn integer(
    param: &str,
    raw: Option<&str>,
    range: std::ops::RangeInclusive<u32>,
) -> Result<Option<u32>, Ended> {
    let Some(raw) = raw.filter(|raw| *raw != "null") else { return Ok(None) };
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if json::kind(raw) != "a number" {
        return Err(wrong_type(param, "an integer", json::kind(raw)));
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong_type(param, "an integer", "a decimal number"));
    }
    // Any other digits are beyond 32 bits.
    let value = raw.parse::<i64>().unwrap_or(if raw.starts_with('-') { i64::MIN } else { i64::MAX });
    if value < i64::from(*range.start()) {
        let message = format!("Invalid '{param}': integer below minimum value. Expected a value >= {}.", range.start());
        return Err(Ended::invalid("integer_below_min_value", Some(param), message));
    }
    match u32::try_from(value).ok().filter(|value| value <= range.end()) {
        Some(value) => Ok(Some(value)),
        None => {
            let message =
                format!("Invalid '{param}': integer above maximum value. Expected a value <= {}.", range.end());
            Err(Ended::invalid("integer_above_max_value", Some(param), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_held_to_their_range() {
        let check = |raw: &str| integer("n", Some(raw), 1..=16).map_err(|e| e.code);
        assert_eq!(check("1"), Ok(Some(1)));
        assert_eq!(check("16"), Ok(Some(16)));
        assert_eq!(check("null"), Ok(None));
        assert_eq!(integer("n", None, 1..=16), Ok(None));
        for low in ["0", "-1", "-99999999999999999999", "-0"] {
            assert_eq!(check(low), Err("integer_below_min_value".to_owned()), "{low}");
        }
        for high in ["17", "4294967297", "99999999999999999999"] {
            assert_eq!(check(high), Err("integer_above_max_value".to_owned()), "{high}");
        }
        for other in ["1.0", "1e0", "\"1\"", "true", "[]", "{}"] {
            assert_eq!(check(other), Err("invalid_type".to_owned()), "{other}");
        }
    }
}
