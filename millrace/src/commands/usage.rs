//! `millrace usage`

use anyhow::bail;
use comfy_table::Table;
use millrace_config::Config;
use reqwest::Method;
use serde_json::Value;

use crate::cli::UsageArgs;
use crate::door::Door;
use crate::ui::money;
use crate::waiting::Waiting;

/// Asks ingress what a tenant used.
pub async fn run(args: UsageArgs, config: Config, json: bool) -> anyhow::Result<()> {
    let (path, key) = match (args.admin_key, args.key) {
        (Some(key), _) => ("/admin/v1/usage", key),
        (None, Some(key)) => ("/v1/usage", key),
        (None, None) => bail!("set MILLRACE_ADMIN_KEY, or MILLRACE_API_KEY to the tenant's own key"),
    };
    let door = Door::open(args.url, key, &config)?;
    let waiting = Waiting::new("asking ingress");
    let query = [("tenant", args.tenant.as_str()), ("hours", &args.hours.to_string())];
    let report = door.ask(door.request(Method::GET, path).query(&query)).await?;
    drop(waiting);
    if json {
        println!("{report}");
        return Ok(());
    }
    let mut table = Table::new();
    table.set_header(["day", "user", "calls", "unconfirmed", "input tokens", "output tokens", "charge"]);
    let lines = report["lines"].as_array().into_iter().flatten();
    for line in lines.chain(std::iter::once(&report["total"])) {
        table.add_row([
            line["day"].as_str().unwrap_or("total").to_owned(),
            line["user"].as_str().unwrap_or_default().to_owned(),
            line["calls"].to_string(),
            line["unconfirmed"].to_string(),
            line["input_tokens"].to_string(),
            line["output_tokens"].to_string(),
            amounts(&line["charge_nanos"]),
        ]);
    }
    println!("{table}");
    budgets(&report["budgets"]);
    Ok(())
}

fn budgets(standings: &Value) {
    let standings = standings.as_array().filter(|standings| !standings.is_empty());
    let Some(standings) = standings else { return };
    let mut table = Table::new();
    table.set_header(["budget of", "period", "currency", "budget", "spent", "reserved", "remaining"]);
    for standing in standings {
        let text = |field: &str, otherwise: &str| standing[field].as_str().unwrap_or(otherwise).to_owned();
        let nanos = |field: &str| money(standing[field].as_i64().unwrap_or(0));
        let key = standing["key_id"].as_str().map(|key| format!("key {key}"));
        table.add_row([
            key.unwrap_or_else(|| text("user", "all")),
            text("period", ""),
            text("currency", ""),
            nanos("budget_nanos"),
            nanos("spent_nanos"),
            nanos("reserved_nanos"),
            nanos("remaining_nanos"),
        ]);
    }
    println!("{table}");
}

fn amounts(by_currency: &Value) -> String {
    let amounts = by_currency.as_object().into_iter().flatten();
    let amounts: Vec<_> =
        amounts.map(|(currency, nanos)| format!("{} {currency}", money(nanos.as_i64().unwrap_or(0)))).collect();
    if amounts.is_empty() { money(0) } else { amounts.join(", ") }
}
