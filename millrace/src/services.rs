//! The services by name, and how each is started.

use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use millrace_schemas::Lane;
use millrace_stage::{DriverError, Producer, StageEnv, run_stage};
use tokio::net::TcpListener;

use crate::wiring::Wiring;

/// Everything that `millrace run` can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Service {
    /// The HTTP front door.
    Ingress,
    /// requests -> prompts
    PromptBuilder,
    /// prompts -> calls, completions
    InferenceRouter,
    /// completions -> outcomes
    Moderator,
    /// outcomes -> the result store, facts
    ResultSink,
    /// outcomes -> the tenants' endpoints
    Webhooks,
    /// calls -> entries, rollups
    CostLedger,
    /// documents -> Qdrant
    Indexer,
    /// An OpenAI-compatible server without a model behind it.
    SimulatedProvider,
}

impl Service {
    /// The services of a pipeline, in the order of the arrow.
    pub const PIPELINE: [Service; 8] = [
        Service::CostLedger,
        Service::Webhooks,
        Service::ResultSink,
        Service::Moderator,
        Service::InferenceRouter,
        Service::PromptBuilder,
        Service::Indexer,
        Service::Ingress,
    ];

    /// The name, as typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::PromptBuilder => "prompt-builder",
            Self::InferenceRouter => "inference-router",
            Self::Moderator => "moderator",
            Self::ResultSink => "result-sink",
            Self::Webhooks => "webhooks",
            Self::CostLedger => "cost-ledger",
            Self::Indexer => "indexer",
            Self::SimulatedProvider => "simulated-provider",
        }
    }

    /// Whether it runs once per lane.
    pub fn has_lanes(self) -> bool {
        match self {
            Self::PromptBuilder | Self::InferenceRouter | Self::Moderator | Self::ResultSink | Self::Webhooks => true,
            Self::Ingress | Self::CostLedger | Self::Indexer | Self::SimulatedProvider => false,
        }
    }
}

impl Wiring {
    /// What a stage of one lane runs in; from now on the process is not ready before the stage is.
    pub fn stage_env(&self, service: Service, lane: Lane) -> StageEnv {
        self.env(&format!("{} {lane}", service.name()))
    }

    /// Runs a stage of one lane (services without lanes ignore it) until shutdown or failure.
    pub async fn run_stage(&self, service: Service, lane: Lane, env: StageEnv) -> anyhow::Result<()> {
        let producer = match lane {
            Lane::Interactive => Producer::new(&self.config.kafka),
            Lane::Batch => Producer::batching(&self.config.kafka),
        };
        let producer = producer.context("the producer's settings are refused")?;
        let ended = self.stage(service, lane, &env, producer).await?;
        ended.with_context(|| format!("{} ({lane}) ended", service.name()))
    }

