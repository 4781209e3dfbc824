//! A change: one at a time in a replica, in `audit` first, and answered when it is known here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use millrace_admission::EntryName;
use millrace_schemas::{AuditRecord, DirectoryEntry, Event, now_micros, topics};
use millrace_stage::{Outgoing, ProduceError, To};
use millrace_tenants::Known;
use millrace_tenants::change::{Body, World, shown as without_secrets};
use serde_json::Value;
use tokio::sync::MutexGuard;

use super::actor::Actor;
use super::{Editor, shown};
use crate::error::ApiError;
use crate::run::Ingress;
use crate::serve::Peer;

/// How long a change that was written may take to come back.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// A change that is being made; no other is made in this replica.
pub(super) struct Change<'a> {
    ingress: &'a Ingress,
    actor: Actor,
    address: IpAddr,
    name: EntryName,
    before: Option<Known>,
    _alone: MutexGuard<'a, ()>,
}

impl Ingress {
    /// Begins a change.
    ///
    /// # Errors
    /// [`ApiError`]: the configuration spells it out, or its tenant is not there.
    pub(super) async fn change<'a>(
        self: &'a Arc<Self>,
        Editor { actor, peer: Peer(peer), name }: Editor,
    ) -> Result<Change<'a>, ApiError> {
        let alone = self.changing.lock().await;
        let before = self.tenants.get(&name);
        if before.as_ref().is_some_and(Known::is_configured) {
            let message = format!("{name} is spelled out in the configuration: change it there.");
            return Err(ApiError::conflict(StatusCode::CONFLICT, message));
        }
        if let (Some(tenant), EntryName::User(..) | EntryName::Key(..) | EntryName::Webhook(..)) =
            (name.tenant(), &name)
        {
            super::there(self, &EntryName::Tenant(tenant.to_owned()))?;
        }
        Ok(Change { ingress: self, actor, address: peer.ip(), name, before, _alone: alone })
    }

    /// Whether an entry may go.
    pub(super) fn is_unused(&self, name: &EntryName) -> Result<(), ApiError> {
        let refers = |known: &Known, member: &str| known.body.get(member).and_then(Value::as_str) == Some(name.id());
        let user = match name {
            EntryName::Plan(_) => {
                let tenants = self.tenants.list(&EntryName::Tenant(String::new()), usize::MAX);
                tenants.into_iter().find(|(_, known)| refers(known, "plan"))
            }
            EntryName::User(tenant, _) => {
                let keys = self.tenants.list(&EntryName::Key(tenant.clone(), String::new()), usize::MAX);
                let is_live = |known: &Known| refers(known, "user") && !known.body.contains_key("revoked_at");
                keys.into_iter().find(|(_, known)| is_live(known))
            }
            EntryName::Tenant(_) | EntryName::Key(..) | EntryName::Webhook(..) => None,
        };
        match user {
            Some((user, _)) => {
                let message = format!("{name} is in use by {user}: change that first.");
                Err(ApiError::conflict(StatusCode::CONFLICT, message))
            }
            None => Ok(()),
        }
    }
}

impl World for Ingress {
    fn has_model(&self, name: &str) -> bool {
        self.settings.now().admission.models().contains_key(name)
    }

    fn has_rule_set(&self, name: &str) -> bool {
        self.settings.now().rules.has(name)
    }

    fn currency(&self) -> String {
        self.settings.now().prices.currency().to_owned()
    }

    fn has_entry(&self, name: &EntryName) -> bool {
        self.tenants.get(name).is_some()
    }

    fn allows_private_webhooks(&self) -> bool {
        self.private_webhooks
    }
}

impl Change<'_> {
    /// What was there.
    pub(super) fn before(&self) -> Option<&Known> {
        self.before.as_ref()
    }

    /// What was there; 404 when nothing was.
    pub(super) fn expect_before(&self) -> Result<Known, ApiError> {
        self.before.clone().ok_or_else(|| ApiError::not_found(format!("There is no {}.", self.name)))
    }

    /// Writes the change and waits until it is known here. What is there then, as it may be seen.
    ///
    /// # Errors
    /// [`ApiError`]: nothing changed, or whether it did is not known.
    pub(super) async fn write(self, action: &str, after: Option<Body>) -> Result<Value, ApiError> {
        let change_id = uuid::Uuid::now_v7().to_string();
        let at = now_micros();
        let actor = self.actor.to_string();
        let text = |body: &Body| Value::Object(without_secrets(body)).to_string();
        let audit = AuditRecord {
            change_id: change_id.clone(),
            at,
            actor: actor.clone(),
            address: Some(self.address.to_string()),
            action: action.to_owned(),
            name: self.name.to_string(),
            before: self.before.as_ref().map(|known| text(&known.body)),
            after: after.as_ref().map(text),
        };
        self.produce(topics::AUDIT, &audit).await?;
        let entry = DirectoryEntry {
            name: self.name.to_string(),
            body: after.clone().map(|body| Value::Object(body).to_string()),
            change_id: change_id.clone(),
            changed_at: at,
            changed_by: actor.clone(),
        };
        self.produce(topics::TENANTS, &entry).await?;
        tracing::info!(name = %self.name, action, actor, change_id, "an entry of the directory was changed");
        if tokio::time::timeout(KNOWN_WITHIN, self.ingress.tenants.until_known(&change_id)).await.is_err() {
            let message =
                format!("The change of {} is written and not known here yet: ask for it in a moment.", self.name);
            return Err(ApiError::busy(message, 1));
        }
        let known = Known { body: after.unwrap_or_default(), changed_at: Some(at), changed_by: Some(actor) };
        Ok(shown(&self.name, &known))
    }

    async fn produce<E: Event>(&self, topic: &'static str, event: &E) -> Result<(), ApiError> {
        let value = self.ingress.encode(event)?;
        let record = Outgoing::new(topic, self.name.to_string(), value).to(To::Partition(0));
        self.ingress.producer.send(&record, 0, &[]).await.map_err(|error| {
            tracing::warn!(%error, topic, "a change could not be written");
            match error {
                ProduceError::Unknown | ProduceError::Fatal(_) => ApiError::busy(
                    format!(
                        "Whether the change of {} was written is not known: ask for it, then try again.",
                        self.name
                    ),
                    1,
                ),
                ProduceError::Refused { .. } => ApiError::busy("The broker refuses the change; nothing changed.", 5),
            }
        })
    }
}
