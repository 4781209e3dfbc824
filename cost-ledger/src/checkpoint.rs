//! The fold's state as bytes, stored with every flush.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fold::PartitionFold;
use crate::open::OpenCall;

/// Of the layout below.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    seen_until: i64,
    open: BTreeMap<String, OpenCall>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The state's bytes. How far it was read is stored beside them.
///
/// # Errors
/// One sentence; does not happen to a state made by folding.
pub fn encode(fold: &PartitionFold) -> Result<Vec<u8>, String> {
    let stored = Stored { version: VERSION, seen_until: fold.seen_until, open: fold.open.clone() };
    serde_json::to_vec(&stored).map_err(|error| format!("the ledger's checkpoint can not be encoded: {error}"))
}

/// The state in `bytes`, read up to `upto`.
///
/// # Errors
/// One sentence that says what to do.
pub fn decode(upto: i64, bytes: &[u8]) -> Result<PartitionFold, String> {
    let corrupt = |error: serde_json::Error| {
        format!("the ledger's checkpoint at offset {upto} is corrupt ({error}): restore the store from a backup")
    };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if version != VERSION {
        return Err(format!(
            "the ledger's checkpoint at offset {upto} has layout {version}, this program reads {VERSION}: run the version that wrote it, or a newer one"
        ));
    }
    let stored: Stored = serde_json::from_slice(bytes).map_err(corrupt)?;
    Ok(PartitionFold::restored(upto, stored.seen_until, stored.open))
}
