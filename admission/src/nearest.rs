//! The word that was probably meant.

/// More slips than this, and it is another word.
const MOST_SLIPS: usize = 2;

/// The one of `known` that `word` is a slip of the pen away from, whatever its case.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The distance is quadratic: a key of a whole body's length is no slip of the pen.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase();
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(slips, candidate)| *slips <= MOST_SLIPS && *slips < candidate.len().div_ceil(2))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        for slip in ["mesages", "massages", "Messages", "message", "emssages"] {
            assert_eq!(nearest("messages", [slip, "model"]), Some(slip));
        }
        assert_eq!(nearest("messages", ["model", "metadata", "", "n"]), None);
        assert_eq!(nearest("n", ["m", "top_k"]), None);
        assert_eq!(nearest(&"m".repeat(100_000), ["messages"]), None);
    }
}
