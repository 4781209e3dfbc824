//! The whole pipeline in one process, on embedded parts that speak the real protocols.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use millrace_config::{
    Config, KafkaConfig, KeyConfig, ModelConfig, PricingConfig, ProviderConfig, RegistryConfig, Secret, Snapshot,
    StorageConfig, TenantConfig, UserConfig, VectorsConfig, process_env,
};
use millrace_embedded::{Broker, Registry, Vectors};
use millrace_schemas::Lane;
use millrace_simulated_provider::{Server, SimulatedProviderConfig};
use millrace_stage::StageEnv;
use millrace_stage::core::{Backoff, jitter};
use millrace_telemetry::Readiness;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::endpoints::CLIENT_FILE;
use crate::keys::random_key;
use crate::reload::{Hangups, Load, Reloader, TakeUp};
use crate::services::Service;
use crate::topic_data;
use crate::wiring::{Metrics, Wiring, watch};

/// Partitions of the embedded broker's topics.
const PARTITIONS: u16 = 4;
/// The tenant that the first start makes.
pub const TENANT: &str = "demo";
/// Id of its key.
pub const KEY_ID: &str = "default";

/// What the stack is started with.
pub struct Options {
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// 0 takes a free one.
    pub http_port: u16,
    /// 0 takes a free one.
    pub kafka_port: u16,
    /// Providers and models of one's own; none for the simulated provider.
    pub provider: Option<(ProviderConfig, Vec<String>)>,
    /// A configuration file to start from.
    pub config: Option<PathBuf>,
}

/// Hashes of the keys that were made here.
#[derive(Serialize, Deserialize)]
struct Bootstrap {
    /// Made by the first start without MILLRACE_ADMIN_KEY.
    #[serde(skip_serializing_if = "Option::is_none")]
    admin_sha256: Option<String>,
    tenant_sha256: String,
}

/// Keys in plain text, known only at the start that made them.
pub struct NewKeys {
    /// Administrator's key; none when MILLRACE_ADMIN_KEY sets it, or an earlier start made it.
    pub admin: Option<String>,
    /// The tenant's key; none when an earlier start made it.
    pub tenant: Option<String>,
}

/// A running stack.
pub struct Stack {
    pub wiring: Wiring,
    pub new_keys: NewKeys,
    pub http: String,
    pub simulated: Option<Server>,
    broker: Broker,
    registry: Registry,
    vectors: Vectors,
    services: JoinSet<anyhow::Result<()>>,
    /// Ends `/metrics`, `/health` and `/ready`, after the drain.
    after: CancellationToken,
    _lock: File,
}

impl Stack {
    /// Starts everything; returns when all partitions are assigned.
    pub async fn start(options: Options, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let dir = &options.data_dir;
        std::fs::create_dir_all(dir)
            .with_context(|| format!("the data directory {} can not be made", dir.display()))?;
        let lock = lock(dir)?;
        let listener = TcpListener::bind(("127.0.0.1", options.http_port))
            .await
            .with_context(|| format!("port {} is taken; choose another with --http-port", options.http_port))?;
        let http = format!("http://{}", listener.local_addr()?);
        let broker = Broker::start(&dir.join("broker"), options.kafka_port)?;
        let registry = Registry::start(&dir.join("registry"), 0)?;
        let vectors = Vectors::start(&dir.join("vectors"), 0)?;
        let simulated = match &options.provider {
            None => Some(Server::start(SimulatedProviderConfig::default(), ([127, 0, 0, 1], 0).into()).await?),
            Some(_) => None,
        };

        let hangups = options.config.as_ref().map(|_| Hangups::listen()).transpose()?;
        let parts = Parts {
            dir: dir.clone(),
            file: options.config,
            provider: options.provider,
            simulated: simulated.as_ref().map(|server| server.url().to_owned()),
            kafka: broker.bootstrap_servers().to_owned(),
            registry: registry.url().to_owned(),
            vectors: vectors.url().to_owned(),
            listen: listener.local_addr()?.to_string(),
        };
        let (config, new_keys) = parts.config()?;
        let used = Snapshot::of(&config);

        let topics = topic_data::wanted(&config, None)?;
        topic_data::apply(&config, &topics).await.context("the embedded broker's topics")?;
        write_client_file(dir, &config, &http)?;
        let (metrics, readiness, after) = (Metrics::register()?, Readiness::new(), CancellationToken::new());
        metrics.config.uses(used.version());
        tracing::info!(version = used.version(), "all services start");
        watch(config.telemetry.listen.as_deref(), &metrics, &readiness, &after).await?;
        let wiring = Wiring::connect(config, &Service::PIPELINE, (metrics, readiness), shutdown).await?;
        let wiring = wiring.context("stopped while starting")?;
        if let Some(hangups) = hangups {
            tokio::spawn(parts.reloader(used, &wiring, http.clone()).keep_up(hangups, wiring.shutdown.clone()));
        }
        let mut services = JoinSet::new();
        start_services(&wiring, listener, &mut services);
        let stack = Self { wiring, new_keys, http, simulated, broker, registry, vectors, services, after, _lock: lock };
        if let Err(error) = stack.until_ready().await {
            stack.stop().await?;
            return Err(error);
        }
        Ok(stack)
    }

