//! Usage and audits over the embedded store.

use async_trait::async_trait;
use fjall::Readable;

use crate::embedded::key::Key;
use crate::embedded::{Embedded, Tables, value};
use crate::json;
use crate::port::{Entry, LedgerTotals, Rollup, RollupKey, StorageError, Usage};
use crate::tally::{Line, Tally};

#[async_trait]
impl Usage for Embedded {
    async fn usage(&self, tenant: &str, from: i64, to: i64) -> Result<Vec<(RollupKey, Rollup)>, StorageError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let first = Key::of(tenant).i64(from).finish()?;
        let beyond = Key::of(tenant).i64(to).finish()?;
        self.run(move |tables| {
            tables.rollups.range(first..beyond).map(|item| json::decode("rollup", &value(item)?)).collect()
        })
        .await
    }

    async fn totals(&self) -> Result<LedgerTotals, StorageError> {
        self.run(totals).await
    }
}

fn totals(tables: &Tables) -> Result<LedgerTotals, StorageError> {
    // One snapshot of both tables: a flush between the two scans must not tear the sums apart.
    let snapshot = tables.db.snapshot();
    let mut tally = Tally::new();
    for item in snapshot.iter(&tables.entries) {
        let entry: Entry = json::decode("entry", &value(item)?)?;
        let line = Line {
            kind: &entry.kind,
            cost_nanos: entry.cost_nanos,
            input_tokens: entry.input_tokens,
            output_tokens: entry.output_tokens,
        };
        tally.line((entry.tenant, entry.hour, entry.partition, entry.call_id), &line)?;
    }
    for item in snapshot.iter(&tables.rollups) {
        let (_, rollup): (RollupKey, Rollup) = json::decode("rollup", &value(item)?)?;
        tally.rollup(&rollup)?;
    }
    Ok(tally.totals())
}
