//! Embeddings without a model: hashed bags of words.
//!
//! Each word adds its own direction, a function of the word alone, and its beginning another, so
//! that texts that share words or stems are near each other and texts that share none are not.

use crate::dice::Digester;

/// Numbers that one feature touches; several, so that two words rarely cancel out.
const SPREAD: usize = 8;
/// Words shorter than this say little about a text.
const SHORT: usize = 4;
const SHORT_WEIGHT: f32 = 0.25;
/// How many characters of a word count as its stem, and how much a shared stem weighs.
const STEM: usize = 5;
const STEM_WEIGHT: f32 = 0.5;

/// The embedding of `text`: `dimensions` numbers of length 1 together.
pub(crate) fn embed(text: &str, dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0.0; dimensions];
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word = word.to_lowercase();
        let length = word.chars().count();
        let weight = if length < SHORT { SHORT_WEIGHT } else { 1.0 };
        add(&mut vector, "word", &word, weight);
        let stem: String = word.chars().take(STEM).collect();
        add(&mut vector, "stem", &stem, weight * STEM_WEIGHT);
    }
    if !normalise(&mut vector) {
        // No words at all, or (hardly ever) words that cancel out: the text is its own feature.
        vector.fill(0.0);
        add(&mut vector, "text", text, 1.0);
        if !normalise(&mut vector) {
            vector[0] = 1.0;
        }
    }
    vector
}

fn add(vector: &mut [f32], kind: &str, feature: &str, weight: f32) {
    let mut digester = Digester::new(0);
    digester.part(kind.as_bytes()).part(feature.as_bytes());
    let mut dice = digester.finish().dice();
    for _ in 0..SPREAD {
        let index = dice.below(vector.len());
        vector[index] += if dice.below(2) == 0 { weight } else { -weight };
    }
}

fn normalise(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length < 1e-6 {
        return false;
    }
    for x in vector {
        *x /= length;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn similarity(left: &str, right: &str) -> f32 {
        embed(left, 384).iter().zip(embed(right, 384)).map(|(l, r)| l * r).sum()
    }

    #[test]
    fn texts_that_share_words_are_near() {
        let question = "How do I reset my password?";
        let same = similarity(question, question);
        let near = similarity(question, "To reset a forgotten password, open the settings.");
        let stem = similarity(question, "Resetting passwords takes a minute.");
        let far = similarity(question, "Volcanoes form where tectonic plates meet.");
        assert!((same - 1.0).abs() < 1e-5);
        assert!(same > near && near > far + 0.2, "{same} {near} {far}");
        assert!(stem > far + 0.1, "{stem} {far}");
    }

    #[test]
    fn every_text_has_length_one_in_any_dimension() {
        for text in ["", " ", "?!", "a", "日本語", "one two three"] {
            for dimensions in [1, 2, 384] {
                let length: f32 = embed(text, dimensions).iter().map(|x| x * x).sum();
                assert!((length - 1.0).abs() < 1e-4, "{text:?} {dimensions} {length}");
            }
        }
    }
}
