//! What the services of a process share, connected once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use millrace_admission::Directory;
use millrace_budgets::{BudgetMetrics, Budgets};
use millrace_cancellation::{Cancellations, follow};
use millrace_config::{Config, Secret};
use millrace_provider::CallMetrics;
use millrace_schemas::{Codec, CodecError, RegistryAccess, now_millis};
use millrace_settings::{Current, Settings};
use millrace_stage::core::{Backoff, jitter};
use millrace_stage::{StageEnv, StageMetrics, admin_client, fetch_metadata};
use millrace_storage::{Storage, StorageError};
use millrace_telemetry::{AdminServer, Readiness, ReadyFlag};
use millrace_tenants::Tenants;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config_metrics::ConfigMetrics;
use crate::services::Service;
use crate::subjects::subjects;

/// Metrics of all services, registered once per process.
#[derive(Clone)]
pub struct Metrics {
    pub registry: prometheus::Registry,
    pub stage: StageMetrics,
    pub calls: CallMetrics,
    pub prompts: millrace_prompt_builder::PromptMetrics,
    pub ledger: millrace_cost_ledger::LedgerMetrics,
    pub ingress: millrace_ingress::IngressMetrics,
    pub budgets: BudgetMetrics,
    pub webhooks: millrace_webhooks::WebhookMetrics,
    pub issuers: millrace_issuers::IssuerMetrics,
    pub config: ConfigMetrics,
}

impl Metrics {
    /// Registers all of them.
    pub fn register() -> Result<Self, prometheus::Error> {
        let registry = prometheus::Registry::new();
        let stage = StageMetrics::register(&registry)?;
        Ok(Self {
            calls: CallMetrics::register(&registry)?,
            prompts: millrace_prompt_builder::PromptMetrics::register(&registry)?,
            ledger: millrace_cost_ledger::LedgerMetrics::register(&registry, &stage)?,
            ingress: millrace_ingress::IngressMetrics::register(&registry)?,
            budgets: BudgetMetrics::register(&registry)?,
            webhooks: millrace_webhooks::WebhookMetrics::register(&registry)?,
            issuers: millrace_issuers::IssuerMetrics::register(&registry)?,
            config: ConfigMetrics::register(&registry)?,
            stage,
            registry,
        })
    }
}

/// Starts `/metrics`, `/health` and `/ready` on `listen`, where it is set, before anything is connected:
/// a process that waits for a broker lives, and says what it waits for.
pub async fn watch(
    listen: Option<&str>,
    metrics: &Metrics,
    readiness: &Readiness,
    until: &CancellationToken,
) -> anyhow::Result<()> {
    let Some(listen) = listen else { return Ok(()) };
    let listener = TcpListener::bind(listen).await.with_context(|| format!("telemetry.listen `{listen}` is taken"))?;
    tokio::spawn(AdminServer::run(listener, metrics.registry.clone(), readiness.clone(), until.clone()));
    Ok(())
}

/// Everything connected.
#[derive(Clone)]
pub struct Wiring {
    pub config: Config,
    pub codec: Codec,
    pub metrics: Metrics,
    pub readiness: Readiness,
    /// What of the configuration may change.
    pub settings: Current,
    pub shutdown: CancellationToken,
    _parts: ReadyFlag,
    storage: Option<Storage>,
    tenants: Option<Tenants>,
    cancellations: Option<Cancellations>,
    budgets: Option<Budgets>,
}

