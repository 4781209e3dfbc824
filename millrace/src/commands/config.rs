//! `millrace config`

use millrace_config::Config;

use crate::cli::{ConfigAction, ConfigArgs};

/// Prints the configuration; secrets are never in it.
pub fn run(args: ConfigArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    match args.action {
        ConfigAction::Show if json => println!("{}", serde_json::to_string(config)?),
        ConfigAction::Show => print!("{}", config.dump()),
    }
    Ok(())
}
