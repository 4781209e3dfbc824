//! The judgement: a request of a proven principal becomes either what to ask the provider, or how
//! it ends.

use std::collections::BTreeMap;

use millrace_config::{Config, LimitsConfig, ModelConfig};
use millrace_schemas::{Ended, Meta, Operation, Request, RequestId};

use crate::body::EditableBody;
use crate::checks::{integer, missing, wrong_type};
use crate::directory::{Directory, DirectoryError, Principal, Standing};
use crate::embeddings;
use crate::extension::Extension;
use crate::json::{self, NotAnObject};
use crate::messages::Messages;
use crate::meta::{self, Arrival, Rejected, Wrong, cut};
use crate::responses;
use crate::size::{Most, Size, fit, named_limit, named_output};
use crate::stream::Stream;
use crate::tokens::{self, Counter};

/// Members of a chat that are read here, and so may be there only once: a second one could say something
/// else to the provider.
const READ: [&str; 11] = [
    "model",
    "messages",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
    "millrace",
    "tools",
    "functions",
    "response_format",
];

/// Members that become part of the prompt beside the messages.
pub(crate) const PROMPTED: [&str; 3] = ["tools", "functions", "response_format"];

const MAX_CHOICES: u32 = 16;

/// Everything that a judgement depends on beside the request: who there is, and what may be asked.
#[derive(Debug, Clone)]
pub struct Admission {
    directory: Directory,
    models: BTreeMap<String, ModelConfig>,
    limits: LimitsConfig,
    rule_set: String,
    /// Passages by default; `None` where there are no documents.
    top_k: Option<u32>,
}

/// Passages to put into the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retrieval {
    /// Collection of the tenant.
    pub collection: String,
    /// How many passages at most.
    pub top_k: u32,
    /// What to look for: the text of the last message of a user.
    pub question: String,
}

/// A request that may be worked on.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Who asked, until when, and where the answer goes.
    pub meta: Meta,
    /// Model as the client wrote it; a chat model that the tenant may use.
    pub model: String,
    /// Rule set that the answer is held to.
    pub rule_set: String,
    /// Tokens of the prompt: counted when a collection is named or the bound would be too much, else
    /// the number of bytes, which no tokenizer exceeds.
    pub prompt_tokens: u32,
    /// What `prompt_tokens` may become by passages.
    pub prompt_limit: u32,
    /// Output tokens reserved for each choice.
    pub max_output_tokens: u32,
    /// Answers asked for.
    pub choices: u32,
    /// How the answer is to be streamed; `None` for an answer in one piece.
    pub stream: Option<Stream>,
    /// Passages to fetch.
    pub collection: Option<Retrieval>,
    /// The response that this one goes on from.
    pub previous: Option<RequestId>,
    /// The client's JSON without our own member `millrace`.
    pub body: EditableBody,
}

impl Admission {
    /// What a configuration admits.
    ///
    /// # Errors
    /// As [`Directory::from_config`].
    pub fn from_config(config: &Config) -> Result<Self, DirectoryError> {
        Ok(Self::new(config, Directory::from_config(config)?))
    }

    /// What a configuration admits of those who are in `directory`.
    #[must_use]
    pub fn new(config: &Config, directory: Directory) -> Self {
        let knows = config.vectors.url.is_some() && !config.knowledge.embedding_model.is_empty();
        Self {
            directory,
            models: config.models.clone(),
            limits: config.limits.clone(),
            rule_set: config.moderation.default.clone(),
            top_k: knows.then_some(config.knowledge.top_k),
        }
    }

    /// Whether documents are kept and found.
    pub(crate) fn has_knowledge(&self) -> bool {
        self.top_k.is_some()
    }

    /// The models that may be asked.
    #[must_use]
    pub fn models(&self) -> &BTreeMap<String, ModelConfig> {
        &self.models
    }

