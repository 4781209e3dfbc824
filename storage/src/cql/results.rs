//! Outcomes over CQL. The write timestamp falls along the log, so the first in the log wins.

use async_trait::async_trait;
use futures::TryStreamExt;

use crate::cql::error::Doing;
use crate::cql::{Cql, place};
use crate::port::{LogPlace, Results, StorageError};

#[async_trait]
impl Results for Cql {
    async fn put(
        &self,
        tenant: &str,
        request_id: &str,
        run: i32,
        place: LogPlace,
        outcome: Vec<u8>,
    ) -> Result<(), StorageError> {
        let timestamp = place::falling(place)?;
        let values = (tenant, request_id, run, outcome, timestamp);
        self.execute("store an outcome", &self.statements.put_result, values).await.map(|_| ())
    }

    async fn get(&self, tenant: &str, request_id: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let what = "read an outcome";
        let answer = self.execute(what, &self.statements.latest_result, (tenant, request_id)).await?;
        let row = answer.into_rows_result().doing(what)?.maybe_first_row::<(Vec<u8>,)>().doing(what)?;
        Ok(row.map(|(outcome,)| outcome))
    }

    async fn count(&self) -> Result<u64, StorageError> {
        let what = "count outcomes";
        let mut runs = self.pages(what, &self.statements.all_results, ()).await?.rows_stream::<(i32,)>().doing(what)?;
        let mut count = 0;
        while runs.try_next().await.doing(what)?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}