    async fn until_ready(&self) -> anyhow::Result<()> {
        for _ in 0..600 {
            if self.wiring.readiness.is_ready() {
                return Ok(());
            }
            if self.wiring.shutdown.is_cancelled() {
                bail!("stopped while starting");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let late: Vec<_> =
            self.wiring.readiness.checks().into_iter().filter(|(_, c)| !c.is_ready).map(|(name, _)| name).collect();
        bail!("not ready after a minute: {}", late.join(", "))
    }

    /// Drains the services, then stops the parts.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.wiring.shutdown.cancel();
        while let Some(ended) = self.services.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::warn!(error = crate::ui::one_line(&error), "a service did not end well");
            }
        }
        if let Some(simulated) = self.simulated {
            simulated.shutdown().await?;
        }
        self.vectors.shutdown().await;
        self.registry.shutdown().await;
        self.broker.shutdown().await;
        self.after.cancel();
        Ok(())
    }
}

/// What the configuration of a stack is made of, also when its file has changed.
struct Parts {
    dir: PathBuf,
    file: Option<PathBuf>,
    provider: Option<(ProviderConfig, Vec<String>)>,
    /// Where the simulated provider is.
    simulated: Option<String>,
    kafka: String,
    registry: String,
    vectors: String,
    listen: String,
}

impl Parts {
    /// The configuration, and the keys that were made for it.
    fn config(&self) -> anyhow::Result<(Config, NewKeys)> {
        let mut config = Config::load(self.file.as_deref(), process_env(), [])?;
        config.kafka = KafkaConfig {
            bootstrap_servers: self.kafka.clone(),
            partitions: Some(PARTITIONS),
            replication_factor: Some(1),
            ..KafkaConfig::default()
        };
        // Members outlive a restart of the embedded broker, so they must be forgotten soon.
        config.stage.session_timeout_ms = 6000;
        config.registry = RegistryConfig { url: self.registry.clone(), ..RegistryConfig::default() };
        config.storage = StorageConfig::Embedded { path: self.dir.join("store") };
        config.vectors = VectorsConfig { url: Some(self.vectors.clone()), ..VectorsConfig::default() };
        config.ingress.listen.clone_from(&self.listen);
        add_models(&mut config, &self.provider, self.simulated.as_deref());
        if let Some((_, models)) = &self.provider
            && config.pricing.file.is_none()
        {
            config.pricing.file = Some(price_file(&self.dir, models)?);
        }
        let new_keys = bootstrap(&self.dir, &mut config)?;
        config.hash_keys();
        config.validate()?;
        Ok((config, new_keys))
    }

    fn reloader(self, used: Snapshot, wiring: &Wiring, http: String) -> Reloader {
        let (dir, metrics, wiring) = (self.dir.clone(), wiring.metrics.config.clone(), wiring.clone());
        let load: Load = Box::new(move || Ok(self.config()?.0));
        let take_up: TakeUp = Box::new(move |config| {
            wiring.take_up(config)?;
            if let Err(error) = write_client_file(&dir, config, &http) {
                let error = crate::ui::one_line(&error);
                tracing::error!(error, "what other commands read of the configuration can not be written");
            }
            Ok(())
        });
        Reloader::new(used, load, take_up, metrics)
    }
}

