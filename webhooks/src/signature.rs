//! Signatures by Standard Webhooks, version 1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The header `webhook-signature`: one signature for each key, separated by spaces. `timestamp` is in
/// seconds since the epoch.
pub(crate) fn header(keys: &[&[u8]], id: &str, timestamp: i64, payload: &str) -> String {
    keys.iter().map(|key| sign(key, id, timestamp, payload)).collect::<Vec<_>>().join(" ")
}

fn sign(key: &[u8], id: &str, timestamp: i64, payload: &str) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(format!("{id}.{timestamp}.{payload}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the standard's own libraries are tested with.
    #[test]
    fn signs_as_the_standards_libraries_do() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let payload = r#"{"test": 2432232314}"#;
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(header(&[&key], id, timestamp, payload), expected);
        let two = header(&[&key, &[7; 32]], id, timestamp, payload);
        let (first, second) = two.split_once(' ').unwrap();
        assert_eq!(first, expected);
        assert!(second.starts_with("v1,") && second != expected);
    }
}