    async fn stage(
        &self,
        service: Service,
        lane: Lane,
        env: &StageEnv,
        producer: Producer,
    ) -> anyhow::Result<Result<(), DriverError>> {
        let (config, codec) = (&self.config, env.codec.clone());
        Ok(match service {
            Service::PromptBuilder => {
                let Some(cancellations) = self.cancellations().await? else { return Ok(Ok(())) };
                let Some(budgets) = self.budgets().await? else { return Ok(Ok(())) };
                let deps = millrace_prompt_builder::Deps {
                    settings: self.settings.clone(),
                    producer: producer.clone(),
                    codec,
                    storage: self.storage()?,
                    cancellations,
                    budgets,
                    calls: self.metrics.calls.clone(),
                    metrics: self.metrics.prompts.clone(),
                };
                let stage = Arc::new(millrace_prompt_builder::stage(config, deps, lane)?);
                let redrives = self.env(&format!("{} {lane} redrives", service.name()));
                let both = [
                    (millrace_prompt_builder::spec(self.tenants()?.directory(), lane), env.clone()),
                    (millrace_prompt_builder::redrive_spec(lane), redrives),
                ];
                let end = env.shutdown.child_token();
                // When one ends, the other drains.
                let running = both.map(|(spec, env)| {
                    let (stage, producer, end) = (Arc::clone(&stage), producer.clone(), end.clone());
                    async move {
                        let env = StageEnv { shutdown: end.clone(), ..env };
                        let ended = run_stage(spec, &env, producer, stage).await;
                        end.cancel();
                        ended
                    }
                });
                let [requests, redrives] = running;
                let (requests, redrives) = tokio::join!(requests, redrives);
                requests.and(redrives)
            }
            Service::InferenceRouter => {
                let Some(cancellations) = self.cancellations().await? else { return Ok(Ok(())) };
                let Some(budgets) = self.budgets().await? else { return Ok(Ok(())) };
                let deps = millrace_inference_router::Deps {
                    settings: self.settings.clone(),
                    producer: producer.clone(),
                    hints: Producer::hinting(&config.kafka).context("the producer's settings are refused")?,
                    codec,
                    metrics: self.metrics.calls.clone(),
                    cancellations,
                    budgets,
                    bodies: millrace_files::Bodies::new(self.storage()?.clone(), config.stage.max_bytes),
                };
                let stage = millrace_inference_router::stage(deps, lane);
                run_stage(millrace_inference_router::spec(lane), env, producer, stage).await
            }
            Service::Moderator => {
                let stage =
                    millrace_moderator::ModeratorStage::new(self.settings.clone(), codec, producer.clone(), lane)?;
                run_stage(millrace_moderator::spec(lane), env, producer, stage).await
            }
            Service::ResultSink => {
                let stage = millrace_result_sink::ResultSinkStage::new(
                    self.tenants()?.directory().clone(),
                    codec,
                    producer.clone(),
                    self.storage()?,
                );
                run_stage(millrace_result_sink::spec(lane), env, producer, stage).await
            }
            Service::Webhooks => {
                let parts = (self.storage()?, self.tenants()?);
                millrace_webhooks::run(config, lane, env, producer, parts, self.metrics.webhooks.clone()).await
            }
            Service::CostLedger => {
                let store = Arc::clone(&self.storage()?.ledger);
                let counting = crate::budgets::counting(self.tenants()?.directory());
                millrace_cost_ledger::run(config, env, producer, store, self.metrics.ledger.clone(), counting).await
            }
            Service::Indexer => {
                let (settings, calls) = (self.settings.clone(), self.metrics.calls.clone());
                let Some(budgets) = self.budgets().await? else { return Ok(Ok(())) };
                let stage = millrace_indexer::stage(config, settings, producer.clone(), codec, calls, budgets)?;
                match stage {
                    Some(stage) => run_stage(millrace_indexer::spec(), env, producer, stage).await,
                    None => {
                        tracing::info!("no knowledge is configured: the indexer has nothing to do");
                        (env.ready)(true, "no knowledge is configured");
                        env.shutdown.cancelled().await;
                        Ok(())
                    }
                }
            }
            Service::Ingress | Service::SimulatedProvider => Ok(()),
        })
    }

    /// Serves the HTTP front door on `listener` until shutdown.
    pub async fn run_ingress(&self, listener: TcpListener) -> anyhow::Result<()> {
        let flag = self.readiness.register("ingress");
        let Some(budgets) = self.budgets().await? else { return Ok(()) };
        let deps = millrace_ingress::Deps {
            codec: self.codec.clone(),
            storage: self.storage()?.clone(),
            tenants: self.tenants()?.clone(),
            budgets,
            settings: self.settings.clone(),
            metrics: self.metrics.ingress.clone(),
        };
        millrace_ingress::run(
            &self.config,
            listener,
            deps,
            Arc::new(move |ready, why| flag.set(ready, why)),
            self.shutdown.clone(),
        )
        .await
        .context("ingress ended")
    }
}