    /// Who there is.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Judges a request. The verdict on the same request is the same at both doors; only its id may
    /// come from its place in the log.
    ///
    /// # Errors
    /// [`Rejected`]: how it ends, with a meta of its tenant.
    pub fn admit(
        &self,
        principal: &Principal,
        request: Request,
        arrival: &Arrival<'_>,
    ) -> Result<Admitted, Box<Rejected>> {
        let standing = self.directory.standing(principal);
        let (meta, wrong) = meta::read(principal, &self.directory, &self.limits, &request, arrival);
        let rule_set = self.rule_set(&principal.tenant);
        let mut model = String::new();
        let judged = match wrong {
            Some(wrong) => Err(wrong),
            None => lane(standing.as_ref(), arrival)
                .and_then(|()| operation(&request.operation))
                .and_then(|operation| {
                    self.check_length(&request, request.body.len() as u64)?;
                    self.judge(standing.as_ref(), operation, request.body, &mut model)
                })
                .map_err(Wrong::from),
        };
        match judged.and_then(|judged| judged.complete(meta.clone(), rule_set.clone()).map_err(Wrong::from)) {
            Ok(admitted) => Ok(admitted),
            Err(Wrong { ended, dead_letter }) => {
                Err(Box::new(Rejected { meta, ended, model: cut(&model, 128), rule_set, dead_letter }))
            }
        }
    }

    /// The end of a request that never came to be judged: its record can not be read.
    #[must_use]
    pub fn reject(&self, principal: &Principal, request: &Request, arrival: &Arrival<'_>, ended: Ended) -> Rejected {
        let (meta, _) = meta::read(principal, &self.directory, &self.limits, request, arrival);
        Rejected { meta, ended, model: String::new(), rule_set: self.rule_set(&principal.tenant), dead_letter: true }
    }

    /// The end of a request whose idempotency key names another body. Its id is its own, never the
    /// one of the key, which belongs to whoever came first: `given`, the id that its door gave out,
    /// when that is another one, else the id of its place.
    #[must_use]
    pub fn key_reused(
        &self,
        meta: &Meta,
        given: Option<&str>,
        model: &str,
        rule_set: &str,
        arrival: &Arrival<'_>,
    ) -> Rejected {
        let message = "This idempotency key was used with another body: use a new key for a new request.";
        let given = given.and_then(|id| RequestId::parse(&meta.tenant, id)).filter(|id| id.as_str() != meta.request_id);
        let own = given.unwrap_or_else(|| meta::own_id(&meta.tenant, arrival));
        Rejected {
            meta: Meta { request_id: own.into_string(), idempotency_key: None, body_hash: None, ..meta.clone() },
            ended: Ended {
                http_status: 422,
                ..Ended::invalid("idempotency_key_reused", Some("idempotency_key"), message)
            },
            model: model.to_owned(),
            rule_set: rule_set.to_owned(),
            dead_letter: true,
        }
    }

    /// The rule set that answers to a tenant are held to.
    #[must_use]
    pub fn rule_set(&self, tenant: &str) -> String {
        self.directory.rule_set(tenant).unwrap_or_else(|| self.rule_set.clone())
    }

    /// Whether the body of a request may have so many bytes: in its record, or in the file that it names.
    ///
    /// # Errors
    /// How it ends that has more.
    pub fn check_length(&self, request: &Request, bytes: u64) -> Result<(), Ended> {
        let LimitsConfig { inline_bytes, body_bytes, .. } = self.limits;
        let is_chat = request.operation == Operation::Chat.as_str();
        let (most, hint) = match &request.body_file {
            Some(_) if is_chat => (body_bytes, String::new()),
            None if is_chat => {
                (inline_bytes, format!(" A record may name an uploaded file of at most {body_bytes} instead."))
            }
            Some(_) | None => (inline_bytes, String::new()),
        };
        if bytes <= most as u64 {
            return Ok(());
        }
        let message = format!("The request body has {bytes} bytes: send at most {most}.{hint}");
        Err(Ended { http_status: 413, ..Ended::invalid("request_too_large", None, message) })
    }

    fn judge(
        &self,
        standing: Option<&Standing>,
        operation: Operation,
        body: Vec<u8>,
        model: &mut String,
    ) -> Result<Judged, Ended> {
        let read: &[&str] = match operation {
            Operation::Chat => &READ,
            Operation::Embeddings => &embeddings::READ,
            Operation::Responses => &responses::READ,
        };
        let body = read_body(body, read)?;
        // The name is told in the outcome, whatever becomes of the request.
        body.get("model").and_then(json::string).into_iter().for_each(|name| *model = name.into_owned());
        let limits = self.model(standing, operation, &body)?;
        let most = Most::of(&self.limits, standing);
        match operation {
            Operation::Chat => self.judge_chat(limits, most, body, model.clone()),
            Operation::Embeddings => judge_embeddings(limits, most, body, model.clone()),
            Operation::Responses => judge_response(limits, most, body, model.clone()),
        }
    }

