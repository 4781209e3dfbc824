//! Finding the configuration: a file that was named, or that of a stack started here.

use std::path::{Path, PathBuf};

use millrace_config::{Config, ConfigError, process_env};

/// What `up` leaves in its data directory for other commands.
pub const CLIENT_FILE: &str = "client.toml";

/// The configuration for a command: `named`, else `./millrace.toml`, else that of the stack in
/// `./millrace-data`, else the defaults; the environment wins over all of them.
pub fn load(named: Option<&Path>) -> Result<Config, ConfigError> {
    Config::load(file(named).as_deref(), process_env(), [])
}

fn file(named: Option<&Path>) -> Option<PathBuf> {
    let candidates = [PathBuf::from("millrace.toml"), Path::new("millrace-data").join(CLIENT_FILE)];
    named.map(Path::to_path_buf).or_else(|| candidates.into_iter().find(|path| path.is_file()))
}
