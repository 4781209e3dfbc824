//! `millrace batch plan`: everything that can be known of a file before anything is paid.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use comfy_table::Table;
use millrace_admission::{
    Admission, BatchLine, MAX_BATCH_BYTES, MAX_BATCH_LINES, Principal, batch_operation, count_prompt,
};
use millrace_config::Config;
use millrace_pricing::{Amount, PriceTable, Usage};
use millrace_schemas::{Ended, Operation, now_micros};
use serde_json::{Value, json};

use super::batches::Batches;
use crate::ui::{count, money};

/// What one model is asked for.
#[derive(Default)]
struct Sum {
    requests: u64,
    prompt_tokens: u64,
    max_output_tokens: u64,
    /// Nano-units: nothing is written, or as much as may be.
    least: i64,
    most: i64,
}

struct Invalid {
    line: usize,
    ended: Ended,
}

/// What is in a file.
#[derive(Default)]
struct Plan {
    requests: u64,
    models: BTreeMap<String, Sum>,
    invalid: Vec<Invalid>,
}

/// The endpoint that the first line of a file names.
pub fn endpoint_of(file: &Path) -> anyhow::Result<String> {
    for line in lines(file)? {
        let line = line?;
        if !line.trim().is_empty() {
            let value: Value = serde_json::from_str(&line).context("the first line is not JSON")?;
            let url = value["url"].as_str().context("the first line has no `url`, such as /v1/chat/completions")?;
            ensure!(batch_operation(url).is_some(), "{url} takes no batches");
            return Ok(url.to_owned());
        }
    }
    bail!("{} holds no request", file.display())
}

fn lines(path: &Path) -> anyhow::Result<std::io::Lines<impl BufRead>> {
    let file = std::fs::File::open(path).with_context(|| format!("{} can not be read", path.display()))?;
    let bytes = file.metadata()?.len();
    ensure!(bytes <= MAX_BATCH_BYTES, "{} has {bytes} bytes, more than {MAX_BATCH_BYTES}: split it", path.display());
    Ok(BufReader::new(file.take(MAX_BATCH_BYTES)).lines())
}

/// Prints the plan. Lines that are wrong are an error, after everything was said.
pub async fn run(
    file: &Path,
    tenant: &str,
    rate: Option<f64>,
    door: Option<&Batches>,
    config: &Config,
    json: bool,
) -> anyhow::Result<()> {
    let prices = match &config.pricing.file {
        Some(file) => PriceTable::load(file)?,
        None => PriceTable::built_in(),
    };
    let plan = read(file, tenant, config, &prices)?;
    let rate = match (rate, door) {
        (Some(rate), _) => Some(rate),
        (None, Some(door)) => last_rate(door).await,
        (None, None) => None,
    };
    let seconds = rate.map(|rate| (plan.requests as f64 / rate).ceil());
    if json {
        println!("{}", to_json(&plan, seconds, &prices));
    } else {
        print(&plan, seconds, &prices);
    }
    match plan.invalid.len() {
        0 => Ok(()),
        1 => bail!("a line is invalid, and the batch would be refused"),
        more => bail!("{more} lines are invalid, and the batch would be refused"),
    }
}

fn read(file: &Path, tenant: &str, config: &Config, prices: &PriceTable) -> anyhow::Result<Plan> {
    let admission = Admission::from_config(config)?;
    ensure!(admission.directory().has_tenant(tenant), "there is no tenant `{tenant}`; name one with --tenant");
    let principal = Principal { tenant: tenant.to_owned(), user: None, key_id: None, admin: false, token: None };
    let endpoint = endpoint_of(file)?;
    let operation = batch_operation(&endpoint).unwrap_or(Operation::Chat);
    let bar = count("lines read");
    let (mut plan, mut seen) = (Plan::default(), HashSet::new());
    for (number, line) in lines(file)?.enumerate() {
        let line = line.with_context(|| format!("line {} can not be read", number + 1))?;
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        bar.inc(1);
        plan.requests += 1;
        let judged = judge(&admission, &principal, operation, line, &mut seen);
        let priced = judged.map(|(model, usage)| plan.add(&model, usage, config, prices));
        match priced {
            Ok(priced) => priced?,
            Err(ended) => plan.invalid.push(Invalid { line: number + 1, ended }),
        }
    }
    bar.finish_and_clear();
    let most = MAX_BATCH_LINES;
    ensure!(plan.requests <= u64::from(most), "the file has {} requests, more than {most}: split it", plan.requests);
    Ok(plan)
}

/// The model and what it may use at the most.
fn judge(
    admission: &Admission,
    principal: &Principal,
    operation: Operation,
    line: &str,
    seen: &mut HashSet<String>,
) -> Result<(String, Usage), Ended> {
    let line = BatchLine::read(line, operation)?;
    if !seen.insert(line.custom_id.clone()) {
        let message = "Another line has the same 'custom_id': give each line its own.";
        return Err(Ended::invalid("duplicate_custom_id", Some("custom_id"), message));
    }
    let admitted = admission.judge_line(principal, operation, &line, now_micros())?;
    let prompt = count_prompt(operation, &admitted.body);
    let output = admitted.max_output_tokens.saturating_mul(admitted.choices);
    Ok((admitted.model, Usage { input_tokens: prompt, cached_input_tokens: 0, output_tokens: output }))
}

