//! What there is to do for a document, given what is stored of it. Pure.

use std::collections::{BTreeSet, HashMap};

use millrace_admission::tokens;
use millrace_schemas::{CallLine, body_hash, derived_uuid};
use uuid::Uuid;

use crate::chunk::{self, Size};
use crate::document::Accepted;
use crate::place::Place;
use crate::ports::{DocumentKey, Stored};

/// A chunk and what its vector is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub id: Uuid,
    pub text: String,
    /// What is embedded: the title says what the text is about.
    pub input: String,
    /// Of the input and of the model that embeds it.
    pub hash: String,
}

/// How documents are cut and embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub size: Size,
    /// What makes vectors comparable: provider, model and dimensions.
    pub space: String,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A later version is stored.
    Stale,
    /// These steps, in their order.
    Write(Steps),
}

/// Chunks by their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Steps {
    /// Their vectors are stored in these points: they are moved, not paid for.
    pub move_from: Vec<(usize, Uuid)>,
    /// They must be paid for.
    pub embed: Vec<usize>,
    /// Points that no chunk is left for.
    pub delete: Vec<Uuid>,
}

/// Cuts a document.
pub(crate) fn chunks(document: &Accepted, recipe: &Recipe) -> Vec<Chunk> {
    // The title takes a quarter of a chunk at most.
    let title = document.title.as_deref().map(|title| tokens::truncate(title, recipe.size.tokens / 4));
    let head = title.filter(|title| !title.is_empty()).map_or_else(String::new, |title| format!("{title}\n\n"));
    let tokens = recipe.size.tokens.saturating_sub(tokens::count(&head)).max(1);
    let texts = chunk::chunks(&document.text, Size { tokens, ..recipe.size });
    let chunk = |(number, text): (usize, &str)| {
        let input = format!("{head}{text}");
        Chunk {
            id: point_id(&document.key, number),
            text: text.to_owned(),
            hash: body_hash(format!("{}\0{input}", recipe.space).as_bytes()),
            input,
        }
    };
    texts.into_iter().enumerate().map(chunk).collect()
}

/// The lock of a document, and the source of its points' ids.
pub(crate) fn document_uuid(key: &DocumentKey) -> Uuid {
    derived_uuid(&["document", &key.tenant, &key.collection, &key.document_id])
}

fn point_id(key: &DocumentKey, number: usize) -> Uuid {
    derived_uuid(&["passage", &key.tenant, &key.collection, &key.document_id, &number.to_string()])
}

/// Compares the chunks of the version at `place` with what is stored.
pub(crate) fn verdict(chunks: &[Chunk], place: Place, stored: &[Stored]) -> Verdict {
    if stored.iter().filter_map(|point| point.place).any(|other| other.is_after(&place)) {
        return Verdict::Stale;
    }
    let by_id: HashMap<Uuid, &Stored> = stored.iter().map(|point| (point.id, point)).collect();
    let by_hash: HashMap<&str, Uuid> = stored.iter().map(|point| (point.hash.as_str(), point.id)).collect();
    let mut steps = Steps::default();
    for (number, chunk) in chunks.iter().enumerate() {
        let same = by_id.get(&chunk.id).filter(|point| point.hash == chunk.hash);
        if same.is_some_and(|point| point.place == Some(place)) {
            continue;
        }
        match same.map(|point| point.id).or_else(|| by_hash.get(chunk.hash.as_str()).copied()) {
            Some(from) => steps.move_from.push((number, from)),
            None => steps.embed.push(number),
        }
    }
    let left: BTreeSet<Uuid> = chunks.iter().map(|chunk| chunk.id).collect();
    steps.delete = stored.iter().map(|point| point.id).filter(|id| !left.contains(id)).collect();
    Verdict::Write(steps)
}

/// The calls that this very record paid for before: an earlier owner may have left them open.
pub(crate) fn own_bills(place: Place, stored: &[Stored]) -> Vec<CallLine> {
    stored.iter().filter(|point| point.place == Some(place)).filter_map(|point| point.bill.clone()).collect()
}

#[cfg(test)]
mod tests {
    use millrace_provider::Who;

    use super::*;

