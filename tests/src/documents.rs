//! What Qdrant holds.

use std::collections::HashSet;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::{PayloadIncludeSelector, PointId, ScrollPointsBuilder, Value};

/// The indexer's collection and the payload key of a document's id, at their defaults.
const COLLECTION: &str = "millrace-documents";
const DOCUMENT_ID: &str = "document_id";
const PAGE: u32 = 512;

/// Ids of all documents that have a passage.
pub async fn stored(url: &str) -> anyhow::Result<HashSet<String>> {
    let client = Qdrant::from_url(url).skip_compatibility_check().build()?;
    let mut found = HashSet::new();
    if !client.collection_exists(COLLECTION).await? {
        return Ok(found);
    }
    let mut next = None;
    loop {
        let mut page = ScrollPointsBuilder::new(COLLECTION)
            .limit(PAGE)
            .with_payload(PayloadIncludeSelector { fields: vec![DOCUMENT_ID.to_owned()] })
            .with_vectors(false);
        if let Some(offset) = next.take() {
            page = page.offset::<PointId>(offset);
        }
        let answer = client.scroll(page).await?;
        found.extend(answer.result.into_iter().filter_map(|point| text(point.payload.get(DOCUMENT_ID)?)));
        match answer.next_page_offset {
            Some(offset) => next = Some(offset),
            None => return Ok(found),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    if let Some(Kind::StringValue(text)) = &value.kind { Some(text.clone()) } else { None }
}
