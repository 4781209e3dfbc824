//! `millrace topics`

use anyhow::{Context, bail};
use millrace_config::Config;

use crate::cli::{TopicsAction, TopicsArgs};
use crate::topic_data;
use crate::waiting::Waiting;

/// Plans, applies or checks.
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
    };
    drop(waiting);
    if json {
        println!("{}", serde_json::json!({ "topics": wanted.len(), "changes": changes }));
    } else {
        changes.iter().for_each(|change| println!("{change}"));
        let done = match args.action {
            TopicsAction::Plan | TopicsAction::Check => "to make",
            TopicsAction::Apply => "made",
        };
        println!("{} topics, {} changes {done}", wanted.len(), changes.len());
    }
    if args.action == TopicsAction::Check && !changes.is_empty() {
        bail!("the cluster differs in {} points; `millrace topics apply` mends what can be mended", changes.len());
    }
    Ok(())
}
