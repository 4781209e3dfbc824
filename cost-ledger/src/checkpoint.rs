//! The fold's state as bytes, stored with every flush.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fold::PartitionFold;
use crate::open::OpenCall;
use crate::spending::{KeyRow, Row, Spending};

/// Of the layout below.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    seen_until: i64,
    open: BTreeMap<String, OpenCall>,
    /// What the customers of open calls may be charged. Earlier releases know neither this nor what follows,
    /// and read the rest.
    #[serde(default)]
    charges: BTreeMap<String, i64>,
    #[serde(default)]
    spending: Vec<Row>,
    #[serde(default)]
    key_spending: Vec<KeyRow>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The state's bytes. How far it was read is stored beside them.
///
/// # Errors
/// One sentence; does not happen to a state made by folding.
pub fn encode(fold: &PartitionFold, spending: &Spending) -> Result<Vec<u8>, String> {
    let charge = |(id, call): (&String, &OpenCall)| Some((id.clone(), call.reserved_charge_nanos?));
    let (of_others, of_keys) = spending.rows();
    let stored = Stored {
        version: VERSION,
        seen_until: fold.seen_until,
        open: fold.open.clone(),
        charges: fold.open.iter().filter_map(charge).collect(),
        spending: of_others,
        key_spending: of_keys,
    };
    serde_json::to_vec(&stored).map_err(|error| format!("the ledger's checkpoint can not be encoded: {error}"))
}

/// The state in `bytes`, read up to `upto`.
///
/// # Errors
/// One sentence that says what to do.
pub fn decode(upto: i64, bytes: &[u8]) -> Result<(PartitionFold, Spending), String> {
    let corrupt = |error: serde_json::Error| {
        format!("the ledger's checkpoint at offset {upto} is corrupt ({error}): restore the store from a backup")
    };
    let Versioned { version } = serde_json::from_slice(bytes).map_err(corrupt)?;
    if version != VERSION {
        return Err(format!(
            "the ledger's checkpoint at offset {upto} has layout {version}, this program reads {VERSION}: run the version that wrote it, or a newer one"
        ));
    }
    let Stored { seen_until, mut open, mut charges, spending, key_spending, .. } =
        serde_json::from_slice(bytes).map_err(corrupt)?;
    open.iter_mut().for_each(|(id, call)| call.reserved_charge_nanos = charges.remove(id));
    let spending = Spending::restored(spending, key_spending, &open);
    Ok((PartitionFold::restored(upto, seen_until, open), spending))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use millrace_mutate as mutate;

    const STORED: &[&str] = &[r#"{"version":1,"seen_until":7,"open":{}}"#, r#"{"version":2}"#];

    proptest! {
        #![proptest_config(mutate::cases(1_000))]

        #[test]
        fn a_checkpoint_is_read_or_says_what_to_do(bytes in mutate::bytes(STORED), upto: i64) {
            match decode(upto, &bytes) {
                Ok((fold, spending)) => {
                    let (again, _) = decode(upto, &encode(&fold, &spending).expect("encodes")).expect("decodes");
                    prop_assert_eq!((again.seen_until, again.open), (fold.seen_until, fold.open));
                }
                Err(error) => prop_assert!(error.contains("restore") || error.contains("run the version"), "{error}"),
            }
        }
    }
}
