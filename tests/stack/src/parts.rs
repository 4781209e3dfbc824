//! Where the fetched servers are.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// A server that `fetch.sh` can bring, with the pom that names its version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched {
    name: &'static str,
    pom: &'static str,
}

pub(crate) const KAFKA: Fetched = Fetched { name: "kafka", pom: include_str!("../maven/kafka/pom.xml") };
pub(crate) const CASSANDRA: Fetched = Fetched { name: "cassandra", pom: include_str!("../maven/cassandra/pom.xml") };
pub(crate) const APICURIO: Fetched = Fetched { name: "apicurio", pom: include_str!("../maven/apicurio/pom.xml") };

impl Fetched {
    /// The part's version: the only `<version>` of its pom at two spaces of indentation, which is
    /// what `fetch.sh` reads too.
    pub(crate) fn version(self) -> &'static str {
        self.pom
            .lines()
            .find_map(|line| line.strip_prefix("  <version>")?.strip_suffix("</version>"))
            .expect("every pom in tests/stack/maven has a version; a unit test reads them all")
    }

    /// The folder of the fetched part.
    ///
    /// # Errors
    /// When the part was not fetched, or not completely.
    pub(crate) fn locate(self) -> Result<PathBuf> {
        let folder = cache_dir()?.join("parts").join(format!("{}-{}", self.name, self.version()));
        // The stamp is the pom it was fetched by: another pom may mean other jars.
        if std::fs::read_to_string(folder.join(".complete")).ok().as_deref() != Some(self.pom) {
            bail!(
                "{} {} is not, or not completely, in {}: run tests/stack/fetch.sh {}",
                self.name,
                self.version(),
                folder.display(),
                self.name
            );
        }
        Ok(folder)
    }
}

/// The folder with Kafka's jars, its Java client among them.
///
/// # Errors
/// When Kafka was not fetched.
pub fn kafka_jars() -> Result<PathBuf> {
    Ok(KAFKA.locate()?.join("libs"))
}

/// `$MILLRACE_CACHE`, else `millrace` under `$XDG_CACHE_HOME` or `$HOME/.cache`.
///
/// # Errors
/// When none of these variables is set.
pub fn cache_dir() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("MILLRACE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("millrace")))
        .context("no cache folder: set MILLRACE_CACHE or HOME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pom_names_its_version() {
        for part in [KAFKA, CASSANDRA, APICURIO] {
            assert!(part.version().starts_with(|first: char| first.is_ascii_digit()), "{part:?}");
        }
    }
}
