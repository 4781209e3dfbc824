//! Whether a secret is in anything that was written: records, files, metrics, answers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aho_corasick::AhoCorasick;
use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::{Response, StatusCode};

/// How the names of files end from which secrets are read.
const HOLDERS: [&str; 3] = ["toml", "properties", "keys"];
/// How long a broker may take for an answer, or be silent before the end of a topic.
const SILENCE: Duration = Duration::from_secs(60);

/// Secrets of a run, gathered while it goes on. Copies are the same.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<BTreeMap<String, String>>>);

impl Secrets {
    /// From now on this value is one; it is called so in messages.
    pub fn add(&self, name: impl Into<String>, value: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(value.into(), name.into());
    }

    /// A search for every one, and for witnesses (what they are called, and their values): what was written for all to
    /// read, so that it shows where the search can find.
    ///
    /// # Errors
    /// A value that is empty.
    pub fn search(&self, witnesses: &[(&str, &str)]) -> anyhow::Result<Search> {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let secrets = secrets.into_iter().map(|(value, name)| (Sought::new(name, true), value));
        let witnesses = witnesses.iter().map(|(name, value)| (Sought::new(*name, false), (*value).to_owned()));
        let (sought, values): (Vec<_>, Vec<_>) = secrets.chain(witnesses).unzip();
        let (mut of_pattern, mut patterns) = (Vec::new(), Vec::new());
        for (index, value) in values.iter().enumerate() {
            ensure!(!value.is_empty(), "{} is empty", sought[index].name);
            for form in forms(value) {
                of_pattern.push(index);
                patterns.push(form);
            }
        }
        Ok(Search { finder: AhoCorasick::new(&patterns)?, sought, of_pattern })
    }
}

/// A search through whatever it is shown.
pub struct Search {
    sought: Vec<Sought>,
    finder: AhoCorasick,
    /// Which value each pattern is a form of.
    of_pattern: Vec<usize>,
}

struct Sought {
    name: String,
    is_secret: bool,
    places: BTreeSet<String>,
}

impl Sought {
    fn new(name: impl Into<String>, is_secret: bool) -> Self {
        Self { name: name.into(), is_secret, places: BTreeSet::new() }
    }
}

impl Search {
    /// Looks through some bytes, which lie there.
    pub fn look(&mut self, place: &str, bytes: &[u8]) {
        for found in self.finder.find_overlapping_iter(bytes) {
            let places = &mut self.sought[self.of_pattern[found.pattern().as_usize()]].places;
            if !places.contains(place) {
                places.insert(place.to_owned());
            }
        }
    }

    /// Looks through an answer, headers and body; what it says.
    ///
    /// # Errors
    /// An answer that breaks off.
    pub async fn answer(&mut self, place: &str, answer: Response) -> anyhow::Result<(StatusCode, String)> {
        for value in answer.headers().values() {
            self.look(place, value.as_bytes());
        }
        let (status, text) = (answer.status(), answer.text().await?);
        self.look(place, text.as_bytes());
        Ok((status, text))
    }