impl Wiring {
    /// Connects to what `services` need; what does not answer yet is waited for, with one clear
    /// line a try, until shutdown: then there is nothing.
    pub async fn connect(
        config: Config,
        services: &[Service],
        (metrics, readiness): (Metrics, Readiness),
        shutdown: CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let parts = readiness.register("parts");
        parts.set(false, "connecting to kafka, the registry and the database");
        let directory = Directory::from_config(&config)?;
        // Only services that pay hold the providers' keys.
        let settings = Settings::new(&config, directory.clone(), services.iter().any(|s| pays(*s)))?;
        settings.providers.register(&metrics.registry)?;
        let settings = Current::new(settings);
        let connecting = async {
            wait_for_kafka(&config).await?;
            let codec = connect_codec(&config).await?;
            let storage =
                if services.iter().any(|s| needs_storage(*s)) { Some(open_storage(&config).await?) } else { None };
            anyhow::Ok((codec, storage))
        };
        let Some(connected) = shutdown.run_until_cancelled(connecting).await else { return Ok(None) };
        let (codec, storage) = connected?;
        parts.set(true, "connected");
        let tenants = match services.iter().find(|s| knows_tenants(**s)) {
            Some(service) => Some(follow_tenants(&config, *service, directory, &codec, &readiness, &shutdown)?),
            None => None,
        };
        if let Some(tenants) = tenants.as_ref().filter(|_| services.iter().any(|s| reads_tokens(*s))) {
            millrace_issuers::keep(tenants.directory().issuers(), &metrics.issuers, &shutdown);
        }
        if let Some(tenants) = &tenants
            && shutdown.run_until_cancelled(tenants.until_caught_up()).await.is_none()
        {
            return Ok(None);
        }
        let cancellations = match (services.iter().find(|s| can_be_cancelled(**s)), &tenants) {
            (Some(service), Some(tenants)) => {
                let directory = tenants.directory().clone();
                Some(follow_cancellations(&config, *service, directory, &codec, &readiness, &shutdown)?)
            }
            (None, _) | (_, None) => None,
        };
        let budgets = match &tenants {
            Some(tenants) => {
                let directory = tenants.directory().clone();
                crate::budgets::follow(
                    &config,
                    services,
                    (directory, &codec),
                    (&metrics.budgets, &readiness),
                    &shutdown,
                )?
            }
            None => None,
        };
        Ok(Some(Self {
            config,
            codec,
            metrics,
            readiness,
            _parts: parts,
            settings,
            shutdown,
            storage,
            tenants,
            cancellations,
            budgets,
        }))
    }

    /// What was spent, once everything published earlier is known; none when the process stops before.
    pub async fn budgets(&self) -> anyhow::Result<Option<Budgets>> {
        let budgets = self.budgets.as_ref().context("this process follows no budgets")?;
        Ok(self.shutdown.run_until_cancelled(budgets.until_caught_up()).await.map(|()| budgets.clone()))
    }

    /// The store.
    pub fn storage(&self) -> anyhow::Result<&Storage> {
        self.storage.as_ref().context("this process opened no store")
    }

    /// Who there is.
    pub fn tenants(&self) -> anyhow::Result<&Tenants> {
        self.tenants.as_ref().context("this process follows no tenants")
    }

    /// Which requests were cancelled, once every earlier cancellation is known; none when the process
    /// stops before.
    pub async fn cancellations(&self) -> anyhow::Result<Option<Cancellations>> {
        let cancellations = self.cancellations.as_ref().context("this process follows no cancellations")?;
        let caught_up = self.shutdown.run_until_cancelled(cancellations.until_caught_up()).await;
        Ok(caught_up.map(|()| cancellations.clone()))
    }

    /// Uses what `config` says otherwise than the configuration that the process has started with, as far as
    /// [`millrace_config::LIVE`] names it; what is made of the rest stays.
    ///
    /// # Errors
    /// It can not be used, and nothing has changed.
    pub fn take_up(&self, config: &Config) -> anyhow::Result<()> {
        // Refused by all processes alike, also by those that ask nobody who somebody is.
        let _usable = Directory::from_config(config)?;
        let next = self.settings.now().next(config)?;
        // Before the tenants: what they name is there when they name it.
        let before = self.settings.replace(Arc::new(next));
        if let Some(tenants) = &self.tenants
            && let Err(error) = tenants.reload(config, now_millis())
        {
            self.settings.replace(before);
            return Err(error.into());
        }
        Ok(())
    }

    /// What one loop gets; its readiness goes by `name`.
    pub fn env(&self, name: &str) -> StageEnv {
        let flag = self.readiness.register(name);
        StageEnv {
            kafka: self.config.kafka.clone(),
            stage: self.config.stage.clone(),
            metrics: self.metrics.stage.clone(),
            codec: self.codec.clone(),
            ready: Arc::new(move |ready, why| flag.set(ready, why)),
            shutdown: self.shutdown.clone(),
        }
    }
}

fn needs_storage(service: Service) -> bool {
    match service {
        Service::Ingress
        | Service::PromptBuilder
        | Service::InferenceRouter
        | Service::ResultSink
        | Service::Webhooks
        | Service::CostLedger => true,
        Service::Moderator | Service::Indexer | Service::SimulatedProvider => false,
    }
}

fn pays(service: Service) -> bool {
    match service {
        Service::PromptBuilder | Service::InferenceRouter | Service::Indexer => true,
        Service::Ingress
        | Service::Moderator
        | Service::ResultSink
        | Service::Webhooks
        | Service::CostLedger
        | Service::SimulatedProvider => false,
    }
}

