//! Events to bytes and back in Confluent's wire format: a zero byte, the schema's id in the
//! registry (four bytes, big endian), Avro.
//!
//! Our own schemas are registered once at start, so encoding never waits for the registry. A
//! record that somebody else wrote with another version of the schema is resolved to ours; its
//! schema is fetched once and kept.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use schema_registry_converter::async_impl::schema_registry::{SrSettings, get_schema_by_id, post_schema};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SchemaType, SuppliedSchema};
use serde::{Serialize, de::DeserializeOwned};

use crate::budget::Budget;
use crate::directory::{AuditRecord, DirectoryEntry};
use crate::events::{
    Call, Cancellation, Completion, DeadLetter, DeadLetterAction, Document, Fact, Outcome, Prompt, Redrive, Request,
};
use crate::json::JsonView;
use crate::limit_use::LimitUse;
use crate::reply_chunk::ReplyChunk;
use crate::schema_id::{Guids, SchemaId, split_id};

/// Header in which Confluent's serializers name the schema of a value that has no frame.
pub const VALUE_SCHEMA_ID_HEADER: &str = "__value_schema_id";

/// More than this many foreign schemas are not kept: the rest are fetched each time.
const FOREIGN_SCHEMAS_KEPT: usize = 1024;

/// How often a refused registration is tried again.
const REFUSALS: u32 = 4;

/// How to reach the registry.
#[derive(Debug, Clone, Default)]
pub struct RegistryAccess {
    /// Base URL of the Confluent API.
    pub url: String,
    /// User name for basic authorization.
    pub username: Option<String>,
    /// Password for basic authorization.
    pub password: Option<String>,
}

/// What can go wrong between events and bytes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CodecError {
    /// The registry can not be asked now: the same bytes may decode later.
    #[error("the schema registry does not answer: {0}")]
    Registry(String),
    /// The registry refuses our schema: somebody registered an incompatible one.
    #[error("the schema registry refuses the schema of `{event}` for subject `{subject}`: {error}")]
    Refused {
        /// Name of the event.
        event: &'static str,
        /// Subject it was to be registered under.
        subject: String,
        /// What the registry said.
        error: String,
    },
    /// These bytes will never decode.
    #[error("{0}")]
    Undecodable(String),
}

impl CodecError {
    /// True when the same bytes may decode later.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Registry(_) => true,
            Self::Refused { .. } | Self::Undecodable(_) => false,
        }
    }
}

/// A type that travels: its name, its schema and its parsed form.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Full name of the record.
    const NAME: &'static str;
    /// The schema's text, as in `avro/`.
    const SCHEMA: &'static str;
    /// Parsed forms, made once.
    fn avro() -> &'static EventSchema;
}

/// A schema parsed once, with its reader and writer.
pub struct EventSchema {
    schema: &'static Schema,
    reader: GenericDatumReader<'static>,
    writer: GenericDatumWriter<'static>,
    index: usize,
}

impl EventSchema {
    fn parse(text: &str, index: usize) -> Self {
        let schema: &'static Schema =
            Box::leak(Box::new(Schema::parse_str(text).expect("a schema of ours is valid Avro")));
        Self {
            schema,
            reader: GenericDatumReader::builder(schema).build().expect("a schema of ours resolves"),
            writer: GenericDatumWriter::builder(schema).build().expect("a schema of ours resolves"),
            index,
        }
    }

    /// The parsed schema.
    #[must_use]
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }
}

macro_rules! events {
    ($($index:literal $type:ident $file:literal),+ $(,)?) => {
        $(impl Event for $type {
            const NAME: &'static str = concat!("millrace.v1.", stringify!($type));
            const SCHEMA: &'static str = include_str!(concat!("../avro/", $file, ".avsc"));
            fn avro() -> &'static EventSchema {
                static PARSED: LazyLock<EventSchema> = LazyLock::new(|| EventSchema::parse($type::SCHEMA, $index));
                &PARSED
            }
        })+

        /// Name, schema text of every event.
        pub const ALL_EVENTS: &[(&str, &str)] = &[$(($type::NAME, $type::SCHEMA)),+];
    };
}

events! {
    0 Request "request", 1 Prompt "prompt", 2 Completion "completion", 3 Outcome "outcome",
    4 Call "call", 5 Fact "fact", 6 Document "document", 7 DeadLetter "dead-letter",
    8 Cancellation "cancellation", 9 Redrive "redrive", 10 DeadLetterAction "dead-letter-action",
    11 ReplyChunk "reply-chunk", 12 DirectoryEntry "directory-entry", 13 AuditRecord "audit-record",
    14 LimitUse "limit-use", 15 Budget "budget",
}

/// Encodes and decodes events. Cheap to clone.
#[derive(Clone)]
pub struct Codec {
    shared: Arc<Shared>,
}