    /// Looks through the files of a folder and those in it, each a place called `file` and its path; but not through
    /// those that secrets are read from.
    ///
    /// # Errors
    /// Files that can not be read.
    pub fn folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        self.files(folder, folder)
    }

    fn files(&mut self, root: &Path, folder: &Path) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
            if path.is_dir() {
                self.files(root, &path)?;
            } else if !HOLDERS.contains(&end) {
                match std::fs::read(&path) {
                    Ok(bytes) => self.look(&format!("file {}", path.strip_prefix(root)?.display()), &bytes),
                    // A store that runs takes away what it does not need any more.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| path.display().to_string()),
                }
            }
        }
        Ok(())
    }

    /// Looks through every record of every topic, each of which is a place called `topic` and its name: keys, values,
    /// names and values of headers. Blocks.
    ///
    /// # Errors
    /// A broker that does not answer.
    pub fn records(&mut self, bootstrap_servers: &str) -> anyhow::Result<()> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "search")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted")
            .create()?;
        let metadata = consumer.fetch_metadata(None, SILENCE)?;
        for topic in metadata.topics() {
            let partitions = topic.partitions().iter().map(|partition| partition.id()).collect();
            self.topic(&consumer, topic.name(), partitions)?;
        }
        Ok(())
    }

    fn topic(&mut self, consumer: &BaseConsumer, topic: &str, mut left: HashSet<i32>) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        left.iter().try_for_each(|partition| list.add_partition_offset(topic, *partition, Offset::Beginning))?;
        consumer.assign(&list)?;
        let mut heard = Instant::now();
        while !left.is_empty() {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(record)) => self.record(&record),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    left.remove(&partition);
                }
                Some(Err(error)) => return Err(error).with_context(|| topic.to_owned()),
                None if heard.elapsed() > SILENCE => bail!("the broker is silent before the end of {topic}"),
                None => continue,
            }
            heard = Instant::now();
        }
        Ok(())
    }

    fn record(&mut self, record: &BorrowedMessage<'_>) {
        let place = format!("topic {}", record.topic());
        for bytes in [record.key(), record.payload()].into_iter().flatten() {
            self.look(&place, bytes);
        }
        for header in record.headers().into_iter().flat_map(Headers::iter) {
            self.look(&place, header.key.as_bytes());
            self.look(&place, header.value.unwrap_or_default());
        }
    }

    /// A witness was found in a place.
    ///
    /// # Errors
    /// It was not: the search does not find what is there.
    pub fn finds(&self, witness: &str, place: &str) -> anyhow::Result<()> {
        let sought = self.sought.iter().find(|sought| !sought.is_secret && sought.name == witness);
        let places = &sought.with_context(|| format!("nobody looks for {witness}"))?.places;
        ensure!(places.contains(place), "{witness} is not found in {place}, but in {places:?}");
        Ok(())
    }

    /// No secret was found anywhere.
    ///
    /// # Errors
    /// One was: which and where, without its value.
    pub fn finds_no_secret(&self) -> anyhow::Result<()> {
        let found = self.sought.iter().filter(|sought| sought.is_secret && !sought.places.is_empty());
        let found: Vec<String> = found.map(|sought| format!("{} in {:?}", sought.name, sought.places)).collect();
        ensure!(found.is_empty(), "secrets were written: {}", found.join("; "));
        Ok(())
    }
}

/// A value as it is, and as base64 and hexadecimal digits show it amid other bytes.
fn forms(value: &str) -> BTreeSet<Vec<u8>> {
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = BTreeSet::from([value.into(), hex.to_uppercase().into_bytes(), hex.into_bytes()]);
    for before in 0..3 {
        let bytes = [&[0; 3][..before], value.as_bytes()].concat();
        // Digits that hold bits of a neighbour are left out.
        let digits = (before * 8).div_ceil(6)..bytes.len() * 8 / 6;
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            forms.insert(engine.encode(&bytes)[digits.clone()].into());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let secrets = Secrets::default();
        values.iter().for_each(|value| secrets.add(format!("the key of {} bytes", value.len()), *value));
        secrets
    }

    #[test]
    fn a_value_is_found_in_each_form() {
        let value = "sk-live?>~1";
        for around in ["", "a", "ab", "abc"] {
            let text = format!("{around}{value}{around}");
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            for written in [
                text.clone(),
                STANDARD.encode(&text),
                URL_SAFE_NO_PAD.encode(&text),
                hex.to_uppercase(),
                hex,
                format!("{{\"outcome\":\"{}\"}}", STANDARD.encode(&text)),
            ] {
                let mut search = secrets(&[value]).search(&[]).unwrap();
                search.look("there", written.as_bytes());
                let told = search.finds_no_secret().unwrap_err().to_string();
                assert_eq!(told, "secrets were written: the key of 11 bytes in {\"there\"}", "{written}");
            }
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let mut search = secrets(&["sk-live-1", "sk-live-12"]).search(&[("a word", "sk-live")]).unwrap();
        search.look("one", b"sk-live-2 and sk-liv");
        search.finds_no_secret().unwrap();
        search.finds("a word", "one").unwrap();
        assert!(search.finds("a word", "two").is_err() && search.finds("another word", "one").is_err());
        search.look("two", b"sk-live-12");
        let told = search.finds_no_secret().unwrap_err().to_string();
        assert!(told.contains("of 9 bytes") && told.contains("of 10 bytes") && !told.contains("sk-live"), "{told}");
    }

    #[test]
    fn files_are_read_but_for_those_that_hold_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("backup");
        std::fs::create_dir(&inner).unwrap();
        for (name, text) in [("a.toml", "sk-live-1"), ("b.keys", "sk-live-1"), ("backup/store.jsonl", "req_1")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut search = secrets(&["sk-live-1"]).search(&[("a request", "req_1")]).unwrap();
        search.folder(folder.path()).unwrap();
        search.finds("a request", "file backup/store.jsonl").unwrap();
        search.finds_no_secret().unwrap();
        std::fs::write(inner.join("a.log"), "its key is sk-live-1").unwrap();
        search.folder(folder.path()).unwrap();
        assert!(search.finds_no_secret().unwrap_err().to_string().contains("file backup/a.log"));
    }
}
