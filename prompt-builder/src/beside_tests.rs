//! Bodies beside their records.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millrace_files::stored::{self, At};
use millrace_files::{Content, File, Writer, bodies};
use millrace_storage::{FileParts, PartId};
use uuid::Uuid;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// A chat with a picture, larger than a record may be.
fn picture() -> String {
    format!(
        r#"{{"model":"small","messages":[{{"role":"user","content":[{{"type":"text","text":"How many hats?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]}}"#,
        "iVBOR".repeat(120_000)
    )
}

fn named(name: &str) -> Request {
    Request { body_file: Some(name.to_owned()), ..Request::new(Vec::new()) }
}

impl Bench {
    /// Uploads a file of a tenant.
    async fn file(&self, tenant: &str, id: &str, content: &str) {
        let mut writer = Writer::new(tenant, id, 0, Content::default());
        writer.push(content.as_bytes());
        let file = File {
            id: id.to_owned(),
            filename: "body.json".to_owned(),
            purpose: "user_data".to_owned(),
            created_at: 0,
            expires_at: None,
            content: Some(writer.flush(&self.storage).await.unwrap().clone()),
        };
        assert!(stored::create(&self.storage, At { tenant, id }, &file).await.unwrap());
    }

    /// What the router reads of a prompt.
    async fn body_beside(&self, prompt: &Prompt) -> Option<String> {
        let (bodies, tenant) = (&self.builder.aside.bodies, &prompt.meta.tenant);
        let beside = bodies.find(tenant, prompt.body_file.as_deref()?).await.unwrap()?;
        bodies.read(tenant, &beside).await.unwrap().map(|body| String::from_utf8(body).unwrap())
    }
}

#[tokio::test]
async fn what_ingress_put_beside_is_passed_on_as_it_is() {
    let bench = bench().await;
    let body = picture();
    let name = bodies::name(Uuid::now_v7(), body.as_bytes());
    bench.builder.aside.bodies.keep("acme", &name, body.as_bytes(), HOUR).await.unwrap();
    let prompt = bench.built(&bench.signed(1, &named(&name))).await;
    assert_eq!((prompt.ended.as_ref(), prompt.body.as_ref()), (None, None));
    assert_eq!(prompt.body_file, Some(name.clone()), "it is not written twice");
    assert!(prompt.prompt_tokens < 2_000, "a picture is no text: {}", prompt.prompt_tokens);

    let gone = PartId { tenant: "acme".to_owned(), file_id: name.clone(), epoch: 0, part: 0 };
    bench.storage.parts.delete_part(&gone).await.unwrap();
    bench.poisoned(&bench.signed(2, &named(&name)), "body_file_not_found").await;
}

#[tokio::test]
async fn a_record_names_a_file_of_its_own_tenant_only() {
    let bench = bench().await;
    let body = picture();
    bench.file("acme", "file-1", &body).await;
    bench.file("rival", "file-2", &body).await;
    bench.file("acme", "file-3", BODY).await;
    let prompt = bench.built(&bench.signed(1, &named("file-1"))).await;
    assert_eq!(bench.body_beside(&prompt).await, Some(body.clone()), "whoever deletes the file changes no prompt");
    let small = bench.built(&bench.signed(2, &named("file-3"))).await;
    assert_eq!((small.body.as_deref(), small.body_file), (Some(BODY.as_bytes()), None));
    let long = "file-".repeat(30_000);
    for (offset, name) in ["file-2", "file-4", "", "file-", "other", &long].into_iter().enumerate() {
        let record = bench.signed(3 + i64::try_from(offset).unwrap(), &named(name));
        let ended = bench.poisoned(&record, "body_file_not_found").await.ended.unwrap();
        assert_eq!((ended.http_status, ended.param.as_deref()), (404, Some("body_file")));
    }
    let both = Request { body: BODY.as_bytes().to_vec(), ..named("file-1") };
    bench.poisoned(&bench.signed(20, &both), "invalid_body_file").await;
    bench.file("acme", "file-5", &"x".repeat(config().limits.body_bytes + 1)).await;
    bench.poisoned(&bench.signed(21, &named("file-5")), "request_too_large").await;
    let other = Request { operation: "embeddings".to_owned(), ..named("file-1") };
    bench.poisoned(&bench.signed(22, &other), "request_too_large").await;
}

