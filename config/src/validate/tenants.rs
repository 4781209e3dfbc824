//! Plans, tenants, their keys, and the topics that are theirs.

use std::collections::BTreeMap;

use super::{Checked, invalid, key_of, known, rule_set, topic_name};
use crate::names::{MAX_ID, is_id};
use crate::{BudgetConfig, Config, LANES, TenantConfig};

pub(super) fn plans(config: &Config) -> Checked {
    for (id, plan) in &config.plans {
        name_of(&["plans", id])?;
        for model in &plan.models {
            known(&key_of(&["plans", id, "models"]), model, "model", &config.models)?;
        }
    }
    Ok(())
}

/// An id that is part of the names of keys and topics.
fn name_of(path: &[&str]) -> Checked {
    let id = path.last().copied().unwrap_or_default();
    if is_id(id) {
        return Ok(());
    }
    invalid(key_of(path), format!("is no id; use at most {MAX_ID} letters, digits, dots, underscores and hyphens"))
}

pub(super) fn tenants(config: &Config) -> Checked {
    let mut hashes: BTreeMap<&str, String> = BTreeMap::new();
    for (id, tenant) in &config.tenants {
        let key = |field| key_of(&["tenants", id, field]);
        name_of(&["tenants", id])?;
        if let Some(plan) = &tenant.plan {
            known(&key("plan"), plan, "plan", &config.plans)?;
        }
        for model in &tenant.models {
            known(&key("models"), model, "model", &config.models)?;
        }
        if let Some(rules) = &tenant.moderation {
            rule_set(config, &key("moderation"), rules)?;
        }
        for topic in &tenant.reply_topics {
            topic_name(&key("reply_topics"), topic)?;
        }
        budget(&key_of(&["tenants", id]), tenant.budget.as_ref())?;
        for (user, entry) in &tenant.users {
            budget(&key_of(&["tenants", id, "users", user]), entry.budget.as_ref())?;
        }
        if let Some(topic) = tenant.json_reply_topics.iter().find(|topic| !tenant.reply_topics.contains(topic)) {
            let message =
                format!("names `{topic}`, which is no reply topic of this tenant; add it to reply_topics too");
            return invalid(key("json_reply_topics"), message);
        }
        keys(id, tenant, &mut hashes)?;
        crate::webhooks::check_endpoints(config, id, tenant)?;
    }
    Ok(())
}

fn budget(of: &str, budget: Option<&BudgetConfig>) -> Checked {
    let Some(budget) = budget else { return Ok(()) };
    if let Err(error) = budget.nanos() {
        return invalid(format!("{of}.budget.amount"), error);
    }
    if budget.currency.len() != 3 || !budget.currency.chars().all(|c| c.is_ascii_uppercase()) {
        let message = format!("is `{}`; write an ISO 4217 code such as USD", budget.currency);
        return invalid(format!("{of}.budget.currency"), message);
    }
    Ok(())
}

fn keys<'a>(id: &str, tenant: &'a TenantConfig, hashes: &mut BTreeMap<&'a str, String>) -> Checked {
    for (index, entry) in tenant.keys.iter().enumerate() {
        let at = format!("{}[{index}]", key_of(&["tenants", id, "keys"]));
        budget(&at, entry.budget.as_ref())?;
        if entry.id.is_empty() {
            return invalid(format!("{at}.id"), "is missing; give the key a name for logs and usage");
        }
        if tenant.keys[..index].iter().any(|earlier| earlier.id == entry.id) {
            return invalid(format!("{at}.id"), format!("is `{}` again; give every key its own", entry.id));
        }
        if let Some(user) = &entry.user {
            known(&format!("{at}.user"), user, "user of this tenant", &tenant.users)?;
        }
        if let Some(lane) = entry.lanes.iter().find(|lane| !LANES.contains(&lane.as_str())) {
            return invalid(format!("{at}.lanes"), format!("names `{lane}`; the lanes are interactive and batch"));
        }
        let hash = match (&entry.sha256, &entry.key) {
            (Some(hash), None) => hash,
            // Built by code and not hashed yet.
            (None, Some(_)) => continue,
            (None, None) => return invalid(at, "has neither sha256 nor key; give the key's SHA-256 in hexadecimal"),
            (Some(_), Some(_)) => return invalid(at, "has both sha256 and key; remove one of them"),
        };
        if hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit()) {
            return invalid(
                format!("{at}.sha256"),
                "is not 64 hexadecimal digits; make it with: printf %s \"$KEY\" | sha256sum",
            );
        }
        if let Some(owner) = hashes.insert(hash, at.clone()) {
            return invalid(at, format!("is the same key as {owner}; a key belongs to one tenant, once"));
        }
    }
    Ok(())
}

pub(super) fn bindings(config: &Config) -> Checked {
    for (topic, binding) in &config.topic_bindings {
        topic_name(&key_of(&["topic_bindings", topic]), topic)?;
        // Neither with our prefix nor without: inside, the shared topic goes by its bare name.
        let is_shared = |lane: &&str| {
            let shared = format!("requests.{lane}");
            *topic == shared || *topic == config.kafka.topic(&shared)
        };
        if LANES.iter().any(is_shared) {
            return invalid(
                key_of(&["topic_bindings", topic]),
                "is the topic that all tenants share; bind a topic of the customer's own",
            );
        }
        // It may be made at run time: until it is there, its records are refused.
        if !is_id(&binding.tenant) {
            return invalid(
                key_of(&["topic_bindings", topic, "tenant"]),
                format!("is no tenant's id; use at most {MAX_ID} letters, digits, dots, underscores and hyphens"),
            );
        }
        if !LANES.contains(&binding.lane.as_str()) {
            return invalid(
                key_of(&["topic_bindings", topic, "lane"]),
                format!("is `{}`; the lanes are interactive and batch", binding.lane),
            );
        }
    }
    Ok(())
}