fn knows_tenants(service: Service) -> bool {
    match service {
        Service::Ingress
        | Service::PromptBuilder
        | Service::InferenceRouter
        | Service::Indexer
        | Service::ResultSink
        | Service::Webhooks
        | Service::CostLedger => true,
        Service::Moderator | Service::SimulatedProvider => false,
    }
}

/// Whoever lets in requests or documents.
fn reads_tokens(service: Service) -> bool {
    match service {
        Service::Ingress | Service::PromptBuilder | Service::Indexer => true,
        Service::InferenceRouter
        | Service::Moderator
        | Service::ResultSink
        | Service::Webhooks
        | Service::CostLedger
        | Service::SimulatedProvider => false,
    }
}

fn can_be_cancelled(service: Service) -> bool {
    match service {
        Service::PromptBuilder | Service::InferenceRouter => true,
        Service::Ingress
        | Service::Moderator
        | Service::ResultSink
        | Service::Webhooks
        | Service::CostLedger
        | Service::Indexer
        | Service::SimulatedProvider => false,
    }
}

fn follow_tenants(
    config: &Config,
    service: Service,
    directory: Directory,
    codec: &Codec,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> anyhow::Result<Tenants> {
    let tenants = Tenants::new(config, directory);
    let flag = readiness.register("tenants");
    millrace_tenants::follow(
        config,
        &format!("{}.tenants", service.name()),
        codec.clone(),
        tenants.clone(),
        Box::new(move |ready, why| flag.set(ready, why)),
        shutdown.clone(),
    )
    .context("no thread for the tenants")?;
    Ok(tenants)
}

fn follow_cancellations(
    config: &Config,
    service: Service,
    directory: Directory,
    codec: &Codec,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> anyhow::Result<Cancellations> {
    let cancellations = Cancellations::default();
    let flag = readiness.register("cancellations");
    follow(
        config,
        &format!("{}.cancellations", service.name()),
        (directory, codec.clone()),
        cancellations.clone(),
        Box::new(move |ready, why| flag.set(ready, why)),
        shutdown.clone(),
    )
    .context("no thread for the cancellations")?;
    Ok(cancellations)
}

/// Registers the schemas and takes their ids.
pub async fn connect_codec(config: &Config) -> anyhow::Result<Codec> {
    let access = RegistryAccess {
        url: config.registry.url.clone(),
        username: config.registry.username.clone(),
        password: config.registry.password.as_ref().map(|p: &Secret| p.expose().to_owned()),
    };
    let subjects = subjects(config);
    let mut backoff = patience();
    loop {
        match Codec::connect(&access, &subjects).await {
            Ok(codec) => return Ok(codec),
            Err(error @ CodecError::Registry(_)) => {
                tracing::warn!(url = access.url, %error, "waiting for the schema registry");
                tokio::time::sleep(backoff.next(jitter(), None)).await;
            }
            Err(error @ (CodecError::Refused { .. } | CodecError::Undecodable(_))) => return Err(error.into()),
        }
    }
}

async fn open_storage(config: &Config) -> anyhow::Result<Storage> {
    let mut backoff = patience();
    loop {
        match Storage::open(&config.storage).await {
            Ok(storage) => return Ok(storage),
            Err(error @ StorageError::Outage(_)) => {
                tracing::warn!(%error, "waiting for the database");
                tokio::time::sleep(backoff.next(jitter(), None)).await;
            }
            Err(error @ StorageError::Refused(_)) => return Err(error.into()),
        }
    }
}

/// Waits until a broker answers.
pub async fn wait_for_kafka(config: &Config) -> anyhow::Result<()> {
    const ANSWER: Duration = Duration::from_secs(5);
    admin_client(&config.kafka).context("librdkafka refuses the settings under [kafka]")?;
    let mut backoff = patience();
    loop {
        let kafka = config.kafka.clone();
        let asked =
            tokio::task::spawn_blocking(move || fetch_metadata(&kafka, ANSWER).map(|m| m.brokers().len())).await?;
        match asked {
            Ok(brokers) if brokers > 0 => return Ok(()),
            Ok(_) => tracing::warn!(servers = config.kafka.bootstrap_servers, "waiting for a broker"),
            Err(error) => {
                tracing::warn!(servers = config.kafka.bootstrap_servers, %error, "waiting for kafka");
            }
        }
        tokio::time::sleep(backoff.next(jitter(), None)).await;
    }
}

fn patience() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(10))
}
