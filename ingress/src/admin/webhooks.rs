//! A tenant's webhook endpoints: what they have that no other entry has is a secret that is derived, not kept.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millrace_admission::{EntryName, SecretOrigin};
use millrace_config::MAX_WEBHOOKS;
use millrace_tenants::{as_written, change};

use super::{Editor, New, begin_new};
use crate::error::ApiError;
use crate::run::Ingress;

impl Ingress {
    /// What a new secret is derived from, and the secret, which is shown to whoever asked for it and to nobody again.
    pub(super) fn new_secret(&self, tenant: &str, id: &str) -> Result<(SecretOrigin, String), ApiError> {
        let made = self.secret_keys.fresh().and_then(|from| {
            let secret = self.secret_keys.derive(tenant, id, &from)?;
            Some((from, as_written(&secret)))
        });
        made.ok_or_else(|| {
            let message = "No secret can be made here: `webhooks.secret_keys` is not configured. Set it for ingress \
                           and the service webhooks, to a list of one key of at least 32 bytes (openssl rand -base64 32).";
            ApiError::conflict(StatusCode::CONFLICT, message)
        })
    }
}

/// `POST` to a tenant's endpoints: the only time that the secret is shown.
pub(crate) async fn new_webhook(
    State(ingress): State<Arc<Ingress>>,
    editor: Editor,
    body: Bytes,
) -> Result<Response, ApiError> {
    let id_is = "Give the endpoint an 'id', which names it in lists and deliveries.";
    let New { change, name, body } = begin_new(&ingress, editor, &body, id_is, "change or rotate it").await?;
    let tenant = name.tenant().unwrap_or_default();
    let first = EntryName::Webhook(tenant.to_owned(), String::new());
    if ingress.tenants.list(&first, MAX_WEBHOOKS).len() == MAX_WEBHOOKS {
        let message = format!("The tenant has {MAX_WEBHOOKS} endpoints, which are the most: delete one first.");
        return Err(ApiError::conflict(StatusCode::CONFLICT, message));
    }
    let (from, secret) = ingress.new_secret(tenant, name.id())?;
    let mut known = change.write("create", Some(change::derived(body, &from))).await?;
    known["secret"] = secret.into();
    Ok((StatusCode::CREATED, Json(known)).into_response())
}
