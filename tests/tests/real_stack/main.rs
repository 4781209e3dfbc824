//! The whole arrow on real Kafka, Cassandra and registry, every service as two processes.

mod backup;
mod bad_input;
mod batches;
mod bodies;
mod cancel;
mod clients;
mod copies;
mod crash;
mod customers;
mod dlq;
mod embeddings;
mod http;
mod idempotency;
mod issuers;
mod keys;
mod knowledge;
mod rates;
mod reload;
mod responses;
mod retries;
mod secrets;
mod stream;
mod tenants;
mod volume;
mod written_first;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use millrace_schemas::{Coordinates, RequestId};
use millrace_stack::Stack;
use millrace_tests::{
    ADMIN_KEY, FAST_OUTCOMES, FAST_REQUESTS, JSON_OUTCOMES, KAFKA_USER, Pipeline, RIVAL_TOPICS, Setup, TENANT_KEY,
    client, kafka_users, millrace, run,
};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

/// A topic that is bound to the tenant `acme`.
const BOUND: &str = "acme.requests";
/// What a record of plain JSON says of itself.
const JSON: (&str, &str) = ("content-type", "application/json");
/// Where pages may come from that call the ingress.
const ORIGIN: &str = "https://app.example.com";
/// How long anything may take that is waited for.
const WITHIN: Duration = Duration::from_secs(60);

