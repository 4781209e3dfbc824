//! An instant, written as RFC 3339.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since the epoch; read from RFC 3339 (`2030-01-31T12:00:00Z`) or a number, written as the former.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The instant so many milliseconds after the epoch, whose fraction of a second is cut off.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.div_euclid(1_000))
    }

    /// Milliseconds since the epoch.
    pub fn millis(self) -> i64 {
        self.0.saturating_mul(1_000)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match OffsetDateTime::from_unix_timestamp(self.0).ok().and_then(|at| at.format(&Rfc3339).ok()) {
            Some(text) => f.write_str(&text),
            // Beyond the year 9999.
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is no instant: write RFC 3339, such as 2030-01-31T12:00:00Z");
        if let Ok(seconds) = text.parse() {
            return Self::of_seconds(seconds).ok_or_else(refused);
        }
        OffsetDateTime::parse(text, &Rfc3339).map(|at| Self(at.unix_timestamp())).map_err(|_| refused())
    }
}

impl Timestamp {
    fn of_seconds(seconds: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(seconds).ok().map(|_| Self(seconds))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an instant as RFC 3339 or in seconds since the epoch")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Timestamp, E> {
                Timestamp::of_seconds(seconds).ok_or_else(|| E::custom(format!("{seconds} is beyond the year 9999")))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Timestamp, E> {
                self.visit_i64(i64::try_from(seconds).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_in_both_forms_and_written_in_one() {
        for text in ["2030-01-31T12:00:00Z", "2030-01-31T13:00:00.9+01:00", "1896091200"] {
            let at: Timestamp = text.parse().expect("an instant");
            assert_eq!((at.millis(), at.to_string().as_str()), (1_896_091_200_000, "2030-01-31T12:00:00Z"));
        }
        for bad in ["", "tomorrow", "2030-01-31", "9999999999999"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<Timestamp>("7").expect("seconds").millis(), 7_000);
        assert!(serde_json::from_str::<Timestamp>("99999999999999").is_err());
        assert_eq!(Timestamp::from_millis(-1).millis(), -1_000);
    }
}
