//! Keys that the embedded stack makes for itself.

/// A key of 192 random bits.
pub fn random_key(prefix: &str) -> String {
    let bytes: [u8; 24] = rand::random();
    format!("{prefix}{}", hex::encode(bytes))
}
