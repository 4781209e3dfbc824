//! `millrace config`

use millrace_config::{Config, Snapshot};

use crate::cli::{ConfigAction, ConfigArgs};

/// Prints the configuration; secrets are never in it.
pub fn run(args: ConfigArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    match args.action {
        ConfigAction::Show if json => println!("{}", serde_json::to_string(config)?),
        ConfigAction::Show => print!("# version {}\n\n{}", Snapshot::of(config).version(), config.dump()),
    }
    Ok(())
}
