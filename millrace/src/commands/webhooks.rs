//! `millrace webhooks`

use anyhow::{Context, bail};
use comfy_table::Table;
use millrace_config::Config;
use millrace_schemas::now_micros;
use millrace_webhooks::{Caller, Endpoint, Event, TEST_EVENT};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{WebhooksAction, WebhooksArgs};
use crate::door::Door;
use crate::waiting::Waiting;

/// Looks at deliveries, sends them again, or tries an endpoint out.
pub async fn run(args: WebhooksArgs, config: Config, json: bool) -> anyhow::Result<()> {
    let WebhooksArgs { url, key, action } = args;
    if let WebhooksAction::Test { tenant, endpoint } = action {
        return test(&config, &tenant, &endpoint, json).await;
    }
    let key = key.context("set MILLRACE_API_KEY to a key of the tenant that has `admin = true`")?;
    let door = Door::open(url, key, &config)?;
    match action {
        WebhooksAction::List { endpoint, status, after, limit } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(endpoint.map(|endpoint| ("endpoint", endpoint)));
            query.extend(status.map(|status| ("status", status.as_str().to_owned())));
            query.extend(after.map(|after| ("after", after)));
            let page = ask(&door, Method::GET, "", &query).await?;
            if json { println!("{page}") } else { table(&page) }
        }
        WebhooksAction::Show { id } => {
            let delivery = ask(&door, Method::GET, &format!("/{id}"), &[]).await?;
            if json { println!("{delivery}") } else { println!("{}", serde_json::to_string_pretty(&delivery)?) }
        }
        WebhooksAction::Resend { ids } => {
            for id in ids {
                ask(&door, Method::POST, &format!("/{id}/resend"), &[]).await?;
                if json {
                    println!("{}", json!({ "id": id, "result": "resending" }));
                } else {
                    println!("{id} is sent again");
                }
            }
        }
        WebhooksAction::Test { .. } => {}
    }
    Ok(())
}

/// Asks for a tenant's deliveries.
async fn ask(door: &Door, method: Method, path: &str, query: &[(&str, String)]) -> anyhow::Result<Value> {
    let _waiting = Waiting::new("asking ingress");
    door.ask(door.request(method, &format!("/v1/webhooks/deliveries{path}")).query(query)).await
}

fn table(page: &Value) {
    let deliveries = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = Table::new();
    table.set_header(["delivery", "at", "endpoint", "type", "status", "attempts", "last answer", "next attempt"]);
    for delivery in deliveries {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let last = &delivery["last_attempt"];
        let answer = last["http_status"].as_i64().map_or_else(|| text(&last["error"]), |status| status.to_string());
        table.add_row([
            text(&delivery["id"]),
            instant(&delivery["created_at"]),
            text(&delivery["endpoint"]),
            text(&delivery["type"]),
            text(&delivery["status"]),
            delivery["attempts"].to_string(),
            answer,
            instant(&delivery["next_attempt_at"]),
        ]);
    }
    if deliveries.is_empty() {
        println!("no deliveries")
    } else {
        println!("{table}")
    }
    if page["has_more"] == true {
        println!("more: --after {}", page["last_id"].as_str().unwrap_or_default());
    }
}

fn instant(seconds: &Value) -> String {
    let at = seconds.as_i64().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

async fn test(config: &Config, tenant: &str, endpoint: &str, json: bool) -> anyhow::Result<()> {
    let known = config.tenants.get(tenant).with_context(|| format!("there is no tenant `{tenant}`"))?;
    let names = || known.webhooks.iter().map(|known| known.id.as_str()).collect::<Vec<_>>().join(", ");
    let found = known.webhooks.iter().find(|known| known.id == endpoint);
    let found = found.with_context(|| {
        format!(
            "`{tenant}` has no endpoint `{endpoint}` in the configuration, whose endpoints alone are tried from here; it \
             has: {}",
            names()
        )
    })?;
    let caller = Caller::new(&config.webhooks).map_err(anyhow::Error::msg)?;
    let now = now_micros();
    let data = json!({ "id": "test", "object": "test" });
    let event = Event::new(tenant, TEST_EVENT, &["test", &now.to_string()], now, data);
    let id = event.id.replacen("evt_", "wh_test_", 1);
    let waiting = Waiting::new("asking the endpoint");
    let heard = caller.send(&Endpoint::new(found, 1), &id, &event.payload()).await;
    drop(waiting);
    if json {
        println!(
            "{}",
            json!({
                "webhook_id": id, "delivered": heard.is_taken(), "http_status": heard.status, "error": heard.error,
                "answer": heard.excerpt,
            })
        );
    } else if let Some(status) = heard.status {
        println!("{} answered {status}", found.url);
        println!("{}", heard.excerpt.as_deref().unwrap_or("(no body)"));
    }
    match (&heard.error, heard.status) {
        _ if heard.is_taken() => Ok(()),
        (Some(error), _) => bail!("{error}"),
        (None, status) => bail!("the endpoint answered {}, and only 2xx takes an event", status.unwrap_or_default()),
    }
}