    fn judge_chat(
        &self,
        limits: &ModelConfig,
        most: Most,
        mut body: EditableBody,
        model: String,
    ) -> Result<Judged, Ended> {
        let stream = Stream::read(&body)?;
        let extension = Extension::read(body.get("millrace"))?;
        let raw = body.get("messages").ok_or_else(|| missing("messages", body.keys()))?;
        let messages = Messages::read(raw)?;
        let choices = integer("n", body.get("n"), 1..=MAX_CHOICES)?.unwrap_or(1);
        let named = most.held(named_output(&body, limits)?, "max_completion_tokens")?;
        let collection = self.retrieval(&extension, &messages)?;
        let size = size(limits, most, &messages, &body, named, collection.is_some())?;
        body.remove("millrace");
        if let (Some(output), None) = (most.output, named) {
            body.set("max_completion_tokens", &output.into());
        }
        Ok(Judged { model, size, choices, stream, collection, previous: None, labels: extension.labels, body })
    }

    fn model(
        &self,
        standing: Option<&Standing>,
        operation: Operation,
        body: &EditableBody,
    ) -> Result<&ModelConfig, Ended> {
        let raw = body.get("model").ok_or_else(|| missing("model", body.keys()))?;
        let name = json::string(raw).ok_or_else(|| wrong_type("model", "a string", json::kind(raw)))?;
        let is_allowed = standing.is_some_and(|standing| standing.allows_model(name.as_ref()));
        match self.models.get(name.as_ref()).filter(|_| is_allowed) {
            Some(model) if model.embedding == (operation == Operation::Embeddings) => Ok(model),
            Some(model) => {
                let wanted = if model.embedding { "a chat model" } else { "an embedding model" };
                let message = format!("'{name}' is not {wanted} and thus not supported here: name {wanted}.");
                Err(Ended { http_status: 404, ..Ended::invalid("model_not_supported", Some("model"), message) })
            }
            None => {
                let message =
                    format!("The model `{}` does not exist or you do not have access to it.", cut(&name, 128));
                Err(Ended { http_status: 404, ..Ended::invalid("model_not_found", Some("model"), message) })
            }
        }
    }

    fn retrieval(&self, extension: &Extension, messages: &Messages<'_>) -> Result<Option<Retrieval>, Ended> {
        const PARAM: &str = "millrace.collection";
        let Some(collection) = extension.collection.clone() else { return Ok(None) };
        let Some(top_k) = self.top_k else {
            let message = format!(
                "Unsupported parameter: '{PARAM}'; this installation keeps no documents: leave it out, or configure \
                 `knowledge.embedding_model` and `vectors.url`."
            );
            return Err(Ended::invalid("unsupported_parameter", Some(PARAM), message));
        };
        let question = messages.question().ok_or_else(|| {
            let message = "A request with a collection is answered from its passages, which are found by the text of the \
                           last user message: add one with text.";
            Ended::invalid("invalid_value", Some("messages"), message)
        })?;
        Ok(Some(Retrieval { collection, top_k: extension.top_k.unwrap_or(top_k), question }))
    }
}

fn read_body(body: Vec<u8>, read: &[&str]) -> Result<EditableBody, Ended> {
    let text = String::from_utf8(body).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("The request body is not UTF-8 (byte {at}): encode it as UTF-8.");
        Ended::invalid("invalid_utf8", None, message)
    })?;
    let body = EditableBody::read(text).map_err(|error| match error {
        NotAnObject::Syntax(what) => {
            Ended::invalid("invalid_json", None, format!("We could not parse the JSON body of your request: {what}."))
        }
        NotAnObject::Other(kind) => Ended::invalid(
            "invalid_json",
            None,
            format!("The request body is {kind}, not a JSON object: send one with '{}' and '{}'.", read[0], read[1]),
        ),
    })?;
    if let Some(key) = read.iter().find(|key| body.keys().filter(|k| k == *key).count() > 1) {
        let message = format!("'{key}' is given twice: give it once.");
        return Err(Ended::invalid("duplicate_parameter", Some(key), message));
    }
    Ok(body)
}

