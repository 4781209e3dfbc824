//! Who asks, and what it may see and change.

use std::fmt;

use axum::http::HeaderMap;
use millrace_admission::{EntryName, Principal};

use crate::error::ApiError;
use crate::routes::{authenticate, bearer};
use crate::run::Ingress;

/// Whoever may use the administrative API.
pub(super) enum Actor {
    /// The installation's administrator.
    Administrator,
    /// An `admin` key of a tenant, or a token that stands for one.
    OfTenant(Principal),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Administrator => f.write_str("admin"),
            Self::OfTenant(Principal { token: Some(token), .. }) => write!(f, "token/{token}"),
            Self::OfTenant(principal) => {
                let name = EntryName::Key(principal.tenant.clone(), principal.key_id.clone().unwrap_or_default());
                name.fmt(f)
            }
        }
    }
}

impl Actor {
    pub(super) fn of(ingress: &Ingress, headers: &HeaderMap) -> Result<Self, ApiError> {
        let given = bearer(headers).ok_or_else(ApiError::unauthorized)?;
        if ingress.is_admin(given) {
            return Ok(Self::Administrator);
        }
        let principal = authenticate(ingress, headers)?;
        if principal.admin {
            return Ok(Self::OfTenant(principal));
        }
        Err(ApiError::forbidden(
            "This API key may not administer: use the administrator's, or one of the tenant's with `admin`.",
        ))
    }

    pub(super) fn may_see(&self, name: &EntryName) -> Result<(), ApiError> {
        match (self, name) {
            (Self::Administrator, _) => Ok(()),
            (
                Self::OfTenant(principal),
                EntryName::Tenant(tenant)
                | EntryName::User(tenant, _)
                | EntryName::Key(tenant, _)
                | EntryName::Webhook(tenant, _),
            ) if *tenant == principal.tenant => Ok(()),
            // As if it were not there: tenants never meet.
            (Self::OfTenant(_), _) => Err(ApiError::not_found(format!("There is no {name}."))),
        }
    }

    pub(super) fn may_list(&self, first: &EntryName) -> Result<(), ApiError> {
        match first {
            EntryName::Plan(_) | EntryName::Tenant(_) => self.may_administer(),
            EntryName::User(..) | EntryName::Key(..) | EntryName::Webhook(..) => self.may_see(first),
        }
    }

    pub(super) fn may_change(&self, name: &EntryName) -> Result<(), ApiError> {
        match name {
            EntryName::Plan(_) | EntryName::Tenant(_) => self.may_administer(),
            EntryName::User(..) | EntryName::Key(..) | EntryName::Webhook(..) => self.may_see(name),
        }
    }

    fn may_administer(&self) -> Result<(), ApiError> {
        match self {
            Self::Administrator => Ok(()),
            Self::OfTenant(_) => Err(ApiError::forbidden("Only the administrator's key may do this.")),
        }
    }
}