fn start_services(wiring: &Wiring, listener: TcpListener, services: &mut JoinSet<anyhow::Result<()>>) {
    for service in Service::PIPELINE {
        let lanes: &[Lane] = if service.has_lanes() { Lane::ALL } else { &[Lane::Batch] };
        if service != Service::Ingress {
            for lane in lanes {
                let env = wiring.stage_env(service, *lane);
                services.spawn(keep_running(wiring.clone(), service, *lane, env));
            }
        }
    }
    let ingress = wiring.clone();
    services.spawn(async move {
        let ended = ingress.run_ingress(listener).await;
        if let Err(error) = &ended {
            // Without a front door the stack is of no use: it drains and stops.
            tracing::error!(error = crate::ui::one_line(error), "the front door closed");
            ingress.shutdown.cancel();
        }
        ended
    });
}

/// A stage that ends is started again: recovery decides what is left to do.
async fn keep_running(wiring: Wiring, service: Service, lane: Lane, mut env: StageEnv) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        match wiring.run_stage(service, lane, env).await {
            Ok(()) => return Ok(()),
            Err(error) if wiring.shutdown.is_cancelled() => return Err(error),
            Err(error) => {
                tracing::error!(service = service.name(), %lane, error = crate::ui::one_line(&error), "service ended, starting it again");
                let pause = backoff.next(jitter(), None);
                wiring.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
                env = wiring.stage_env(service, lane);
            }
        }
        if wiring.shutdown.is_cancelled() {
            return Ok(());
        }
    }
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another `millrace up` uses {}; stop it, or choose another --data-dir", dir.display())
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).context("the data directory can not be locked"),
    }
}

fn add_models(config: &mut Config, provider: &Option<(ProviderConfig, Vec<String>)>, simulated: Option<&str>) {
    match (provider, simulated) {
        (Some((provider, models)), _) => {
            config.providers.insert("provider".to_owned(), provider.clone());
            for model in models {
                config.models.insert(model.clone(), ModelConfig::chat("provider", 128_000));
            }
        }
        (None, Some(url)) => {
            config.providers.insert("simulated".to_owned(), ProviderConfig::new(url));
            for model in ["sim-small", "sim-large"] {
                config.models.insert(model.to_owned(), ModelConfig::chat("simulated", 128_000));
            }
            config.models.insert("sim-embed".to_owned(), ModelConfig::embedding("simulated", 8192, 384));
            config.knowledge.embedding_model = "sim-embed".to_owned();
        }
        (None, None) => {}
    }
}

/// A price table for models of one's own. Nobody here knows their prices, so they begin at 0; the
/// file is the operator's to edit and is never written over.
fn price_file(dir: &Path, models: &[String]) -> anyhow::Result<PathBuf> {
    let path = dir.join("prices.toml");
    if !path.is_file() {
        let mut text = String::from(
            "# What calls cost, in nano-units of the currency for a million tokens (2.50 USD is 2500000000).\n\
             version = \"unpriced\"\ncurrency = \"USD\"\n",
        );
        for model in models {
            text.push_str(&format!(
                "\n[[price]]\nprovider = \"provider\"\nmodel = {}\neffective_from = 2020-01-01\ninput_per_million = 0\noutput_per_million = 0\n",
                toml::Value::String(model.clone())
            ));
        }
        write_private(&path, &text)?;
        tracing::warn!(file = %path.display(), "calls are booked at price 0 until the price table says otherwise");
    }
    Ok(path)
}