impl Plan {
    fn add(&mut self, model: &str, most: Usage, config: &Config, prices: &PriceTable) -> anyhow::Result<()> {
        let settings = config.models.get(model).context("a model that was admitted is configured")?;
        let upstream = settings.upstream.as_deref().unwrap_or(model);
        let price = prices.price(&settings.provider, upstream, now_micros() / 1_000)?;
        let charge = |usage: Usage| Amount::total(&price.lines(usage)).charge_nanos;
        let sum = self.models.entry(model.to_owned()).or_default();
        sum.requests += 1;
        sum.prompt_tokens += u64::from(most.input_tokens);
        sum.max_output_tokens += u64::from(most.output_tokens);
        sum.least = sum.least.saturating_add(charge(Usage { output_tokens: 0, ..most }));
        sum.most = sum.most.saturating_add(charge(most));
        Ok(())
    }

    fn total(&self) -> Sum {
        self.models.values().fold(Sum::default(), |total, sum| Sum {
            requests: total.requests + sum.requests,
            prompt_tokens: total.prompt_tokens + sum.prompt_tokens,
            max_output_tokens: total.max_output_tokens + sum.max_output_tokens,
            least: total.least.saturating_add(sum.least),
            most: total.most.saturating_add(sum.most),
        })
    }
}

/// Requests a second of the last batch that was completed.
async fn last_rate(door: &Batches) -> Option<f64> {
    let batches = door.batches().await.ok()?;
    batches["data"].as_array()?.iter().find_map(|batch| {
        let began = batch["in_progress_at"].as_f64()?;
        let seconds = (batch["completed_at"].as_f64()? - began).max(1.0);
        let total = batch["request_counts"]["total"].as_f64()?;
        (total > 0.0).then_some(total / seconds)
    })
}

fn to_json(plan: &Plan, seconds: Option<f64>, prices: &PriceTable) -> Value {
    let sum = |sum: &Sum| {
        json!({
            "requests": sum.requests,
            "prompt_tokens": sum.prompt_tokens,
            "max_output_tokens": sum.max_output_tokens,
            "charge_nanos": { "least": sum.least, "most": sum.most },
        })
    };
    let invalid = |invalid: &Invalid| {
        let Ended { code, message, param, .. } = &invalid.ended;
        json!({ "line": invalid.line, "code": code, "message": message, "param": param })
    };
    json!({
        "requests": plan.requests,
        "models": plan.models.iter().map(|(model, of_model)| (model.clone(), sum(of_model))).collect::<serde_json::Map<_, _>>(),
        "total": sum(&plan.total()),
        "currency": prices.currency(),
        "eta_seconds": seconds,
        "invalid": plan.invalid.iter().map(invalid).collect::<Vec<_>>(),
    })
}

fn print(plan: &Plan, seconds: Option<f64>, prices: &PriceTable) {
    let mut table = Table::new();
    table.set_header(["model", "requests", "prompt tokens", "output tokens, at most", "charge"]);
    let total = plan.total();
    let rows = plan.models.iter().map(|(model, sum)| (model.as_str(), sum));
    for (name, sum) in rows.chain([("total", &total)]) {
        table.add_row([
            name.to_owned(),
            sum.requests.to_string(),
            sum.prompt_tokens.to_string(),
            sum.max_output_tokens.to_string(),
            format!("{} to {} {}", money(sum.least), money(sum.most), prices.currency()),
        ]);
    }
    println!("{table}");
    match seconds {
        Some(seconds) => println!("about {seconds} s"),
        None => println!("how long it takes is not known: give --rate, or MILLRACE_API_KEY to ask for the last batch"),
    }
    for Invalid { line, ended } in &plan.invalid {
        println!("line {line}: {} ({})", ended.message, ended.code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::{ModelConfig, TenantConfig};

    #[test]
    fn a_file_is_counted_priced_and_its_wrong_lines_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("requests.jsonl");
        let line = |id: &str, model: &str| {
            format!(
                r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":{{"model":"{model}","max_tokens":10,"messages":[{{"role":"user","content":"hello world"}}]}}}}"#
            )
        };
        let text =
            [line("a", "sim-small"), line("b", "sim-small"), String::new(), line("a", "sim-small"), line("c", "no")];
        std::fs::write(&file, text.join("\n")).unwrap();
        let mut config = Config::default();
        config.tenants.insert("demo".to_owned(), TenantConfig::default());
        let model: ModelConfig =
            serde_json::from_value(json!({ "provider": "simulated", "context_tokens": 8_192 })).unwrap();
        config.models.insert("sim-small".to_owned(), model);
        let prices = PriceTable::built_in();
        let plan = read(&file, "demo", &config, &prices).unwrap();
        let wrong: Vec<_> = plan.invalid.iter().map(|wrong| (wrong.line, wrong.ended.code.as_str())).collect();
        assert_eq!(wrong, [(4, "duplicate_custom_id"), (5, "model_not_found")]);
        let total = plan.total();
        // Two messages: "hello world" and "user" are three tokens, a message's template three, a prompt's three.
        assert_eq!((plan.requests, total.requests, total.prompt_tokens, total.max_output_tokens), (4, 2, 18, 20));
        let price = prices.price("simulated", "sim-small", now_micros() / 1_000).unwrap().charge;
        assert!(total.least > 0 && total.most - total.least == 20 * price.output / 1_000_000, "{}", total.most);
        assert!(read(&file, "nobody", &config, &prices).is_err());
        assert_eq!(endpoint_of(&file).unwrap(), "/v1/chat/completions");
    }
}
