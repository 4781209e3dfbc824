//! What the end-to-end tests share: the services as processes, and a look at what they did.

mod documents;
mod form;
mod pipeline;
mod process;
mod secrets;
mod settings;

pub use form::form_of;
pub use pipeline::{
    ADMIN_KEY, CUSTOMERS, FAST_OUTCOMES, FAST_REQUESTS, JSON_OUTCOMES, KAFKA_USER, Pipeline, RIVAL_KEY, RIVAL_TOPICS,
    Setup, TENANT_KEY, client, kafka_users,
};
pub use process::{Process, State, millrace, run};
pub use secrets::{Search, Secrets};
