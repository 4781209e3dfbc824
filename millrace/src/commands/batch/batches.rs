//! Ingress, as `millrace batch` asks it.

use std::path::Path;

use anyhow::Context;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use millrace_config::Config;
use reqwest::{Body, Method};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::DoorArgs;
use crate::door::Door;
use crate::waiting::Waiting;

const PIECE: usize = 64 * 1024;

/// Files and batches of ingress.
pub struct Batches(Door);

impl Batches {
    /// The door that was named, or the configuration's.
    pub fn open(args: DoorArgs, config: &Config) -> anyhow::Result<Self> {
        let key = args.key.context("set MILLRACE_API_KEY to one of the tenant's keys")?;
        Ok(Self(Door::open(args.url, key, config)?))
    }

    /// Uploads a file piece by piece; its id.
    pub async fn upload(&self, path: &Path) -> anyhow::Result<String> {
        let _waiting = Waiting::new("uploading");
        let file = tokio::fs::File::open(path).await.with_context(|| format!("{} can not be read", path.display()))?;
        let boundary = uuid::Uuid::now_v7().simple().to_string();
        // A name needs no more than to be recognised.
        let is_plain = |c: &char| !c.is_control() && *c != '"' && *c != '\\';
        let name: String = path.file_name().unwrap_or_default().to_string_lossy().chars().filter(is_plain).collect();
        let field = format!("--{boundary}\r\nContent-Disposition: form-data; name=");
        let head = format!("{field}\"purpose\"\r\n\r\nbatch\r\n{field}\"file\"; filename=\"{name}\"\r\n\r\n");
        let ends = |text: String| stream::iter([Ok(text.into_bytes())]);
        let form = ends(head).chain(pieces(file)).chain(ends(format!("\r\n--{boundary}--\r\n")));
        let request = self.0.request(Method::POST, "/v1/files");
        let kind = format!("multipart/form-data; boundary={boundary}");
        let uploaded = self.0.ask(request.header("content-type", kind).body(Body::wrap_stream(form))).await?;
        uploaded["id"].as_str().map(str::to_owned).context("ingress gave the file no id")
    }

    /// Makes a batch.
    pub async fn create(&self, new: &Value) -> anyhow::Result<Value> {
        self.0.ask(self.0.request(Method::POST, "/v1/batches").json(new)).await
    }

    /// How far a batch is.
    pub async fn batch(&self, id: &str) -> anyhow::Result<Value> {
        self.0.ask(self.0.request(Method::GET, &format!("/v1/batches/{id}"))).await
    }

    /// The newest batches.
    pub async fn batches(&self) -> anyhow::Result<Value> {
        self.0.ask(self.0.request(Method::GET, "/v1/batches?limit=20")).await
    }

    /// Stops a batch.
    pub async fn cancel(&self, id: &str) -> anyhow::Result<Value> {
        self.0.ask(self.0.request(Method::POST, &format!("/v1/batches/{id}/cancel"))).await
    }

    /// Writes a file's content piece by piece.
    pub async fn download(&self, file: &str, to: &Path) -> anyhow::Result<()> {
        let _waiting = Waiting::new("downloading");
        let request = self.0.request(Method::GET, &format!("/v1/files/{file}/content"));
        let answer = request.send().await?.error_for_status()?;
        let cannot = || format!("{} can not be written", to.display());
        let mut out = tokio::fs::File::create(to).await.with_context(cannot)?;
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.try_next().await.context("the download broke off; try again")? {
            out.write_all(&piece).await.with_context(cannot)?;
        }
        out.flush().await.with_context(cannot)
    }
}

fn pieces(file: tokio::fs::File) -> impl Stream<Item = std::io::Result<Vec<u8>>> {
    stream::try_unfold(file, async |mut file| {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok((read > 0).then_some((piece, file)))
    })
}
