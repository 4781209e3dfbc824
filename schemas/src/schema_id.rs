//! Which schema of the registry a record was written with, as Confluent's serializers say it: a zero byte
//! and the id (four bytes, big endian), or a byte of one and the schema's GUID (16 bytes). Either stands
//! before the datum or in a header of its own.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use uuid::Uuid;

use crate::codec::{CodecError, RegistryAccess};

/// A schema's name in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SchemaId {
    Number(u32),
    Guid(Uuid),
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Guid(guid) => guid.fmt(f),
        }
    }
}

/// The id that bytes begin with, and what follows it.
pub(crate) fn split_id(bytes: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (magic, rest) = bytes.split_first()?;
    match magic {
        0 => rest.split_first_chunk().map(|(id, rest)| (SchemaId::Number(u32::from_be_bytes(*id)), rest)),
        1 => rest.split_first_chunk().map(|(guid, rest)| (SchemaId::Guid(Uuid::from_bytes(*guid)), rest)),
        _ => None,
    }
}

/// Asks the registry for schemas by GUID.
pub(crate) struct Guids {
    access: RegistryAccess,
}

impl Guids {
    pub fn new(access: &RegistryAccess) -> Self {
        Self { access: access.clone() }
    }

    /// The schema's text.
    pub async fn fetch(&self, guid: Uuid) -> Result<String, CodecError> {
        #[derive(Deserialize)]
        struct Registered {
            schema: String,
        }
        let outage = |error: reqwest::Error| CodecError::Registry(error.without_url().to_string());
        // Seldom enough for a client of its own: what is found is kept.
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().map_err(outage)?;
        let url = format!("{}/schemas/guids/{guid}", self.access.url.trim_end_matches('/'));
        let mut request = client.get(url);
        if let Some(username) = &self.access.username {
            request = request.basic_auth(username, self.access.password.as_deref());
        }
        let answer = request.send().await.map_err(outage)?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Err(CodecError::Undecodable(format!(
                "the registry knows no schema with GUID {guid}: register it, or let the serializer name it by its id \
                 where the registry knows no GUIDs"
            )));
        }
        let registered: Registered = answer.error_for_status().map_err(outage)?.json().await.map_err(outage)?;
        Ok(registered.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_number_or_a_guid() {
        assert_eq!(split_id(&[0, 0, 0, 1, 2, 3]), Some((SchemaId::Number(258), &[3][..])));
        let guid: Vec<u8> = (1..=18).collect();
        let expected = Uuid::from_bytes(std::array::from_fn(|n| u8::try_from(n).expect("small") + 2));
        assert_eq!(split_id(&guid), Some((SchemaId::Guid(expected), &[18][..])));
        for bad in [&[][..], &[0, 0, 0, 1], &guid[..16], &[2, 0, 0, 0, 1]] {
            assert_eq!(split_id(bad), None, "{bad:?}");
        }
    }
}