/// Keys are made once and shown once; later starts know only their hashes.
fn bootstrap(dir: &Path, config: &mut Config) -> anyhow::Result<NewKeys> {
    let path = dir.join("keys.json");
    let known = if path.is_file() {
        let text = std::fs::read_to_string(&path)?;
        Some(serde_json::from_str::<Bootstrap>(&text).with_context(|| format!("{} is damaged", path.display()))?)
    } else {
        None
    };
    let set_admin = std::env::var("MILLRACE_ADMIN_KEY").ok().filter(|key| !key.is_empty());
    let has_admin = set_admin.is_some() || known.as_ref().is_some_and(|keys| keys.admin_sha256.is_some());
    let new_keys =
        NewKeys { admin: (!has_admin).then(|| random_key("mra_")), tenant: known.is_none().then(|| random_key("mr_")) };
    let hash = |key: &Option<String>| key.as_deref().map(millrace_config::hash_key);
    let (known_admin, known_tenant) = known.map_or((None, None), |keys| (keys.admin_sha256, Some(keys.tenant_sha256)));
    let keys = Bootstrap {
        admin_sha256: hash(&new_keys.admin).or(known_admin),
        tenant_sha256: hash(&new_keys.tenant).or(known_tenant).context("a tenant's key is known or new")?,
    };
    if new_keys.admin.is_some() || new_keys.tenant.is_some() {
        write_private(&path, &serde_json::to_string_pretty(&keys)?)?;
    }
    if config.webhooks.secret_keys.is_empty() {
        config.webhooks.secret_keys = vec![secret_key(dir)?];
    }
    config.ingress.admin_key_sha256 = keys.admin_sha256.filter(|_| set_admin.is_none());
    config.ingress.admin_key = set_admin.map(Secret::new);
    let key = KeyConfig { id: KEY_ID.to_owned(), sha256: Some(keys.tenant_sha256), ..KeyConfig::default() };
    let users = ["ada", "grace", "linus"].map(|user| (user.to_owned(), UserConfig::default()));
    let tenant = config
        .tenants
        .entry(TENANT.to_owned())
        .or_insert_with(|| TenantConfig { users: BTreeMap::from(users), ..TenantConfig::default() });
    tenant.keys.retain(|k| k.id != KEY_ID);
    tenant.keys.push(key);
    Ok(new_keys)
}

/// What the secrets of webhook endpoints are derived from: made once, and never shown.
fn secret_key(dir: &Path) -> anyhow::Result<Secret> {
    let path = dir.join("webhooks.key");
    if !path.is_file() {
        write_private(&path, &random_key("mrw_"))?;
    }
    let key = std::fs::read_to_string(&path).with_context(|| format!("{} can not be read", path.display()))?;
    Ok(Secret::new(key))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(std::fs::rename(&temporary, path)?)
}

/// What commands beside the stack judge and price requests by.
#[derive(Serialize)]
struct Offer<'a> {
    pricing: &'a PricingConfig,
    providers: BTreeMap<&'a str, Address<'a>>,
    models: &'a BTreeMap<String, ModelConfig>,
    tenants: BTreeMap<&'a str, Allowed<'a>>,
}

#[derive(Serialize)]
struct Address<'a> {
    base_url: &'a str,
}

#[derive(Serialize)]
struct Allowed<'a> {
    models: &'a [String],
}

/// What `tap`, `publish` and the others need to find this stack, and `batch plan` to judge a file. Holds no secret.
fn write_client_file(dir: &Path, config: &Config, http: &str) -> anyhow::Result<()> {
    let providers = config.providers.iter().map(|(name, p)| (name.as_str(), Address { base_url: &p.base_url }));
    let tenants = config.tenants.iter().map(|(id, tenant)| (id.as_str(), Allowed { models: &tenant.models }));
    let offer = Offer {
        pricing: &config.pricing,
        providers: providers.collect(),
        models: &config.models,
        tenants: tenants.collect(),
    };
    let text = format!(
        "# Written by `millrace up`; read by other commands run beside it.\n\
         [kafka]\nbootstrap_servers = \"{}\"\npartitions = {PARTITIONS}\nreplication_factor = 1\n\n[registry]\nurl = \"{}\"\n\n[ingress]\nlisten = \"{}\"\n\n{}",
        config.kafka.bootstrap_servers,
        config.registry.url,
        http.trim_start_matches("http://"),
        toml::to_string(&offer).context("the models can not be written down")?,
    );
    write_private(&dir.join(CLIENT_FILE), &text)
}
