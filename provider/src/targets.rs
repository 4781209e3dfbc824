//! Which model is where, and the way through to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_openai::Client;
use async_openai::config::{self, OpenAIConfig};
use millrace_config::{Config, ProviderConfig};

use crate::attempt::Attempt;
use crate::gate::{Entry, Gate, Refused};
use crate::keys::{Held, Keys};
use crate::metrics::Metrics;

/// A connection that idles this long is closed by us, before the provider closes it under a call.
const IDLE: Duration = Duration::from_secs(30);

/// Rather than wait longer than this for a key, a call goes to another provider or is tried again later.
const PATIENCE: Duration = Duration::from_secs(5);

/// A configuration that no client can be made of.
#[derive(Debug, thiserror::Error)]
pub enum ProvidersError {
    /// The keys can not be used.
    #[error("{0}")]
    Keys(String),
    /// A model names a provider that is not configured.
    #[error("model `{model}` is at provider `{provider}`, which is not configured; add [providers.{provider}]")]
    UnknownProvider {
        /// The model.
        model: String,
        /// The provider it names.
        provider: String,
    },
    /// The HTTP client can not be made.
    #[error("no HTTP client for provider `{provider}`: {error}")]
    Http {
        /// The provider.
        provider: String,
        /// What the library said.
        error: String,
    },
}

/// All configured models with the providers that serve them. Cheap to clone, and never changes: a change of the
/// configuration makes [others](Self::next).
#[derive(Clone)]
pub struct Providers {
    routes: Arc<BTreeMap<String, Vec<Target>>>,
    upstreams: Arc<Upstreams>,
    metrics: Metrics,
}

/// Providers by their names, each with what it is made of.
type Upstreams = BTreeMap<String, (ProviderConfig, Arc<Upstream>)>;

/// A model at a provider. Cheap to clone; clones share the provider's connections, limit and breaker.
#[derive(Clone)]
pub struct Target {
    /// The model's name in the configuration.
    pub alias: String,
    /// The model's name at the provider.
    pub model: String,
    /// The provider's name in the configuration.
    pub provider: String,
    /// The longest one call may take.
    pub timeout: Duration,
    /// Calls made for one record before it fails over or ends; see the router.
    pub max_attempts: u32,
    /// Whether it embeds texts instead of completing chats.
    pub embedding: bool,
    pub(crate) upstream: Arc<Upstream>,
}

pub(crate) struct Upstream {
    pub client: Client<Arc<dyn config::Config>>,
    pub http: reqwest::Client,
    keys: Keys,
    gate: Arc<Gate>,
}

/// The right to make one call to a target; used up by the call, given back when dropped. What
/// becomes of the call is told to the provider's breaker and limit.
#[must_use = "a slot that is not used holds back another call"]
pub struct Slot {
    pub(crate) target: Target,
    pub(crate) entry: Entry,
    pub(crate) held: Held,
}

impl Providers {
    /// Makes a client for every provider; nothing is connected yet.
    ///
    /// # Errors
    /// [`ProvidersError`].
    ///
    /// # Panics
    /// Never in practice: the metrics' names are constant.
    pub fn new(config: &Config) -> Result<Self, ProvidersError> {
        Self::made(config, Metrics::new().expect("our metrics have valid names"), &Upstreams::new())
    }

    /// Where nobody is called.
    ///
    /// # Panics
    /// Never in practice: the metrics' names are constant.
    #[must_use]
    pub fn none() -> Self {
        let metrics = Metrics::new().expect("our metrics have valid names");
        Self { routes: Arc::default(), upstreams: Arc::default(), metrics }
    }

