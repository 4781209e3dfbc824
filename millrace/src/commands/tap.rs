//! `millrace tap`

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use millrace_config::Config;
use millrace_telemetry::shutdown_signal;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::cli::{TapArgs, TapFormat};
use crate::outcomes::whole_topic;
use crate::wiring::connect_codec;

struct Tapped {
    place: Value,
    partition: i32,
    offset: i64,
    value: Vec<u8>,
}

/// Prints a topic's records until ctrl-C, the limit, or the end of the log.
pub async fn run(args: TapArgs, config: Config) -> anyhow::Result<()> {
    let codec = connect_codec(&config).await?;
    let is_foreign = config.topic_bindings.contains_key(&args.topic)
        || config.tenants.values().any(|t| t.reply_topics.contains(&args.topic));
    let topic = if is_foreign { args.topic.clone() } else { config.kafka.topic(&args.topic) };
    let shutdown = shutdown_signal()?;
    let begin = args.from_beginning;
    let (consumer, ends) = tokio::task::spawn_blocking(move || whole_topic(&config, &topic, begin)).await??;
    let mut left: HashMap<i32, i64> = if begin { ends.into_iter().collect() } else { HashMap::new() };
    let (sender, mut records) = mpsc::channel(1024);
    std::thread::spawn(move || read(&consumer, &sender));
    let mut printed = 0;
    let mut out = std::io::stdout();
    while args.limit.is_none_or(|limit| printed < limit) && (!args.no_follow || !left.is_empty()) {
        let Some(Some(record)) = shutdown.run_until_cancelled(records.recv()).await else { break };
        let value = match codec.view(&record.value).await {
            Ok(view) => view.value,
            Err(_) => millrace_schemas::value_to_json(&record.value.clone().into()),
        };
        let written = match args.format {
            TapFormat::Json => {
                let mut line = record.place;
                line["value"] = value;
                writeln!(out, "{line}")
            }
            TapFormat::Pretty => writeln!(out, "{}\n{}\n", record.place, serde_json::to_string_pretty(&value)?),
        };
        if written.is_err() {
            break; // whoever read our output has left
        }
        printed += 1;
        if left.get(&record.partition).is_some_and(|end| record.offset + 1 >= *end) {
            left.remove(&record.partition);
        }
    }
    Ok(())
}

fn read(consumer: &BaseConsumer, sender: &mpsc::Sender<Tapped>) {
    while !sender.is_closed() {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200))
            && sender.blocking_send(tapped(&message)).is_err()
        {
            return;
        }
    }
}

fn tapped(message: &BorrowedMessage<'_>) -> Tapped {
    let text = |bytes: Option<&[u8]>| bytes.map(|b| Value::from(String::from_utf8_lossy(b)));
    let headers: Map<String, Value> = message
        .headers()
        .map(|h| h.iter().map(|h| (h.key.to_owned(), text(h.value).unwrap_or(Value::Null))).collect())
        .unwrap_or_default();
    Tapped {
        place: json!({
            "topic": message.topic(),
            "partition": message.partition(),
            "offset": message.offset(),
            "timestamp": message.timestamp().to_millis(),
            "key": text(message.key()),
            "headers": headers,
        }),
        partition: message.partition(),
        offset: message.offset(),
        value: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
    }
}