#[tokio::test]
async fn a_key_is_held_to_what_is_in_the_file() {
    let bench = bench().await;
    for (id, body) in
        [("file-1", BODY.to_owned()), ("file-2", BODY.to_owned()), ("file-3", BODY.replace("hats", "caps"))]
    {
        bench.file("acme", id, &body).await;
    }
    let keyed = |name: &str| Request { idempotency_key: Some("k".to_owned()), ..named(name) };
    let prompt = bench.built(&bench.signed(1, &keyed("file-1"))).await;
    let body = Request { body: BODY.as_bytes().to_vec(), body_file: None, ..keyed("") };
    for (offset, same) in [(2, keyed("file-2")), (3, body)] {
        assert!(bench.builder.process(&bench.signed(offset, &same)).await.unwrap().primary.is_none());
    }
    assert!(prompt.meta.body_hash.is_some());
    bench.poisoned(&bench.signed(4, &keyed("file-3")), "idempotency_key_reused").await;
}

/// Parts of a store that does not answer when it is told not to.
struct Away {
    parts: Arc<dyn FileParts>,
    is_away: AtomicBool,
}

impl Away {
    fn answer(&self) -> Result<(), StorageError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(StorageError::Outage("away".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl FileParts for Away {
    async fn put_part(&self, id: &PartId, content: Vec<u8>, kept: Option<Duration>) -> Result<(), StorageError> {
        self.answer()?;
        self.parts.put_part(id, content, kept).await
    }

    async fn part(&self, id: &PartId) -> Result<Option<Vec<u8>>, StorageError> {
        self.answer()?;
        self.parts.part(id).await
    }

    async fn delete_part(&self, id: &PartId) -> Result<(), StorageError> {
        self.parts.delete_part(id).await
    }
}

#[tokio::test]
async fn an_outage_ends_nothing_and_what_was_paid_is_not_paid_again() {
    let mut bench = bench().await;
    let away = Arc::new(Away { parts: bench.storage.parts.clone(), is_away: AtomicBool::new(false) });
    let storage = Storage { parts: away.clone(), ..bench.storage.clone() };
    bench.builder.aside.bodies = Bodies::new(storage, 1 << 20);
    let asking = picture().replace("\"model\"", r#""millrace":{"collection":"handbook","top_k":2},"model""#);
    bench.file("acme", "file-1", &picture()).await;
    bench.file("acme", "file-2", &asking).await;

    away.is_away.store(true, Ordering::SeqCst);
    let record = bench.signed(1, &named("file-1"));
    assert!(matches!(bench.builder.process(&record).await, Err(StageError::Retry { .. })));
    away.is_away.store(false, Ordering::SeqCst);
    assert_eq!(bench.body_beside(&bench.built(&record).await).await, Some(picture()));

    // The store goes away when the question is paid for, and comes back.
    let record = bench.signed(2, &named("file-2"));
    let back = async {
        while bench.embedded() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        away.is_away.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
        away.is_away.store(false, Ordering::SeqCst);
    };
    let (prompt, ()) = tokio::join!(bench.built(&record), back);
    assert_eq!((prompt.ended.as_ref(), prompt.passages, bench.embedded()), (None, 2, 1));
    assert!(bench.body_beside(&prompt).await.unwrap().contains("Four hats."));
}

#[tokio::test]
async fn a_redacted_prompt_may_be_as_large_as_a_body() {
    let bench = rules::held_to(bench().await, r#"prompt.pii.email = "redact""#, config());
    let body = picture().replace("How many hats?", "How many hats has a.person@example.org?");
    let name = bodies::name(Uuid::now_v7(), body.as_bytes());
    bench.builder.aside.bodies.keep("acme", &name, body.as_bytes(), HOUR).await.unwrap();
    let prompt = bench.built(&bench.signed(1, &named(&name))).await;
    let read = bench.body_beside(&prompt).await.unwrap();
    assert!(!read.contains("a.person") && read.len() > 500_000, "{:?}", prompt.ended);
    assert_ne!(prompt.body_file, Some(name), "what was redacted is not what was asked");
}
