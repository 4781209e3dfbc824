//! Takes up another configuration while the process runs: all of it or nothing, and only what can be taken up.

use std::time::Duration;

use anyhow::Context;
use millrace_config::{Config, Settled, Snapshot};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config_metrics::{ConfigMetrics, Taken};
use crate::ui::one_line;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A change counts at the look that finds it for this time in a row.
const LOOKS: u32 = 2;
/// The same at the front door: everybody else is to know a key before the first record is signed with it.
const LOOKS_OF_INGRESS: u32 = 5;
/// So many keys are named in a line of the log.
const NAMED: usize = 20;

/// Reads the configuration as the process did at its start.
pub type Load = Box<dyn Fn() -> anyhow::Result<Config> + Send + Sync>;
/// Uses a configuration from now on; an error leaves everything as it was.
pub type TakeUp = Box<dyn Fn(&Config) -> anyhow::Result<()> + Send + Sync>;

/// SIGHUP, from the moment on that this is made; until then it ends the process.
pub struct Hangups(Signal);

impl Hangups {
    /// Listens.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self(signal(SignalKind::hangup()).context("SIGHUP can not be listened for")?))
    }
}

/// The configuration that is used, and what is done with the next one.
pub struct Reloader {
    used: Snapshot,
    load: Load,
    take_up: TakeUp,
    metrics: ConfigMetrics,
    looks: u32,
}

/// A configuration that was read, or why there is none.
type Loaded = Result<(Config, Snapshot), String>;

impl Reloader {
    /// `used` is what the process has started with.
    pub fn new(used: Snapshot, load: Load, take_up: TakeUp, metrics: ConfigMetrics) -> Self {
        metrics.uses(used.version());
        Self { used, load, take_up, metrics, looks: LOOKS }
    }

    /// The front door takes a change of the file up after everybody else.
    pub fn after_the_others(self) -> Self {
        Self { looks: LOOKS_OF_INGRESS, ..self }
    }

    /// Reads the configuration again at each SIGHUP and whenever it has changed, until `shutdown`.
    pub async fn keep_up(mut self, mut hangups: Hangups, shutdown: CancellationToken) {
        let mut settled = Settled::new(Ok(self.used.clone()), self.looks);
        loop {
            let is_told = tokio::select! {
                () = shutdown.cancelled() => return,
                told = hangups.0.recv() => told.is_some(),
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let loaded = self.read();
            let seen = loaded.as_ref().map(|(_, snapshot)| snapshot.clone()).map_err(String::clone);
            if is_told {
                settled.know(seen);
            } else if !settled.look(seen) {
                continue;
            }
            self.take(loaded);
        }
    }

    fn read(&self) -> Loaded {
        let config = (self.load)().map_err(|error| one_line(&error))?;
        let snapshot = Snapshot::of(&config);
        Ok((config, snapshot))
    }

    fn take(&mut self, loaded: Loaded) -> Taken {
        let taken = self.judge(loaded);
        self.metrics.reloaded(taken);
        taken
    }

    fn judge(&mut self, loaded: Loaded) -> Taken {
        let used = self.used.version().to_owned();
        let (config, next) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(used, error, "the configuration can not be used; the one before stays");
                return Taken::Invalid;
            }
        };
        let (version, difference) = (next.version().to_owned(), self.used.difference(&next));
        if difference.is_empty() {
            tracing::info!(version, "the configuration was read again and says nothing new");
            return Taken::Unchanged;
        }
        if !difference.restart.is_empty() {
            let keys = named(&difference.restart);
            tracing::error!(used, version, keys, "the configuration needs a restart; all of the one before stays");
            return Taken::NeedsRestart;
        }
        if let Err(error) = (self.take_up)(&config) {
            let error = one_line(&error);
            tracing::error!(used, version, error, "the configuration can not be used; the one before stays");
            return Taken::Invalid;
        }
        tracing::info!(used, version, keys = named(&difference.live), "a new configuration is used from now on");
        self.used = next;
        self.metrics.uses(&version);
        Taken::Applied
    }
}

