//! The server's life: start, serve, drain.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderMap;
use axum::routing::{get, post, put};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api_error::ApiError;
use crate::call::{answer, bearer};
use crate::chat::Chat;
use crate::config::{Latency, SimulatedProviderConfig};
use crate::control;
use crate::dice::Digester;
use crate::embeddings::Embeddings;
use crate::faults::{Fault, FaultRule, Script, Subject};
use crate::keys::Keys;
use crate::responses::Responses;
use crate::socket::{Listener, ResetSwitch};
use crate::stats::{Count, Stats};
use crate::tokens::Encoding;

/// How long a shutdown waits for answers that are under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Why a simulated provider did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is impossible; the text says which and what to set.
    #[error("simulated provider: {0}")]
    Config(String),
    /// The address cannot be listened on.
    #[error("simulated provider: cannot listen on {addr}: {source}; choose a free port or 0 for any")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The listening socket failed.
    #[error("simulated provider: serving failed: {0}")]
    Serve(#[from] io::Error),
}

/// A simulated provider that runs in this process. Dropping it begins a shutdown.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    app: Arc<App>,
    serving: JoinHandle<Result<(), Error>>,
}

impl Server {
    /// Starts on `addr`; port 0 takes any free port. It accepts connections when this returns.
    ///
    /// # Errors
    /// An impossible configuration, or an address that cannot be listened on.
    pub async fn start(config: SimulatedProviderConfig, addr: SocketAddr) -> Result<Self, Error> {
        let app = App::new(config, CancellationToken::new())?;
        let listen = |source| Error::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let serving = tokio::spawn(serve(listener, Arc::clone(&app)));
        Ok(Self { addr, app, serving })
    }

    /// The address listened on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL for OpenAI clients, such as `http://127.0.0.1:8080/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What `GET /count` answers.
    pub fn count(&self) -> Count {
        self.app.stats.count()
    }

    /// Stops accepting, breaks off hanging answers, lets the others end (for 5 seconds at most).
    ///
    /// # Errors
    /// The listening socket had failed before.
    pub async fn shutdown(mut self) -> Result<(), Error> {
        self.app.shutdown.cancel();
        match (&mut self.serving).await {
            Ok(result) => result,
            Err(panicked) => Err(Error::Serve(io::Error::other(panicked))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.shutdown.cancel();
    }
}

/// Serves on `listener` until `shutdown`, then drains as [`Server::shutdown`] does.
///
/// # Errors
/// An impossible configuration, or a listening socket that fails.
pub async fn run(
    listener: TcpListener,
    config: SimulatedProviderConfig,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    serve(listener, App::new(config, shutdown)?).await
}

async fn serve(listener: TcpListener, app: Arc<App>) -> Result<(), Error> {
    // Loading the vocabularies takes a while: not at the first request's expense.
    tokio::task::spawn_blocking(|| {
        Encoding::Chat.tokenizer();
        Encoding::Embedding.tokenizer();
    });
    let shutdown = app.shutdown.clone();
    tracing::info!(address = %listener.local_addr()?, "simulated provider listening");
    let service = router(Arc::clone(&app)).into_make_service_with_connect_info::<ResetSwitch>();
    let stop = shutdown.clone();
    let serving =
        axum::serve(Listener(listener), service).with_graceful_shutdown(async move { stop.cancelled().await });
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = serving => result?,
        () = overdue => tracing::warn!(in_flight = app.stats.count().in_flight, "simulated provider left answers undone"),
    }
    Ok(())
}

fn router(app: Arc<App>) -> Router {
    let limit = DefaultBodyLimit::max(app.config.max_body_bytes);
    Router::new()
        .route("/v1/chat/completions", post(answer::<Chat>))
        .route("/v1/embeddings", post(answer::<Embeddings>))
        .route("/v1/responses", post(answer::<Responses>))
        .route("/v1/models", get(control::models))
        .route("/health", get(control::health))
        .route("/count", get(control::count))
        .route("/calls", get(control::calls))
        .route("/reset", post(control::reset))
        .route("/faults", put(control::put_faults).get(control::faults))
        .route("/latency", put(control::put_latency))
        .route("/keys", put(control::put_keys).get(control::keys))
        .route("/pace", put(control::put_pace))
        .fallback(control::no_such_url)
        .method_not_allowed_fallback(control::wrong_method)
        .layer(limit)
        .with_state(app)
}

/// Everything that requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub config: SimulatedProviderConfig,
    pub stats: Arc<Stats>,
    pub shutdown: CancellationToken,
    /// The name recorded for requests refused before their model was known.
    pub no_model: Arc<str>,
    model_names: Vec<Arc<str>>,
    latency: Mutex<Latency>,
    pace: Mutex<Option<f64>>,
    script: Mutex<Installed>,
    keys: Mutex<Keys>,
    requests: AtomicU64,
}

