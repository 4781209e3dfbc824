//! Values that must never be printed.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash_key;

/// What is shown in place of a secret, everywhere.
pub const HIDDEN: &str = "***";

/// The newtype name by which the layered loader recognises a secret: it then also accepts
/// `{ env = "NAME" }` and `{ file = "path" }`, which a plain deserializer cannot resolve.
pub(crate) const SECRET: &str = "$millrace::Secret";
/// The same for an optional secret, which the loader may withhold (see `Config::load_withholding`).
pub(crate) const OPTIONAL_SECRET: &str = "$millrace::OptionalSecret";

thread_local! {
    static AS_DIGESTS: Cell<bool> = const { Cell::new(false) };
}

/// Has what `then` serializes hold the digests of secrets, by which it can be told whether they changed.
pub(crate) fn as_digests<T>(then: impl FnOnce() -> T) -> T {
    struct Hide;

    impl Drop for Hide {
        fn drop(&mut self) {
            AS_DIGESTS.set(false);
        }
    }

    let _hide = Hide;
    AS_DIGESTS.set(true);
    then()
}

/// What is serialized for a secret, in place of which people see `hidden`.
pub(crate) fn serialized<'a>(secret: &str, hidden: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
    if AS_DIGESTS.get() { hash_key(secret).into() } else { hidden.into() }
}

/// A password, key or token. `Debug`, `Display` and `Serialize` print `***`; only
/// [`expose`](Self::expose) gives the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value that must not be printed.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Call it only where the value is sent or hashed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&serialized(&self.0, HIDDEN))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SECRET, SecretVisitor)
    }
}

struct SecretVisitor;

impl<'de> Visitor<'de> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, { env = \"NAME\" } or { file = \"path\" }")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Secret, E> {
        if value == HIDDEN {
            return Err(E::custom("is the hidden form of a secret, from a dump; put the real one here"));
        }
        if value.is_empty() {
            return Err(E::custom("is empty; give the secret or remove the key"));
        }
        Ok(Secret(value.to_owned()))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Secret, D::Error> {
        inner.deserialize_str(self)
    }
}

/// `deserialize_with` for an optional secret. A plain `Option<Secret>` hides from the loader that
/// a secret is meant, and then it could not be withheld.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    struct OptionalVisitor;

    impl<'de> Visitor<'de> for OptionalVisitor {
        type Value = Option<Secret>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            SecretVisitor.expecting(f)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
            SecretVisitor.visit_str(value).map(Some)
        }

        fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
            inner.deserialize_any(self)
        }
    }

    deserializer.deserialize_newtype_struct(OPTIONAL_SECRET, OptionalVisitor)
}

#[derive(Deserialize)]
struct Item(#[serde(deserialize_with = "optional")] Option<Secret>);

/// `deserialize_with` for a list of secrets, each of which the loader may withhold: then it is left out.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    Ok(Vec::<Item>::deserialize(deserializer)?.into_iter().filter_map(|item| item.0).collect())
}

/// The same for secrets by their names.
pub(crate) fn map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Secret>, D::Error> {
    let items = BTreeMap::<String, Item>::deserialize(deserializer)?;
    Ok(items.into_iter().filter_map(|(name, item)| Some((name, item.0?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_nowhere() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn other_deserializers_take_a_plain_string() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn the_hidden_form_is_refused() {
        let error = serde_json::from_str::<Secret>("\"***\"").unwrap_err().to_string();
        assert!(error.contains("hidden form"), "{error}");
    }
}
