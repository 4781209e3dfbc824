//! `millrace topics`

use anyhow::{Context, bail};
use millrace_config::Config;
use serde_json::json;

use crate::cli::{TopicsAction, TopicsArgs};
use crate::waiting::Waiting;
use crate::{generations, topic_data};

/// Plans, applies or checks; hands over, or tells what is left.
pub async fn run(args: TopicsArgs, config: Config, json: bool) -> anyhow::Result<()> {
    let file = match &args.data {
        Some(path) => {
            Some(std::fs::read_to_string(path).with_context(|| format!("{} can not be read", path.display()))?)
        }
        None => None,
    };
    let wanted = topic_data::wanted(&config, file.as_deref())?;
    let waiting = Waiting::new("asking the brokers");
    let changes = match args.action {
        TopicsAction::Plan | TopicsAction::Check => topic_data::plan(&config, &wanted).await?,
        TopicsAction::Apply => topic_data::apply(&config, &wanted).await?,
        TopicsAction::HandOver => {
            drop(waiting);
            return hand_over(config, args.from, json).await;
        }
        TopicsAction::Drained => {
            drop(waiting);
            return drained(&config, wanted, json).await;
        }
    };
    drop(waiting);
    if json {
        println!("{}", json!({ "topics": wanted.len(), "changes": changes }));
    } else {
        changes.iter().for_each(|change| println!("{change}"));
        let done = if args.action == TopicsAction::Apply { "made" } else { "to make" };
        println!("{} topics, {} changes {done}", wanted.len(), changes.len());
    }
    if args.action == TopicsAction::Check && !changes.is_empty() {
        bail!("the cluster differs in {} points; `millrace topics apply` mends what can be mended", changes.len());
    }
    Ok(())
}

async fn hand_over(config: Config, from: Option<u32>, json: bool) -> anyhow::Result<()> {
    let ours = config.kafka.generation;
    let from = from.or(ours.checked_sub(1)).context("kafka.generation is 0: nothing came before it")?;
    let count = tokio::task::spawn_blocking(move || generations::hand_over(&config, from)).await??;
    if json {
        println!("{}", json!({ "from": from, "to": ours, "partitions": count }));
    } else {
        println!("{count} partitions of customers' topics go on in generation {ours}");
    }
    Ok(())
}

async fn drained(config: &Config, wanted: Vec<topic_data::Topic>, json: bool) -> anyhow::Result<()> {
    let left = generations::left(config, wanted).await?;
    if json {
        println!("{}", json!({ "drained": left.is_nothing(), "left": left }));
    } else {
        left.records.iter().for_each(|(group, topic, count)| println!("{group} has {count} records left of {topic}"));
        println!("{} calls are open", left.open_calls);
    }
    if !left.is_nothing() {
        bail!("generation {} is not drained yet", config.kafka.generation);
    }
    Ok(())
}