#[derive(Debug)]
struct Installed {
    script: Script,
    since: Instant,
}

impl App {
    fn new(config: SimulatedProviderConfig, shutdown: CancellationToken) -> Result<Arc<Self>, Error> {
        if let Some(problem) = config.problem() {
            return Err(Error::Config(problem));
        }
        Ok(Arc::new(Self {
            stats: Arc::new(Stats::new(config.kept_calls)),
            shutdown,
            no_model: "".into(),
            model_names: config
                .models
                .iter()
                .chain(&config.embedding_models)
                .map(|name| name.as_str().into())
                .collect(),
            latency: Mutex::new(config.latency),
            pace: Mutex::new(config.tokens_per_second),
            script: Mutex::new(Installed { script: Script::new(config.faults.clone()), since: Instant::now() }),
            keys: Mutex::new(Keys::of(config.api_keys.as_deref())),
            requests: AtomicU64::new(0),
            config,
        }))
    }

    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        lock(&self.keys).knows(bearer(headers))
    }

    /// Lets a call in by its key; the headers tell what is left of the key's limit.
    pub(crate) fn enter(&self, headers: &HeaderMap) -> Result<HeaderMap, ApiError> {
        lock(&self.keys).enter(bearer(headers), Instant::now())
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    /// One allocation for a model's name however many calls name it.
    pub(crate) fn shared_model_name(&self, model: &str) -> Arc<str> {
        self.model_names.iter().find(|name| &***name == model).unwrap_or(&self.no_model).clone()
    }

    /// Unique within a process: `req_` and 32 hexadecimal digits.
    pub(crate) fn next_request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut digester = Digester::new(self.config.seed);
        digester.part(&number.to_le_bytes());
        format!("req_{}", digester.finish().hex(32))
    }

    pub(crate) fn latency(&self) -> Latency {
        *lock(&self.latency)
    }

    pub(crate) fn set_latency(&self, latency: Latency) {
        *lock(&self.latency) = latency;
    }

    /// Tokens of a stream in a second.
    pub(crate) fn pace(&self) -> Option<f64> {
        *lock(&self.pace)
    }

    pub(crate) fn set_pace(&self, pace: Option<f64>) {
        *lock(&self.pace) = pace;
    }

    pub(crate) fn decide(&self, subject: &Subject<'_>) -> Option<Fault> {
        let mut installed = lock(&self.script);
        if installed.script.is_empty() {
            return None;
        }
        let elapsed = installed.since.elapsed();
        installed.script.decide(subject, elapsed)
    }

    pub(crate) fn rules(&self) -> Vec<FaultRule> {
        lock(&self.script).script.rules().cloned().collect()
    }

    pub(crate) fn install(&self, rules: Vec<FaultRule>) {
        *lock(&self.script) = Installed { script: Script::new(rules), since: Instant::now() };
    }

    pub(crate) fn restart_script(&self) {
        let mut installed = lock(&self.script);
        installed.script.restart();
        installed.since = Instant::now();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is replaced whole or counted up: a panic elsewhere leaves it valid.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
