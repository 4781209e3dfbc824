//! Ingress, as the tools ask it.

use anyhow::{Context, bail};
use millrace_config::Config;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

/// Where to ask, and as whom.
pub struct Door {
    base: String,
    key: String,
    client: Client,
}

impl Door {
    /// The door that was named, or the configuration's.
    pub fn open(url: Option<String>, key: String, config: &Config) -> anyhow::Result<Self> {
        let base = url.unwrap_or_else(|| format!("http://{}", config.ingress.listen));
        Ok(Self { base, key, client: Client::builder().no_proxy().build()? })
    }

    /// A request with the key; `path` begins with a slash.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key)
    }

    /// What ingress answers; what it refuses is an error in its own words.
    pub async fn ask(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let answer = request
            .send()
            .await
            .with_context(|| format!("ingress does not answer at {}; name it with --url or MILLRACE_URL", self.base))?;
        let status = answer.status();
        let value: Value = answer.json().await.context("the answer is not JSON")?;
        if !status.is_success() {
            bail!("{}", value["error"]["message"].as_str().unwrap_or("ingress refused"));
        }
        Ok(value)
    }
}
