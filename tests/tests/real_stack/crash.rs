//! Processes that are killed while a client reads the answer that they write.

use anyhow::{Context, ensure};
use millrace_tests::{Pipeline, RIVAL_KEY, TENANT_KEY};
use serde_json::{Value, json};

use crate::stream::{ask, content, read_on, set};
use crate::until_as;

pub async fn in_the_middle_of_an_answer(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    set(pipeline, "pace", &json!({ "tokens_per_second": 20 })).await?;
    the_replica_that_holds_the_client(pipeline).await?;
    every_router(pipeline, TENANT_KEY, "Tell me though they die").await?;
    let whole = every_router(pipeline, RIVAL_KEY, "Write to ann@example.com though they die").await?;
    ensure!(whole.contains("ann@example.com"), "what was taken out of the prompt is not back in {whole}");
    set(pipeline, "pace", &json!({ "tokens_per_second": null })).await
}

/// Its client reads on at another one: nothing twice, nothing missing, and the one call goes on.
async fn the_replica_that_holds_the_client(pipeline: &mut Pipeline) -> anyhow::Result<()> {
    let mut reader = Reader::ask(pipeline, TENANT_KEY, "Tell me while you die").await?;
    pipeline.kill("ingress-0").await?;
    reader.read_all().await;
    ensure!(!reader.text.contains("[DONE]") && !reader.text.contains("\"error\""), "{}", reader.text);
    let door = pipeline.doors.last().context("a door")?;
    let rest = read_on(door, &reader.id, &reader.text).await?;
    let stored = outcome(door, TENANT_KEY, &reader.id).await?;
    let told = [content(&reader.text)?, content(&rest)?].concat();
    ensure!(told == text_of(&stored)? && rest.ends_with("data: [DONE]\n\n"), "{told} is not {stored}: {rest}");
    ensure!(stored["calls"].as_array().map(Vec::len) == Some(1), "{stored}");
    pipeline.restart("ingress-0")?;
    pipeline.until_ready().await
}

/// The call is made again: the client is told what is true, and the outcome is whole. Both calls are on the bill as the
/// provider counted them, which is looked at when the deadline of the first is over. Returns the outcome's text.
async fn every_router(pipeline: &mut Pipeline, key: &str, prompt: &str) -> anyhow::Result<String> {
    let mut reader = Reader::ask(pipeline, key, prompt).await?;
    for name in ["inference-router-0", "inference-router-1"] {
        pipeline.kill(name).await?;
        pipeline.restart(name)?;
    }
    reader.read_all().await;
    let stored = outcome(&pipeline.http, key, &reader.id).await?;
    let whole = text_of(&stored)?;
    let told = content(&reader.text)?;
    let is_whole = reader.text.ends_with("data: [DONE]\n\n") && told == whole;
    let is_broken = reader.text.contains("data: {\"error\"") && !reader.text.contains("[DONE]");
    ensure!(is_whole || is_broken, "{} is neither {whole} nor an error", reader.text);
    ensure!(!told.contains("[EMAIL"), "a placeholder was seen: {told}");
    pipeline.until_ready().await?;
    Ok(whole.to_owned())
}

/// A client that has read the first words of a streamed answer.
struct Reader {
    id: String,
    answer: reqwest::Response,
    text: String,
}

impl Reader {
    async fn ask(pipeline: &Pipeline, key: &str, prompt: &str) -> anyhow::Result<Self> {
        let mut answer = ask(&pipeline.http, key, prompt).await?;
        let id = answer.headers()["x-request-id"].to_str()?.to_owned();
        let mut text = String::new();
        while content(&text)?.is_empty() {
            text += std::str::from_utf8(&answer.chunk().await?.context("an event")?)?;
        }
        Ok(Self { id, answer, text })
    }

    /// Until the stream ends or breaks off.
    async fn read_all(&mut self) {
        while let Ok(Some(more)) = self.answer.chunk().await {
            self.text += &String::from_utf8_lossy(&more);
        }
    }
}

async fn outcome(door: &str, key: &str, id: &str) -> anyhow::Result<Value> {
    let stored = until_as(key, &format!("{door}/v1/requests/{id}"), |v| v["status"] != "in_progress").await?;
    ensure!(stored["status"] == "succeeded", "{stored}");
    Ok(stored)
}

fn text_of(stored: &Value) -> anyhow::Result<&str> {
    stored["response"]["choices"][0]["message"]["content"].as_str().context("a text")
}
