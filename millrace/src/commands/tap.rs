//! `millrace tap`

use std::io::Write;

use millrace_config::Config;
use millrace_telemetry::shutdown_signal;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::cli::{TapArgs, TapFormat};
use crate::reading::{Next, next, read_to_end, whole_topic};
use crate::wiring::connect_codec;

struct Tapped {
    place: Value,
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
    let (sender, mut records) = mpsc::channel(1024);
    // Ends when nobody listens any more, or at the end of the log.
    let ends = args.no_follow.then(|| if begin { ends } else { Vec::new() });
    let reading = tokio::task::spawn_blocking(move || read(&consumer, ends, &sender));
    let mut printed = 0;
    let mut out = std::io::stdout();
    while args.limit.is_none_or(|limit| printed < limit) {
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
    }
    drop(records);
    reading.await?
}

fn read(consumer: &BaseConsumer, ends: Option<Vec<(i32, i64)>>, sender: &mpsc::Sender<Tapped>) -> anyhow::Result<()> {
    if let Some(ends) = ends {
        return read_to_end(consumer, ends, |message| sender.blocking_send(tapped(message)).is_ok());
    }
    while !sender.is_closed() {
        if let Some(Next::Record(message)) = next(consumer)?
            && sender.blocking_send(tapped(&message)).is_err()
        {
            break;
        }
    }
    Ok(())
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
        value: message.payload().map(<[u8]>::to_vec).unwrap_or_default(),
    }
}
