//! `millrace storage`

use millrace_config::Config;
use millrace_storage::Storage;

use crate::cli::{StorageAction, StorageArgs};
use crate::waiting::Waiting;

/// Applies migrations.
pub async fn run(args: StorageArgs, config: Config, json: bool) -> anyhow::Result<()> {
    match args.action {
        StorageAction::Migrate => {
            let waiting = Waiting::new("migrating the database");
            let applied = Storage::migrate(&config.storage).await?;
            drop(waiting);
            if json {
                println!("{}", serde_json::json!({ "applied": applied }));
            } else if applied.is_empty() {
                println!("the schema is up to date");
            } else {
                applied.iter().for_each(|name| println!("applied {name}"));
            }
        }
    }
    Ok(())
}
