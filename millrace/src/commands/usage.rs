//! `millrace usage`

use anyhow::{Context, bail};
use comfy_table::Table;
use millrace_config::Config;
use serde_json::Value;

use crate::cli::UsageArgs;
use crate::ui::money;
use crate::waiting::Waiting;

/// Asks ingress what a tenant used.
pub async fn run(args: UsageArgs, config: Config, json: bool) -> anyhow::Result<()> {
    let base = args.url.clone().unwrap_or_else(|| format!("http://{}", config.ingress.listen));
    let (path, key) = match (&args.admin_key, &args.key) {
        (Some(key), _) => ("/admin/v1/usage", key),
        (None, Some(key)) => ("/v1/usage", key),
        (None, None) => bail!("set MILLRACE_ADMIN_KEY, or MILLRACE_API_KEY to the tenant's own key"),
    };
    let waiting = Waiting::new("asking ingress");
    let client = reqwest::Client::builder().no_proxy().build()?;
    let response = client
        .get(format!("{base}{path}"))
        .query(&[("tenant", args.tenant.as_str()), ("hours", &args.hours.to_string())])
        .bearer_auth(key)
        .send()
        .await
        .with_context(|| format!("ingress does not answer at {base}; name it with --url or MILLRACE_URL"))?;
    let status = response.status();
    let report: Value = response.json().await.context("the answer is not JSON")?;
    drop(waiting);
    if !status.is_success() {
        bail!("{}", report["error"]["message"].as_str().unwrap_or("ingress refused"));
    }
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
    Ok(())
}

fn amounts(by_currency: &Value) -> String {
    let amounts = by_currency.as_object().into_iter().flatten();
    let amounts: Vec<_> =
        amounts.map(|(currency, nanos)| format!("{} {currency}", money(nanos.as_i64().unwrap_or(0)))).collect();
    if amounts.is_empty() { money(0) } else { amounts.join(", ") }
}