    fn document(title: Option<&str>, text: &str) -> Accepted {
        let key = DocumentKey { tenant: "t".to_owned(), collection: "c".to_owned(), document_id: "d".to_owned() };
        let who = Who {
            tenant: "t".to_owned(),
            user: "u".to_owned(),
            key_id: None,
            request_id: "d".to_owned(),
            run: 0,
            lane: "documents".to_owned(),
        };
        Accepted { key, who, text: text.to_owned(), title: title.map(str::to_owned), metadata: Default::default() }
    }

    fn cut(text: &str) -> Vec<Chunk> {
        chunks(&document(None, text), &recipe())
    }

    fn recipe() -> Recipe {
        Recipe { size: Size { tokens: 2, overlap: 0 }, space: "p/m/8".to_owned() }
    }

    fn place(offset: i64) -> Place {
        Place { generation: 0, partition: 0, offset, timestamp: 0 }
    }

    fn stored(chunks: &[Chunk], at: i64) -> Vec<Stored> {
        let stored =
            |chunk: &Chunk| Stored { id: chunk.id, hash: chunk.hash.clone(), place: Some(place(at)), bill: None };
        chunks.iter().map(stored).collect()
    }

    #[test]
    fn steps_by_what_is_stored() {
        let check = |now: &str, before: &str, moved: &[(usize, usize)], embed: &[usize], deleted: usize| {
            let (now, before) = (cut(now), cut(before));
            let Verdict::Write(steps) = verdict(&now, place(2), &stored(&before, 1)) else { panic!("not stale") };
            let moved: Vec<_> = moved.iter().map(|(to, from)| (*to, before[*from].id)).collect();
            assert_eq!((steps.move_from, steps.embed.as_slice(), steps.delete.len()), (moved, embed, deleted));
        };
        check("a b c d", "", &[], &[0, 1], 0);
        check("a b c d", "a b c d", &[(0, 0), (1, 1)], &[], 0);
        check("a b c d", "a b x y", &[(0, 0)], &[1], 0);
        check("a b", "a b c d e f", &[(0, 0)], &[], 2);
        // Only what was put in front is paid for.
        check("x y a b c d", "a b c d", &[(1, 0), (2, 1)], &[0], 0);
        check("x y z q x y", "x y", &[(0, 0), (2, 0)], &[1], 0);
    }

    #[test]
    fn a_replay_has_nothing_to_do_and_an_earlier_version_is_stale() {
        let chunks = cut("a b c d");
        assert_eq!(verdict(&chunks, place(2), &stored(&chunks, 2)), Verdict::Write(Steps::default()));
        assert_eq!(verdict(&chunks, place(2), &stored(&chunks, 3)), Verdict::Stale);
        // Half of it is later: its writer is at work elsewhere.
        let mut mixed = stored(&chunks, 1);
        mixed[1].place = Some(place(3));
        assert_eq!(verdict(&chunks, place(2), &mixed), Verdict::Stale);
    }

    #[test]
    fn vectors_are_taken_for_the_same_only_if_they_are() {
        let one = |title: Option<&str>, text: &str, space: &str| {
            let recipe = Recipe { size: Size { tokens: 64, overlap: 0 }, space: space.to_owned() };
            chunks(&document(title, text), &recipe)[0].clone()
        };
        let plain = one(Some("T"), "a b", "p/m/8");
        assert_eq!((plain.input.as_str(), plain.text.as_str()), ("T\n\na b", "a b"));
        assert_eq!(one(None, "a b", "p/m/8").input, "a b");
        for other in [one(None, "a b", "p/m/8"), one(Some("T"), "a c", "p/m/8"), one(Some("T"), "a b", "p/n/8")] {
            assert_ne!(other.hash, plain.hash);
            assert_eq!(other.id, plain.id);
        }
        assert_ne!(point_id(&DocumentKey { tenant: "s".to_owned(), ..document(None, "").key }, 0), plain.id);
    }

    #[test]
    fn a_long_title_leaves_room_for_the_text() {
        let recipe = Recipe { size: Size { tokens: 32, overlap: 0 }, space: String::new() };
        let cut = chunks(&document(Some(&"title ".repeat(100)), &"word ".repeat(100)), &recipe);
        assert!(cut.len() < 8, "{}", cut.len());
        assert!(cut.iter().all(|chunk| tokens::count(&chunk.input) <= 33));
    }
}
