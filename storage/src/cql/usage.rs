//! Usage and audits over CQL.

use async_trait::async_trait;
use futures::TryStreamExt;
use futures::stream::{self, StreamExt};

use crate::cql::error::Doing;
use crate::cql::ledger::{day_of, stored_generation};
use crate::cql::{Cql, IN_FLIGHT};
use crate::json;
use crate::port::{LedgerTotals, Rollup, RollupKey, StorageError, Usage};
use crate::tally::{Line, Tally};

/// Above this many days, asking which of them exist is cheaper than asking for each.
const DAYS_ASKED_ONE_BY_ONE: i64 = 400;

type LineRow = (String, i64, i32, String, String, i64, i64, i64);

#[async_trait]
impl Usage for Cql {
    async fn usage(&self, tenant: &str, from: i64, to: i64) -> Result<Vec<(RollupKey, Rollup)>, StorageError> {
        let days = self.days(tenant, from, to).await?;
        let reads: Vec<_> = days.into_iter().map(|day| self.usage_of_day(tenant, day, from, to)).collect();
        stream::iter(reads).buffer_unordered(IN_FLIGHT).try_concat().await
    }

    async fn totals(&self) -> Result<LedgerTotals, StorageError> {
        let what = "add up the ledger";
        let mut tally = Tally::new();
        // Whole partitions come one after the other, and within each the calls in order: grouped.
        let mut lines = self.pages(what, &self.statements.all_lines, ()).await?.rows_stream::<LineRow>().doing(what)?;
        while let Some((tenant, hour, partition, call, kind, cost_nanos, input_tokens, output_tokens)) =
            lines.try_next().await.doing(what)?
        {
            let line = Line { kind: &kind, cost_nanos, input_tokens, output_tokens };
            tally.line((tenant, hour, partition, call), &line)?;
        }
        let pages = self.pages(what, &self.statements.all_rollups, ()).await?;
        let mut rollups = pages.rows_stream::<(Vec<u8>,)>().doing(what)?;
        while let Some((rollup,)) = rollups.try_next().await.doing(what)? {
            tally.rollup(&json::decode("rollup", &rollup)?)?;
        }
        Ok(tally.totals())
    }
}

impl Cql {
    /// The days, that is the partitions, in which hours of `from..to` can lie.
    async fn days(&self, tenant: &str, from: i64, to: i64) -> Result<Vec<i64>, StorageError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let days = day_of(from)..=day_of(to - 1);
        if days.end() - days.start() < DAYS_ASKED_ONE_BY_ONE {
            return Ok(days.collect());
        }
        let what = "find the days with usage";
        let pages = self.pages(what, &self.statements.all_days, ()).await?;
        let mut rows = pages.rows_stream::<(String, i64)>().doing(what)?;
        let mut found = Vec::new();
        while let Some((owner, day)) = rows.try_next().await.doing(what)? {
            if owner == tenant && days.contains(&day) {
                found.push(day);
            }
        }
        Ok(found)
    }

    async fn usage_of_day(
        &self,
        tenant: &str,
        day: i64,
        from: i64,
        to: i64,
    ) -> Result<Vec<(RollupKey, Rollup)>, StorageError> {
        let what = "read usage";
        let pages = self.pages(what, &self.statements.rollups_of_day, (tenant, day, from, to)).await?;
        let mut rows = pages.rows_stream::<(i64, String, i32, i32, Vec<u8>)>().doing(what)?;
        let mut usage = Vec::new();
        while let Some((hour, user, generation, partition, totals)) = rows.try_next().await.doing(what)? {
            let generation = stored_generation(generation)?;
            let key = RollupKey { tenant: tenant.to_owned(), user, hour, generation, partition };
            usage.push((key, json::decode("rollup", &totals)?));
        }
        Ok(usage)
    }
}