/// Runs it, and says how long it took.
macro_rules! step {
    ($call:expr) => {{
        let began = Instant::now();
        $call.await?;
        println!("{:6.1} s  {}", began.elapsed().as_secs_f64(), stringify!($call));
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_one_outcome_and_every_call_is_on_the_bill() -> anyhow::Result<()> {
    let stack = Stack::builder().sasl(kafka_users()).broker_session(written_first::SILENCE * 2).start().await?;
    clients::python("tests/acls.py", &grants(&stack)).await?;
    let origins = format!("[\"{ORIGIN}\"]");
    // More than is spent here: whoever reads and writes `budgets` must be allowed to.
    let budget = ("MILLRACE_TENANTS__ACME__BUDGET", "{ amount = \"1000000\" }");
    let corp = issuers::Corp::start().await;
    let issuer = corp.setting();
    let env = [
        ("MILLRACE_ISSUERS__CORP", issuer.as_str()),
        ("MILLRACE_INGRESS__CORS_ORIGINS", origins.as_str()),
        ("MILLRACE_INGRESS__BATCH_IN_FLIGHT", batches::IN_FLIGHT),
        // So that a call whose router was killed is booked before the end.
        ("MILLRACE_LEDGER__GRACE_MS", "5000"),
        budget,
    ];
    let mut pipeline = Pipeline::start(&stack, Setup::copies(2).env(&env)).await?;
    step!(volume::two_thousand_from_a_file(&pipeline));
    step!(http::answers_as_openai_does(&pipeline));
    step!(embeddings::come_as_clients_know_them(&stack, &pipeline));
    step!(stream::flows_as_clients_know_it(&pipeline));
    step!(batches::flow_as_clients_know_them(&pipeline));
    step!(batches::end_when_their_time_is_over(&pipeline));
    step!(responses::come_as_clients_know_them(&stack, &pipeline));
    step!(crash::in_the_middle_of_an_answer(&mut pipeline));
    step!(clients::publish_and_read_without_our_code(&stack, &pipeline));
    step!(clients::readers_drop_copies(&stack, &pipeline));
    step!(knowledge::documents_are_found_by_their_own_tenant(&pipeline));
    step!(bad_input::ends_as_a_dead_letter_and_a_failed_outcome(&stack, &pipeline));
    step!(dlq::of_any_size(&stack, &pipeline));
    step!(dlq::mended_and_run_again_once(&stack, &mut pipeline));
    step!(dlq::from_the_request_of_what_an_inner_stage_gave_up(&stack, &mut pipeline));
    step!(dlq::written_before_its_record_is_passed_over(&stack, &mut pipeline));
    step!(copies::are_dropped_by_every_reader(&stack, &mut pipeline));
    step!(written_first::a_recorded_call_is_not_paid_again(&stack, &mut pipeline));
    step!(written_first::nothing_is_paid_or_accepted_before_it_is_written(&stack, &mut pipeline));
    step!(cancel::a_running_call_is_broken_off_and_on_the_bill(&pipeline));
    step!(bodies::are_answered_at_both_doors(&stack, &mut pipeline));
    step!(idempotency::one_key_is_one_call_at_every_door(&stack, &mut pipeline));
    step!(retries::join_what_is_running(&pipeline));
    step!(tenants::are_made_and_end_while_it_runs(&mut pipeline));
    step!(issuers::prove_users_at_both_doors(&stack, &pipeline, &corp));
    step!(rates::hold_over_all_doors(&pipeline));
    step!(keys::of_a_pool_change_under_load(&mut pipeline));
    step!(reload::is_taken_up_under_load(&mut pipeline));
    step!(reload::changes_rules_prices_and_routes_under_load(&mut pipeline));
    step!(batches::survive_the_death_of_every_replica(&mut pipeline));
    step!(clients::as_a_customer_of_the_broker(&stack, &pipeline));
    step!(customers::never_meet_on_the_broker(&stack, &pipeline));
    step!(usage_is_what_the_provider_counted(&pipeline));
    step!(usage_is_its_own_tenants(&pipeline));
    step!(a_refused_password_is_said(&pipeline));
    step!(backup::a_lost_store_is_restored(&mut pipeline));
    step!(secrets::are_in_nothing_that_was_written(&stack, &pipeline));
    pipeline.stop().await?;
    stack.stop().await
}

/// What each service may do on the broker: what infra/kafka/acls.json says, no more.
fn grants(stack: &Stack) -> Vec<String> {
    let mut grants = [&stack.bootstrap_servers(), "e2e.", "e2e."].map(str::to_owned).to_vec();
    let (rivals, to_rival) = RIVAL_TOPICS;
    let customers = json!([
        {
            "principal": "acme",
            "request_topics": ["acme.requests", FAST_REQUESTS],
            "reply_topics": ["acme.outcomes", FAST_OUTCOMES, JSON_OUTCOMES],
            "group_prefixes": ["acme."]
        },
        { "principal": "rival", "request_topics": [rivals], "reply_topics": [to_rival], "group_prefixes": ["rival."] },
    ]);
    grants.extend(["--customers".to_owned(), customers.to_string()]);
    grants
}

async fn a_refused_password_is_said(pipeline: &Pipeline) -> anyhow::Result<()> {
    let (_, password) = KAFKA_USER;
    let settings = std::fs::read_to_string(&pipeline.config)?.replace(&format!("\"{password}\""), "\"wrong\"");
    let config = pipeline.folder().join("wrong.toml");
    std::fs::write(&config, settings)?;
    let Err(error) = run(millrace()?, &["topics", "check", "--config", text(&config)?]).await else {
        bail!("a wrong password was accepted")
    };
    ensure!(error.to_string().contains("Authentication failed"), "{error}");
    Ok(())
}

async fn usage_is_what_the_provider_counted(pipeline: &Pipeline) -> anyhow::Result<()> {
    let counted = pipeline.count().await?;
    let mut calls = Value::Null;
    for _ in 0..100 {
        let args = ["usage", "--url", &pipeline.http, "--admin-key", ADMIN_KEY, "--json"];
        let mut total = 0;
        for tenant in ["acme", "rival", tenants::TENANT, rates::TENANT] {
            let usage: Value =
                serde_json::from_str(&pipeline.command(&[&args[..], &["--tenant", tenant]].concat()).await?)?;
            total += usage["total"]["calls"].as_u64().context("calls")?;
        }
        calls = total.into();
        // One that was refused is booked as well, at nothing.
        if counted["requests"] == calls {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("usage says {calls} calls, the provider {counted}")
}

/// A tenant's key reads what that tenant used, and not what its calls cost.
async fn usage_is_its_own_tenants(pipeline: &Pipeline) -> anyhow::Result<()> {
    let ask = async |path: &str| {
        let answer = client()?.get(format!("{}{path}", pipeline.http)).bearer_auth(TENANT_KEY).send().await?;
        anyhow::Ok((answer.status().as_u16(), answer.json::<Value>().await?))
    };
    for (path, status) in [("/v1/usage?tenant=rival", 404), ("/admin/v1/usage?tenant=acme", 401)] {
        let told = ask(path).await?;
        ensure!(told.0 == status && told.1["error"]["message"].is_string(), "{path}: {told:?}");
    }
    let (status, own) = ask("/v1/usage?tenant=acme").await?;
    ensure!(status == 200 && own["tenant"] == "acme" && own["total"]["calls"].as_u64() > Some(0), "{status} {own}");
    ensure!(!own.to_string().contains("cost_nanos"), "{own}");
    Ok(())
}

async fn until(url: &str, done: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    until_as(TENANT_KEY, url, done).await
}

async fn until_as(key: &str, url: &str, done: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let client = client()?;
    for _ in 0..100 {
        let value: Value = client.get(url).bearer_auth(key).send().await?.json().await?;
        if done(&value) {
            return Ok(value);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("{url} does not change")
}

fn producer(stack: &Stack) -> anyhow::Result<FutureProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", stack.bootstrap_servers())
        .set("message.max.bytes", "20000000")
        .create()?)
}

async fn produce(producer: &FutureProducer, topic: &str, headers: &[(&str, &str)], value: &[u8]) -> anyhow::Result<()> {
    produce_to(producer, topic, None, headers, value).await.map(|_| ())
}

/// Publishes a record and tells its offset.
async fn produce_to(
    producer: &FutureProducer,
    topic: &str,
    partition: Option<i32>,
    headers: &[(&str, &str)],
    value: &[u8],
) -> anyhow::Result<i64> {
    let mut all = OwnedHeaders::new();
    for (key, value) in headers {
        all = all.insert(Header { key, value: Some(*value) });
    }
    let mut record = FutureRecord::<(), [u8]>::to(topic).headers(all).payload(value);
    record.partition = partition;
    let sent = producer.send(record, Duration::from_secs(10)).await;
    Ok(sent.map_err(|(error, _)| anyhow::anyhow!("{topic}: {error}"))?.offset)
}

/// Publishes to [`BOUND`]; tells where the record lies, and the id of its request.
async fn publish(
    stack: &Stack,
    partition: i32,
    headers: &[(&str, &str)],
    value: &[u8],
) -> anyhow::Result<(Coordinates, String)> {
    let offset = produce_to(&producer(stack)?, BOUND, Some(partition), headers, value).await?;
    let at = Coordinates { topic: BOUND.to_owned(), generation: 0, partition, offset };
    let id = RequestId::of_coordinates("acme", &at).into_string();
    Ok((at, id))
}

/// From now on a topic takes records of so many bytes at most.
async fn allow_records_of(stack: &Stack, topic: &str, bytes: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", stack.bootstrap_servers()).create()?;
    let alter = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", bytes);
    for result in admin.alter_configs([&alter], &AdminOptions::new()).await? {
        result.map_err(|(topic, error)| anyhow::anyhow!("{topic:?}: {error}"))?;
    }
    Ok(())
}

/// Waits until something is so.
async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_so().await? {
        ensure!(began.elapsed() < WITHIN, "not within {WITHIN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Where a group goes on.
async fn committed(stack: &Stack, group: &str, topic: &str, partition: i32) -> anyhow::Result<i64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", stack.bootstrap_servers()).set("group.id", group);
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    tokio::task::spawn_blocking(move || {
        let group: BaseConsumer = config.create()?;
        let answer = group.committed_offsets(list, Duration::from_secs(15))?;
        match answer.elements().first().map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            other => bail!("{other:?}"),
        }
    })
    .await?
}

/// Records of `topic` from its beginning, once there are at least so many.
async fn tapped(pipeline: &Pipeline, topic: &str, at_least: usize) -> anyhow::Result<Vec<Value>> {
    let until = Instant::now() + WITHIN;
    loop {
        let text = pipeline.command(&["tap", topic, "--from-beginning", "--no-follow"]).await?;
        let found = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        if found.len() >= at_least {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "{topic} has {} records, not {at_least}", found.len());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[tokio::test]
async fn a_missing_broker_is_one_clear_line_and_a_retry() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("millrace.toml");
    std::fs::write(&config, "[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n")?;
    let log = folder.path().join("log");
    let args = ["run", "moderator", "--config", text(&config)?];
    let mut moderator = millrace_tests::Process::start("moderator", &args, log.clone())?;
    for _ in 0..100 {
        if std::fs::read_to_string(&log)?.matches("waiting for kafka").count() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let text = std::fs::read_to_string(&log)?;
    ensure!(text.matches("waiting for kafka").count() >= 2 && !text.contains("panicked"), "{text}");
    let _still_running = moderator.line("").await?;
    moderator.kill().await?;
    ensure!(run(millrace()?, &["run", "moderator", "--config", "no-such-file.toml"]).await.is_err());
    Ok(())
}
