//! What the end-to-end tests share: the services as processes, and a look at what they did.

mod documents;
mod pipeline;
mod process;

pub use pipeline::{
    FAST_OUTCOMES, FAST_REQUESTS, KAFKA_USER, Pipeline, RIVAL_KEY, Setup, TENANT_KEY, client, kafka_users,
};
pub use process::{Process, State, millrace, run};