struct Shared {
    settings: SrSettings,
    ids: [u32; ALL_EVENTS.len()],
    foreign: RwLock<HashMap<SchemaId, &'static Schema>>,
    by_guid: Option<Guids>,
}

impl Codec {
    /// Registers our schemas under `<topic>-value` for each `(topic, event name)` given, and takes
    /// the ids that the registry answers.
    ///
    /// # Errors
    /// [`CodecError::Registry`] when it can not be reached, [`CodecError::Refused`] when a subject
    /// holds an incompatible schema.
    pub async fn connect(access: &RegistryAccess, topics: &[(String, &'static str)]) -> Result<Self, CodecError> {
        let settings = settings(access)?;
        let mut ids = [0; ALL_EVENTS.len()];
        for (index, (event, schema)) in ALL_EVENTS.iter().enumerate() {
            let subjects = topics.iter().filter(|(_, name)| name == event).map(|(topic, _)| format!("{topic}-value"));
            for subject in subjects {
                ids[index] = register(&settings, event, schema, subject).await?;
            }
        }
        let by_guid = Some(Guids::new(access));
        Ok(Self { shared: Arc::new(Shared { settings, ids, foreign: RwLock::default(), by_guid }) })
    }

    /// A codec with ids of its own and no registry, for unit tests: it reads only what it wrote.
    ///
    /// # Errors
    /// Never in practice: the settings are constant.
    pub fn detached() -> Result<Self, CodecError> {
        let settings = settings(&RegistryAccess { url: "http://127.0.0.1:1".to_owned(), ..RegistryAccess::default() })?;
        let ids = std::array::from_fn(|index| u32::try_from(index).map_or(u32::MAX, |i| i + 1));
        Ok(Self { shared: Arc::new(Shared { settings, ids, foreign: RwLock::default(), by_guid: None }) })
    }

    /// The bytes of an event.
    ///
    /// # Errors
    /// [`CodecError::Undecodable`] when the value does not fit its schema, which is a bug.
    pub fn encode<E: Event>(&self, event: &E) -> Result<Vec<u8>, CodecError> {
        let avro = E::avro();
        let mut bytes = Vec::with_capacity(512);
        bytes.push(0);
        bytes.extend_from_slice(&self.shared.ids[avro.index].to_be_bytes());
        avro.writer
            .write_ser(&mut bytes, event)
            .map_err(|e| CodecError::Undecodable(format!("{} does not fit its schema: {e}", E::NAME)))?;
        Ok(bytes)
    }

    /// The event in `bytes`, whichever version of its schema it was written with.
    ///
    /// # Errors
    /// [`CodecError::Registry`] when the writer's schema can not be fetched now,
    /// [`CodecError::Undecodable`] when it never will.
    pub async fn decode<E: Event>(&self, bytes: &[u8]) -> Result<E, CodecError> {
        let (id, rest) = unframe(bytes)?;
        self.decode_datum(id, rest).await
    }

    /// The same for a record of other people's, which may name its schema in the header
    /// [`VALUE_SCHEMA_ID_HEADER`]; then the value is the datum alone.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub async fn decode_record<E: Event>(&self, header: Option<&[u8]>, value: &[u8]) -> Result<E, CodecError> {
        let Some(header) = header else { return self.decode(value).await };
        match split_id(header) {
            Some((id, [])) => self.decode_datum(id, value).await,
            Some(_) | None => Err(CodecError::Undecodable(format!(
                "the header `{VALUE_SCHEMA_ID_HEADER}` holds no schema id (a zero byte and four bytes of id, or a \
                 byte of one and a GUID of 16)"
            ))),
        }
    }

    async fn decode_datum<E: Event>(&self, id: SchemaId, mut rest: &[u8]) -> Result<E, CodecError> {
        let avro = E::avro();
        let undecodable = |e: String| CodecError::Undecodable(format!("not a {}: {e}", E::NAME));
        if id == SchemaId::Number(self.shared.ids[avro.index]) {
            let event = avro.reader.read_deser::<E>(&mut rest).map_err(|e| undecodable(e.to_string()))?;
            return if rest.is_empty() {
                Ok(event)
            } else {
                Err(undecodable(format!("{} bytes too many", rest.len())))
            };
        }
        let writer = self.schema(id).await?;
        let value = GenericDatumReader::builder(writer)
            .reader_schema(avro.schema)
            .build()
            .and_then(|reader| reader.read_value(&mut rest))
            .map_err(|e| undecodable(e.to_string()))?;
        apache_avro::from_value(&value).map_err(|e| undecodable(e.to_string()))
    }

    /// Any record that the registry knows, for people to look at: the schema's name and the value.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub async fn view(&self, bytes: &[u8]) -> Result<JsonView, CodecError> {
        let (id, mut rest) = unframe(bytes)?;
        let writer = self.schema(id).await?;
        let value: Value = GenericDatumReader::builder(writer)
            .build()
            .and_then(|reader| reader.read_value(&mut rest))
            .map_err(|e| CodecError::Undecodable(e.to_string()))?;
        let name = writer.name().map_or_else(|| "unnamed".to_owned(), |name| name.fullname(None).to_string());
        Ok(JsonView { name, value: crate::json::value_to_json(&value) })
    }

