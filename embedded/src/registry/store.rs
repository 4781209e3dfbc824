//! What is registered, in one JSON file.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{WHAT, compatibility::Level};
use crate::EmbeddedError;

const FILE: &str = "registry.json";
const NEW_FILE: &str = "registry.json.new";

/// A schema that another one names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) version: u32,
}

/// One schema as it was registered first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Schema {
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) references: Vec<Reference>,
}

impl Schema {
    /// What names it in every registry: a function of its text.
    pub(super) fn guid(&self) -> Uuid {
        let digest = Sha256::digest(&self.text);
        Uuid::new_v8(std::array::from_fn(|index| digest[index]))
    }

    /// The same schema written with other blanks or another order of attributes is the same.
    /// Documentation and defaults count.
    fn is_same_as(&self, other: &Self) -> bool {
        let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
        self.references == other.references
            && (self.text == other.text || parse(&self.text).is_some_and(|own| Some(own) == parse(&other.text)))
    }
}

/// Everything that is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    /// The schema with id n is at n - 1.
    pub(super) schemas: Vec<Schema>,
    /// The id of version n of a subject is at n - 1.
    pub(super) subjects: BTreeMap<String, Vec<u32>>,
    pub(super) level: Option<Level>,
    #[serde(default)]
    pub(super) subject_levels: BTreeMap<String, Level>,
}

impl Contents {
    pub(super) fn schema(&self, id: u32) -> Option<&Schema> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        self.schemas.get(index)
    }

    pub(super) fn id(&self, schema: &Schema) -> Option<u32> {
        let index = self.schemas.iter().position(|known| known.is_same_as(schema))?;
        u32::try_from(index + 1).ok()
    }

    /// Returns the id of a subject's version.
    pub(super) fn version(&self, subject: &str, version: u32) -> Option<u32> {
        let index = usize::try_from(version).ok()?.checked_sub(1)?;
        self.subjects.get(subject)?.get(index).copied()
    }

    pub(super) fn level(&self, subject: &str) -> Level {
        self.subject_levels.get(subject).copied().or(self.level).unwrap_or_default()
    }

    /// Adds a schema to a subject, whatever it is compatible with, and returns its id.
    pub(super) fn add(&mut self, subject: &str, schema: Schema) -> Option<u32> {
        let id = match self.id(&schema) {
            Some(id) => id,
            None => {
                self.schemas.push(schema);
                u32::try_from(self.schemas.len()).ok()?
            }
        };
        let versions = self.subjects.entry(subject.to_owned()).or_default();
        if !versions.contains(&id) {
            versions.push(id);
        }
        Some(id)
    }

    fn is_sound(&self) -> bool {
        self.subjects.values().flatten().all(|id| self.schema(*id).is_some())
    }
}

/// The contents and the file that they are kept in.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    contents: Contents,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Self, EmbeddedError> {
        let path = directory.join(FILE);
        let contents = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Contents>(&bytes)
                .map_err(|error| EmbeddedError::storage(WHAT, directory, &error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(EmbeddedError::directory(&path, error)),
        };
        if !contents.is_sound() {
            return Err(EmbeddedError::storage(WHAT, directory, "a subject names a schema that is not there"));
        }
        Ok(Self { directory: directory.into(), contents })
    }

    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Replaces the contents once they are on disk: a crash leaves the old file or the new one.
    pub(super) fn replace(&mut self, contents: Contents) -> io::Result<()> {
        if contents == self.contents {
            return Ok(());
        }
        let new = self.directory.join(NEW_FILE);
        let mut file = File::create(&new)?;
        serde_json::to_writer_pretty(&mut file, &contents)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, self.directory.join(FILE))?;
        File::open(&self.directory)?.sync_all()?;
        self.contents = contents;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Schema {
        Schema { text: text.into(), references: Vec::new() }
    }

    #[test]
    fn the_same_schema_has_the_same_id_under_every_subject() {
        let mut contents = Contents::default();
        let one = contents.add("a", schema(r#"{"type":"string","doc":"x"}"#)).unwrap();
        let same = contents.add("b", schema(r#"{ "doc": "x", "type": "string" }"#)).unwrap();
        let other = contents.add("a", schema(r#"{"type":"string","doc":"y"}"#)).unwrap();
        assert_eq!((one, same, other), (1, 1, 2));
        assert_eq!(contents.subjects["a"], [1, 2]);
        assert_eq!(contents.subjects["b"], [1]);
    }

    #[test]
    fn what_was_replaced_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut contents = Contents::default();
        contents.add("a", schema(r#""string""#)).unwrap();
        contents.subject_levels.insert("a".into(), Level::Full);
        Store::open(directory.path()).unwrap().replace(contents.clone()).unwrap();
        assert_eq!(*Store::open(directory.path()).unwrap().contents(), contents);
    }

    #[test]
    fn a_damaged_file_is_refused_in_one_line() {
        for damage in ["", "{", r#"{"schemas":[],"subjects":{"a":[1]},"level":null}"#] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join(FILE), damage).unwrap();
            let message = Store::open(directory.path()).unwrap_err().to_string();
            assert!(message.contains("cannot open its data") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_half_written_new_file_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(NEW_FILE), "{").unwrap();
        assert_eq!(*Store::open(directory.path()).unwrap().contents(), Contents::default());
    }
}