fn judge_embeddings(limits: &ModelConfig, most: Most, mut body: EditableBody, model: String) -> Result<Judged, Ended> {
    let extension = Extension::read(body.get("millrace"))?;
    if extension.collection.is_some() {
        return Err(passages_are_for_chats());
    }
    let prompt = embeddings::tokens_of(&body, limits)?;
    if prompt > most.prompt {
        let message = format!(
            "The maximum here is {} tokens in one request. However, your inputs resulted in {prompt}. \
             Please send fewer at a time.",
            most.prompt
        );
        return Err(Ended::invalid("context_length_exceeded", Some("input"), message));
    }
    body.remove("millrace");
    let size = Size { prompt, limit: prompt, output: 0 };
    let labels = extension.labels;
    Ok(Judged { model, size, choices: 1, stream: None, collection: None, previous: None, labels, body })
}

fn judge_response(limits: &ModelConfig, most: Most, mut body: EditableBody, model: String) -> Result<Judged, Ended> {
    let asked = responses::read(&body)?;
    let extension = Extension::read(body.get("millrace"))?;
    if extension.collection.is_some() {
        return Err(passages_are_for_chats());
    }
    let named = most.held(named_limit(&body, limits, "max_output_tokens")?, "max_output_tokens")?;
    // What it goes on from is counted when it is known.
    let exactly = asked.previous.is_some();
    let size = fit(limits, most, "input", (asked.most_tokens(&body), |_| asked.tokens(&body)), named, exactly)?;
    body.remove("millrace");
    if let (Some(output), None) = (most.output, named) {
        body.set("max_output_tokens", &output.into());
    }
    let (stream, previous) = (asked.stream, asked.previous);
    Ok(Judged { model, size, choices: 1, stream, collection: None, previous, labels: extension.labels, body })
}

/// Holds prompt and answer to the model's context. Counting costs more than everything else
/// here, so it is done only where the number of bytes, which bounds the tokens, does not settle
/// the question already, or where passages are to be fitted in.
fn size(
    model: &ModelConfig,
    most: Most,
    messages: &Messages<'_>,
    body: &EditableBody,
    named: Option<u32>,
    exactly: bool,
) -> Result<Size, Ended> {
    let prompted = || PROMPTED.iter().filter_map(|key| body.get(key));
    let bytes: usize = prompted().map(str::len).sum();
    let bound = messages.most_tokens().saturating_add(tokens::upper_bound(bytes));
    let counted = |most: u32| {
        let mut counter = Counter::new(most);
        messages.count(&mut counter);
        prompted().for_each(|raw| counter.count(raw));
        counter.tokens()
    };
    fit(model, most, "messages", (bound, counted), named, exactly)
}

fn lane(standing: Option<&Standing>, arrival: &Arrival<'_>) -> Result<(), Ended> {
    if standing.is_none_or(|standing| standing.allows_lane(arrival.lane)) {
        return Ok(());
    }
    let message = format!("This API key may not use the {} lane: use another key, or another door.", arrival.lane);
    let refused = Ended::invalid("lane_not_allowed", None, message);
    Err(Ended { kind: "permission_error".to_owned(), http_status: 403, ..refused })
}

fn operation(word: &str) -> Result<Operation, Ended> {
    word.parse().map_err(|_| {
        let known = Operation::ALL.iter().map(|operation| format!("'{operation}'")).collect::<Vec<_>>().join(", ");
        let message = format!("The operation '{}' does not exist: use one of {known}.", cut(word, 64));
        Ended::invalid("unsupported_operation", Some("operation"), message)
    })
}

/// A judged body, before it meets its meta.
struct Judged {
    model: String,
    size: Size,
    choices: u32,
    stream: Option<Stream>,
    collection: Option<Retrieval>,
    previous: Option<String>,
    labels: BTreeMap<String, String>,
    body: EditableBody,
}

impl Judged {
    fn complete(self, mut meta: Meta, rule_set: String) -> Result<Admitted, Ended> {
        meta.labels.extend(self.labels);
        meta::check_labels(&meta.labels)?;
        let previous = self
            .previous
            .map(|name| responses::request_of(&meta.tenant, &name).ok_or_else(|| responses::no_previous(&name)));
        Ok(Admitted {
            meta,
            model: self.model,
            rule_set,
            prompt_tokens: self.size.prompt,
            prompt_limit: self.size.limit,
            max_output_tokens: self.size.output,
            choices: self.choices,
            stream: self.stream,
            collection: self.collection,
            previous: previous.transpose()?,
            body: self.body,
        })
    }
}

fn passages_are_for_chats() -> Ended {
    let message = "Unsupported parameter: 'millrace.collection': passages are for chats.";
    Ended::invalid("unsupported_parameter", Some("millrace.collection"), message)
}
