//! Publishing requests straight to a topic, signed.

use futures::stream::{FuturesUnordered, StreamExt};
use millrace_schemas::{Codec, Request, RequestId, SIGNATURE_HEADER, Signature, derived_uuid, key_digest, now_micros};
use millrace_stage::{Outgoing, Producer, To};

/// Requests on their way at once.
const IN_FLIGHT: usize = 2000;

/// What says who publishes.
pub enum Proof {
    /// The topic, which is bound to the tenant.
    Topic,
    /// A signature with an API key.
    Key { id: String, key: String },
    /// A signed token of an issuer.
    Token(String),
}

impl Proof {
    /// The header that a record of this value has.
    fn header(&self, tenant: &str, value: &[u8]) -> Option<(&'static str, String)> {
        match self {
            Self::Topic => None,
            Self::Key { id, key } => {
                Some((SIGNATURE_HEADER, Signature::sign(&format!("{tenant}/{id}"), &key_digest(key), value)))
            }
            Self::Token(token) => Some(("authorization", format!("Bearer {token}"))),
        }
    }
}

/// Who publishes where.
pub struct Publisher {
    pub producer: Producer,
    pub codec: Codec,
    /// Topic; foreign when it is a customer's own.
    pub topic: String,
    pub foreign: bool,
    pub tenant: String,
    pub proof: Proof,
    pub user: Option<String>,
}

impl Publisher {
    /// Publishes each body and tells when the broker has acknowledged it; returns the request ids.
    pub async fn publish(
        &self,
        bodies: impl Iterator<Item = Vec<u8>>,
        mut acknowledged: impl FnMut(),
    ) -> anyhow::Result<Vec<String>> {
        let partitions = if self.foreign { 0 } else { self.producer.partitions(&self.topic).await? };
        let mut ids = Vec::new();
        let mut pending = FuturesUnordered::new();
        for body in bodies {
            let id = RequestId::fresh(&self.tenant).into_string();
            pending.push(self.send(id.clone(), body, partitions));
            ids.push(id);
            if pending.len() >= IN_FLIGHT
                && let Some(sent) = pending.next().await
            {
                sent?;
                acknowledged();
            }
        }
        while let Some(sent) = pending.next().await {
            sent?;
            acknowledged();
        }
        Ok(ids)
    }

    async fn send(&self, id: String, body: Vec<u8>, partitions: i32) -> anyhow::Result<()> {
        let request = Request {
            request_id: Some(id.clone()),
            user: self.user.clone(),
            received_at: Some(now_micros()),
            ..Request::new(body)
        };
        let value = self.codec.encode(&request)?;
        let proof = self.proof.header(&self.tenant, &value);
        let mut record = Outgoing::new(self.topic.clone(), id.as_bytes(), value);
        record.foreign = self.foreign;
        record = record.to(if partitions > 0 {
            let number = derived_uuid(&["partition", &id]).as_u128() % u128::from(partitions.unsigned_abs());
            To::Partition(i32::try_from(number).unwrap_or(0))
        } else {
            To::ByKey
        });
        let mut headers = vec![("request_id", id.as_str()), ("tenant", self.tenant.as_str())];
        headers.extend(proof.as_ref().map(|(name, proof)| (*name, proof.as_str())));
        self.producer.send(&record, 0, &headers).await?;
        Ok(())
    }
}