fn named(keys: &[String]) -> String {
    let more = keys.len().saturating_sub(NAMED);
    let shown = keys.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use anyhow::bail;
    use millrace_admission::Directory;
    use millrace_settings::{Current, Settings};

    use super::*;

    const GOOD: &str = "[tenants.acme]\nname = \"Acme\"\n";

    /// A reloader of a file, and the names of `acme` that it took up; `Bad` is refused.
    fn reloader(file: &Path, registry: &prometheus::Registry) -> (Reloader, Arc<Mutex<Vec<String>>>) {
        std::fs::write(file, GOOD).expect("written");
        let path = file.to_owned();
        let load: Load = Box::new(move || Ok(Config::load(Some(&path), std::iter::empty(), [])?));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let names = Arc::clone(&taken);
        let take_up: TakeUp = Box::new(move |config| {
            let name = config.tenants.get("acme").and_then(|tenant| tenant.name.clone()).unwrap_or_default();
            if name == "Bad" {
                bail!("it is bad");
            }
            names.lock().expect("no panic").push(name);
            Ok(())
        });
        let used = Snapshot::of(&load().expect("valid"));
        let metrics = ConfigMetrics::register(registry).expect("registered");
        (Reloader::new(used, load, take_up, metrics), taken)
    }

    fn metric(registry: &prometheus::Registry, start: &str) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    #[test]
    fn all_of_a_configuration_is_taken_up_or_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, registry) = (folder.path().join("millrace.toml"), prometheus::Registry::new());
        let (mut reloader, taken) = reloader(&file, &registry);
        let first = reloader.used.clone();
        let mut check = |text: &str, expected: Taken, names: &[&str]| {
            std::fs::write(&file, text).expect("written");
            let loaded = reloader.read();
            assert_eq!(reloader.take(loaded), expected, "{text}");
            assert_eq!(*taken.lock().expect("no panic"), names, "{text}");
            let version = format!("millrace_config_info{{version=\"{}\"}} 1", reloader.used.version());
            assert_eq!(metric(&registry, "millrace_config_info"), [version], "{text}");
            let good = format!("millrace_config_last_reload_successful {}", i32::from(expected.is_good()));
            assert_eq!(metric(&registry, "millrace_config_last_reload_successful"), [good], "{text}");
            reloader.used.clone()
        };
        let other = GOOD.replace("Acme", "Other");
        assert_eq!(check(GOOD, Taken::Unchanged, &[]), first);
        assert_eq!(check(&format!("# more words\n{GOOD}"), Taken::Unchanged, &[]), first);
        assert_eq!(check("[tenants.acme", Taken::Invalid, &[]), first);
        assert_eq!(check("[tenants.acme]\nplan = \"none\"\n", Taken::Invalid, &[]), first);
        assert_eq!(check(&GOOD.replace("Acme", "Bad"), Taken::Invalid, &[]), first);
        // The tenant's new name is not taken either.
        assert_eq!(check(&format!("{other}[stage]\nwindow = 7\n"), Taken::NeedsRestart, &[]), first);
        assert_ne!(check(&other, Taken::Applied, &["Other"]), first);
        assert_eq!(check(GOOD, Taken::Applied, &["Other", "Acme"]), first);
        std::fs::remove_file(&file).expect("removed");
        let loaded = reloader.read();
        assert_eq!(reloader.take(loaded), Taken::Invalid);
        assert_eq!(metric(&registry, "millrace_config_reloads_total{result=\"invalid\"}").len(), 1);
    }

    /// Rule sets, prices and models are part of what is used or not; the last that could be used stays.
    #[test]
    fn what_the_settings_refuse_is_invalid_and_the_last_good_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("written");
        let price = |version: &str| {
            format!(
                "version = \"{version}\"\ncurrency = \"USD\"\n[[price]]\nprovider = \"*\"\nmodel = \"m\"\n\
                 effective_from = 2020-01-01\ninput_per_million = 1\noutput_per_million = 1\n"
            )
        };
        let model = "context_tokens = 8000\nmax_output_tokens = 9\nprovider = \"p\"\n";
        let good = format!(
            "moderation.rules_file = {:?}\npricing.file = {:?}\n[providers.p]\nbase_url = \"http://127.0.0.1:1/v1\"\n[models.m]\n{model}",
            path("rules"),
            path("prices")
        );
        write("rules", "[strict]\n");
        write("prices", &price("one"));
        write("file", &good);
        let file = path("file");
        let load: Load = Box::new(move || Ok(Config::load(Some(&file), std::iter::empty(), [])?));
        let config = load().expect("valid");
        let directory = Directory::from_config(&config).expect("a directory");
        let current = Current::new(Settings::new(&config, directory, true).expect("settings"));
        let used = current.clone();
        let take_up: TakeUp = Box::new(move |config| {
            used.replace(Arc::new(used.now().next(config)?));
            Ok(())
        });
        let registry = prometheus::Registry::new();
        let metrics = ConfigMetrics::register(&registry).expect("registered");
        let mut reloader = Reloader::new(Snapshot::of(&config), load, take_up, metrics);
        let mut check = |name: &str, text: &str, expected: Taken, version: &str| {
            write(name, text);
            let loaded = reloader.read();
            assert_eq!(reloader.take(loaded), expected, "{text}");
            let line = format!("millrace_config_last_reload_successful {}", i32::from(expected.is_good()));
            assert_eq!(metric(&registry, "millrace_config_last_reload_successful"), [line], "{text}");
            assert_eq!(current.now().prices.version(), version, "{text}");
            current.now()
        };
        let settings = check("prices", &price("two"), Taken::Applied, "two");
        for (name, bad, good) in [
            ("rules", "[strict]\nterms = 1\n", "[strict]\n"),
            ("prices", "version = ", price("two").as_str()),
            ("prices", price("three").replace("\"m\"", "\"n\"").as_str(), price("two").as_str()),
            ("file", format!("{good}[models.unpriced]\n{model}").as_str(), good.as_str()),
        ] {
            assert!(Arc::ptr_eq(&settings, &check(name, bad, Taken::Invalid, "two")), "{bad}");
            check(name, good, Taken::Unchanged, "two");
        }
        let new = check("file", &format!("{good}[models.new]\nupstream = \"m\"\n{model}"), Taken::Applied, "two");
        assert!(new.target("new").is_some() && settings.target("new").is_none());
    }

    /// Time is paused: it passes when everything waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_file_is_taken_up_once_it_is_finished() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, registry) = (folder.path().join("millrace.toml"), prometheus::Registry::new());
        let (reloader, taken) = reloader(&file, &registry);
        let shutdown = CancellationToken::new();
        let hangups = Hangups::listen().expect("a signal");
        let running = tokio::spawn(reloader.keep_up(hangups, shutdown.clone()));
        let looks = |count: u32| tokio::time::sleep(LOOK_EVERY * count);
        looks(1).await;
        tokio::time::sleep(LOOK_EVERY / 2).await;
        // Valid, but it is written on.
        std::fs::write(&file, GOOD.replace("Acme", "Half")).expect("written");
        looks(1).await;
        std::fs::write(&file, GOOD.replace("Acme", "Whole")).expect("written");
        looks(4).await;
        assert_eq!(*taken.lock().expect("no panic"), ["Whole"]);
        shutdown.cancel();
        running.await.expect("it ends");
    }

    #[test]
    fn a_line_names_some_keys() {
        let keys: Vec<String> = (0..22).map(|key| key.to_string()).collect();
        assert!(named(&keys).ends_with(", 19 and 2 more") && named(&keys[..2]) == "0, 1");
    }
}