    async fn schema(&self, id: SchemaId) -> Result<&'static Schema, CodecError> {
        if let SchemaId::Number(id) = id
            && let Some(index) = self.shared.ids.iter().position(|known| *known == id && id != 0)
        {
            return Ok(own_schema(index));
        }
        if let Some(schema) = self.foreign().get(&id) {
            return Ok(schema);
        }
        let registered = self.fetch(id).await?;
        let parsed = Schema::parse_str(&registered)
            .map_err(|e| CodecError::Undecodable(format!("schema {id} of the registry is not Avro: {e}")))?;
        let mut foreign = self.shared.foreign.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if foreign.len() >= FOREIGN_SCHEMAS_KEPT {
            return Err(CodecError::Undecodable(format!(
                "more than {FOREIGN_SCHEMAS_KEPT} different schemas were seen: producers must register one schema, not one per record"
            )));
        }
        // Kept for the life of the process: the bound above makes the leak a cache.
        Ok(foreign.entry(id).or_insert_with(|| Box::leak(Box::new(parsed))))
    }

    async fn fetch(&self, id: SchemaId) -> Result<String, CodecError> {
        match (id, &self.shared.by_guid) {
            (SchemaId::Guid(guid), Some(guids)) => guids.fetch(guid).await,
            (SchemaId::Guid(_), None) => Err(CodecError::Undecodable("this codec has no registry".to_owned())),
            (SchemaId::Number(number), _) => {
                let registered = get_schema_by_id(number, &self.shared.settings).await.map_err(|e| {
                    if e.retriable {
                        CodecError::Registry(one_line(&e))
                    } else {
                        CodecError::Undecodable(format!("the registry knows no schema with id {id}: {}", one_line(&e)))
                    }
                })?;
                Ok(registered.schema)
            }
        }
    }

    fn foreign(&self) -> std::sync::RwLockReadGuard<'_, HashMap<SchemaId, &'static Schema>> {
        self.shared.foreign.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Registers one schema. A registry may refuse a subject that another process is just making, so a
/// refusal counts only when it is repeated.
async fn register(
    settings: &SrSettings,
    event: &'static str,
    schema: &str,
    subject: String,
) -> Result<u32, CodecError> {
    let mut tries = 0;
    loop {
        let supplied = SuppliedSchema::new(Some(event.to_owned()), SchemaType::Avro, schema.to_owned());
        match post_schema(settings, subject.clone(), supplied).await {
            Ok(registered) => return Ok(registered.id),
            Err(error) if error.retriable => return Err(CodecError::Registry(one_line(&error))),
            Err(error) if tries >= REFUSALS => {
                return Err(CodecError::Refused { event, subject, error: one_line(&error) });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200 << tries)).await,
        }
        tries += 1;
    }
}

fn own_schema(index: usize) -> &'static Schema {
    static SCHEMAS: LazyLock<Vec<&'static Schema>> = LazyLock::new(|| {
        vec![
            Request::avro().schema,
            Prompt::avro().schema,
            Completion::avro().schema,
            Outcome::avro().schema,
            Call::avro().schema,
            Fact::avro().schema,
            Document::avro().schema,
            DeadLetter::avro().schema,
            Cancellation::avro().schema,
            Redrive::avro().schema,
            DeadLetterAction::avro().schema,
            ReplyChunk::avro().schema,
            DirectoryEntry::avro().schema,
            AuditRecord::avro().schema,
            LimitUse::avro().schema,
            Budget::avro().schema,
        ]
    });
    SCHEMAS[index]
}

fn unframe(bytes: &[u8]) -> Result<(SchemaId, &[u8]), CodecError> {
    split_id(bytes).ok_or_else(|| {
        CodecError::Undecodable(
            "not Confluent-framed Avro (a zero byte, four bytes of schema id, the datum); \
             plain JSON needs the header `content-type: application/json`"
                .to_owned(),
        )
    })
}

fn settings(access: &RegistryAccess) -> Result<SrSettings, CodecError> {
    // A crafted length must not reserve memory: no event is larger than the largest record.
    apache_avro::util::max_allocation_bytes(64 << 20);
    let mut builder = SrSettings::new_builder(access.url.trim_end_matches('/').to_owned());
    builder.set_timeout(Duration::from_secs(10)).no_proxy();
    if let Some(username) = &access.username {
        builder.set_basic_authorization(username, access.password.as_deref());
    }
    builder.build().map_err(|e| CodecError::Registry(one_line(&e)))
}

fn one_line(error: &SRCError) -> String {
    match &error.cause {
        Some(cause) => format!("{} ({})", error.error, cause.replace('\n', " ")),
        None => error.error.clone(),
    }
}