    /// Those of another configuration, to be used in the place of these. A provider that is reached as before goes on with
    /// its connections, its breaker, its limit and whoever waits for it, and with its keys unless they have changed; any other
    /// begins anew. Calls on their way end where they began.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn next(&self, config: &Config) -> Result<Self, ProvidersError> {
        Self::made(config, self.metrics.clone(), &self.upstreams)
    }

    /// Whether these are the same, and not others made of the same configuration.
    #[must_use]
    pub fn are(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.routes, &others.routes)
    }

    /// Whether the providers are made of these entries.
    #[must_use]
    pub fn are_of(&self, entries: &BTreeMap<String, ProviderConfig>) -> bool {
        let ours = self.upstreams.iter().map(|(name, (entry, _))| (name, entry));
        ours.eq(entries.iter())
    }

    /// Shows of those `before` only what is still there.
    pub fn forget_gone(&self, before: &Self) {
        for (name, (_, upstream)) in before.upstreams.iter() {
            let now = self.upstreams.get(name).map(|(_, upstream)| upstream);
            if now.is_none_or(|now| !Arc::ptr_eq(now, upstream)) {
                upstream.keys.forget();
            }
            if now.is_none() {
                self.metrics.forget(name);
            }
        }
    }

    fn made(config: &Config, metrics: Metrics, before: &Upstreams) -> Result<Self, ProvidersError> {
        let upstream = |name: &String, provider: &ProviderConfig| match before.get(name) {
            Some((same, upstream)) if is_reached_alike(same, provider) => match has_same_keys(same, provider) {
                true => Ok(Arc::clone(upstream)),
                false => upstream.with_keys(name, provider, &metrics).map(Arc::new),
            },
            Some(_) | None => Upstream::new(name, provider, &metrics).map(Arc::new),
        };
        let upstreams = config
            .providers
            .iter()
            .map(|(name, provider)| Ok((name.clone(), (provider.clone(), upstream(name, provider)?))))
            .collect::<Result<Upstreams, ProvidersError>>()?;
        let target = |alias: &String| {
            let model = config.models.get(alias)?;
            Some(upstreams.get(&model.provider).map_or_else(
                || Err(ProvidersError::UnknownProvider { model: alias.clone(), provider: model.provider.clone() }),
                |(provider, upstream)| {
                    Ok(Target {
                        alias: alias.clone(),
                        model: model.upstream_name(alias).to_owned(),
                        provider: model.provider.clone(),
                        timeout: Duration::from_millis(provider.timeout_ms),
                        max_attempts: provider.max_attempts,
                        embedding: model.embedding,
                        upstream: Arc::clone(upstream),
                    })
                },
            ))
        };
        let mut routes = BTreeMap::new();
        for (alias, model) in &config.models {
            let route = std::iter::once(alias).chain(&model.fallbacks).filter_map(target);
            routes.insert(alias.clone(), route.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(Self { routes: Arc::new(routes), upstreams: Arc::new(upstreams), metrics })
    }

    /// Shows the providers' breakers and limits; once per process.
    ///
    /// # Errors
    /// When such metrics are registered already.
    pub fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        self.metrics.register(registry)
    }

    /// Where a model is; `None` when no model has this name.
    #[must_use]
    pub fn target(&self, alias: &str) -> Option<&Target> {
        self.route(alias).first()
    }

    /// Every model.
    pub fn models(&self) -> impl Iterator<Item = &Target> {
        self.routes.values().filter_map(|route| route.first())
    }

    /// Where a model is, then its fallbacks in order; empty when no model has this name.
    #[must_use]
    pub fn route(&self, alias: &str) -> &[Target] {
        self.routes.get(alias).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Whether two entries differ in nothing that connections, the breaker or the limit are made of.
fn is_reached_alike(one: &ProviderConfig, other: &ProviderConfig) -> bool {
    let ProviderConfig { api_key, api_keys, api_keys_file, .. } = other.clone();
    let ProviderConfig { key_quarantine_ms, timeout_ms, max_attempts, .. } = *other;
    let same =
        ProviderConfig { api_key, api_keys, api_keys_file, key_quarantine_ms, timeout_ms, max_attempts, ..one.clone() };
    same == *other
}

fn has_same_keys(one: &ProviderConfig, other: &ProviderConfig) -> bool {
    let keys = |provider: &ProviderConfig| {
        let ProviderConfig { api_key, api_keys, api_keys_file, key_quarantine_ms, .. } = provider.clone();
        (api_key, api_keys, api_keys_file, key_quarantine_ms)
    };
    keys(one) == keys(other)
}

impl Target {
    /// Waits until the provider may have one more call: until its breaker lets calls through, and
    /// then for its limit and a key, where the tenants of each lane take turns. Nothing is taken meanwhile, so it may
    /// be called off at any time.
    pub async fn slot(&self, lane: &str, tenant: &str) -> Slot {
        let Upstream { keys, gate, .. } = &*self.upstream;
        loop {
            let first_in_line = keys.ready(lane, tenant).await;
            let entry = gate.enter(lane, tenant).await;
            let held = keys.take();
            drop(first_in_line);
            if let Some(held) = held {
                return Slot { target: self.clone(), entry, held };
            }
            // The last key with room was taken while this one waited at the gate.
        }
    }

    /// Whether no call is let through now, because the provider is away or none of its keys has room for a while.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.upstream.gate.is_open() || self.upstream.keys.none_for(PATIENCE).is_some()
    }

    /// Waits for the provider's limit, and for a key a little while.
    ///
    /// # Errors
    /// [`Refused`] as soon as its breaker is found open, or none of its keys has room for more than five seconds.
    pub async fn slot_unless_open(&self, lane: &str, tenant: &str) -> Result<Slot, Refused> {
        let Upstream { keys, gate, .. } = &*self.upstream;
        loop {
            if let Some(none) = keys.none_for(PATIENCE) {
                return Err(Refused { after: none.after });
            }
            let Ok(first_in_line) = tokio::time::timeout(PATIENCE, keys.ready(lane, tenant)).await else {
                return Err(Refused { after: Duration::ZERO });
            };
            let entry = gate.enter_unless_open(lane, tenant).await?;
            let held = keys.take();
            drop(first_in_line);
            if let Some(held) = held {
                return Ok(Slot { target: self.clone(), entry, held });
            }
        }
    }
}

impl Slot {
    /// Where the call will go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The name of the key that the call will be made with, where the provider has a pool of them.
    #[must_use]
    pub fn key_name(&self) -> Option<&str> {
        self.held.name()
    }

    pub(crate) fn client(&self, timeout: Duration) -> Client<Arc<dyn config::Config>> {
        self.client_of(timeout, false)
    }

    /// Its answers are handed on as they come.
    pub(crate) fn streaming_client(&self, timeout: Duration) -> Client<Arc<dyn config::Config>> {
        self.client_of(timeout, true)
    }

    fn client_of(&self, timeout: Duration, streams: bool) -> Client<Arc<dyn config::Config>> {
        let Upstream { client, http, .. } = &*self.target.upstream;
        let (key, learn) = (self.held.key(), Arc::new(self.held.learner()));
        client.clone().with_http_service(Attempt { http: http.clone(), key, learn, timeout, streams })
    }
}

impl Upstream {
    /// The same provider with other keys.
    fn with_keys(&self, name: &str, provider: &ProviderConfig, metrics: &Metrics) -> Result<Self, ProvidersError> {
        let keys = Keys::new(name, provider, metrics.of_keys(name)).map_err(ProvidersError::Keys)?;
        Ok(Self { client: self.client.clone(), http: self.http.clone(), keys, gate: Arc::clone(&self.gate) })
    }

    fn new(name: &str, provider: &ProviderConfig, metrics: &Metrics) -> Result<Self, ProvidersError> {
        let http = reqwest::Client::builder()
            // A proxy of the environment would see keys and prompts that were not meant for it.
            .no_proxy()
            // A redirected or repeated POST is a second call that nobody recorded.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_millis(provider.connect_timeout_ms))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(usize::try_from(provider.max_concurrency).unwrap_or(usize::MAX))
            .tcp_keepalive(IDLE)
            .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| ProvidersError::Http { provider: name.to_owned(), error: e.to_string() })?;
        let keys = Keys::new(name, provider, metrics.of_keys(name)).map_err(ProvidersError::Keys)?;
        // Every value is set: left alone, async-openai takes keys and organisations of OpenAI from
        // the environment and sends them to whatever server this is.
        let settings = OpenAIConfig::new()
            .with_api_base(provider.base_url.trim_end_matches('/'))
            // The transport below puts in the key of each call.
            .with_api_key("")
            .with_org_id("")
            .with_project_id("");
        Ok(Self {
            client: Client::build(http.clone(), Arc::new(settings)),
            http,
            keys,
            gate: Arc::new(Gate::new(name, provider, metrics.of(name))),
        })
    }
}
