//! What was spent and reserved, for whoever holds a budget.

use serde::{Deserialize, Serialize};

/// Whose calls are counted together: a tenant's, or those of one of its users or keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// All of the tenant.
    Tenant,
    /// The user of this id.
    User(String),
    /// The key of this id.
    Key(String),
}

impl Account {
    /// All that a call of this user, asked for with this key, is counted in.
    pub fn all(user: &str, key_id: Option<&str>) -> impl Iterator<Item = Self> {
        let key = key_id.map(|key| Self::Key(key.to_owned()));
        [Self::Tenant, Self::User(user.to_owned())].into_iter().chain(key)
    }
}

/// Spending in one partition of `calls`, or a mark of how far it was folded. See `avro/budget.avsc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Of `calls`.
    pub generation: i32,
    /// Of `calls`.
    pub partition: i32,
    /// Offset of the last record folded.
    pub upto: i64,
    /// None in a mark.
    pub tenant: Option<String>,
    /// None for all users together; empty where `key_id` says whose it is, as for no user.
    pub user: Option<String>,
    /// The key whose spending it is.
    pub key_id: Option<String>,
    /// ISO 4217.
    pub currency: String,
    /// Days since the epoch.
    pub day: i64,
    /// Charged for that day's calls.
    pub day_nanos: i64,
    /// Months since January 1970.
    pub month: i64,
    /// Charged for that month's calls.
    pub month_nanos: i64,
    /// Charged ever.
    pub total_nanos: i64,
    /// Reserved for open calls.
    pub open_nanos: i64,
}

impl Budget {
    /// A mark: everything written before it covers `upto`.
    #[must_use]
    pub fn mark(generation: i32, partition: i32, upto: i64) -> Self {
        Self {
            generation,
            partition,
            upto,
            tenant: None,
            user: None,
            key_id: None,
            currency: String::new(),
            day: 0,
            day_nanos: 0,
            month: 0,
            month_nanos: 0,
            total_nanos: 0,
            open_nanos: 0,
        }
    }

    /// The same of a tenant's account. Readers of earlier releases take a key's for that of a user who is nobody.
    #[must_use]
    pub fn of(self, tenant: String, account: Account) -> Self {
        let (user, key_id) = match account {
            Account::Tenant => (None, None),
            Account::User(user) => (Some(user), None),
            Account::Key(key) => (Some(String::new()), Some(key)),
        };
        Self { tenant: Some(tenant), user, key_id, ..self }
    }

    /// Whose spending of the tenant it is.
    #[must_use]
    pub fn account(&self) -> Account {
        match (&self.key_id, &self.user) {
            (Some(key), _) => Account::Key(key.clone()),
            (None, Some(user)) => Account::User(user.clone()),
            (None, None) => Account::Tenant,
        }
    }

    /// The key of its record. Neither generations, partitions, currencies nor tenants have a slash.
    #[must_use]
    pub fn key(&self) -> String {
        let Self { generation, partition, currency, .. } = self;
        let Some(tenant) = &self.tenant else { return format!("{generation}/{partition}") };
        match self.account() {
            Account::Tenant => format!("{generation}/{partition}/{currency}/{tenant}"),
            Account::User(user) => format!("{generation}/{partition}/{currency}/{tenant}/{user}"),
            // No generation begins like that.
            Account::Key(key) => format!("key/{generation}/{partition}/{currency}/{tenant}/{key}"),
        }
    }
}

/// The month (since January 1970) of a day (since its first), in UTC.
#[must_use]
pub fn month_of(day: i64) -> i64 {
    // Years begin in March here, so that the day that is not always there is the last one.
    let day = day.saturating_add(719_468);
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    (era * 400 + year - 1970) * 12 + (5 * of_year + 2) / 153 + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_on_their_first_day() {
        for (day, month) in
            [(0, 0), (30, 0), (31, 1), (58, 1), (59, 2), (-1, -1), (365, 12), (11_016, 361), (11_017, 362)]
        {
            assert_eq!(month_of(day), month, "{day}");
        }
        // 2026-11-26
        assert_eq!(month_of(20_783), 56 * 12 + 10);
    }

    #[test]
    fn a_key_names_one_cell() {
        let mark = Budget::mark(1, 2, 3);
        let tenant = Budget { tenant: Some("acme".to_owned()), currency: "USD".to_owned(), ..mark.clone() };
        let user = Budget { user: Some("a/b".to_owned()), ..tenant.clone() };
        assert_eq!([mark.key(), tenant.key(), user.key()], ["1/2", "1/2/USD/acme", "1/2/USD/acme/a/b"]);
    }
}
