//! How often a backend may be asked again: a budget, so that retries cannot multiply the load of one that is in trouble.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::limits::UpstreamLimits;

/// Retries that may still be made. Each request pays in its share, time pays in a little, a retry takes one out.
pub(crate) struct Budget {
    ratio: f64,
    per_second: f64,
    account: Mutex<Account>,
}

struct Account {
    retries: f64,
    at: Instant,
}

impl Budget {
    pub(crate) fn new(limits: &UpstreamLimits) -> Self {
        let per_second = f64::from(limits.retries_per_second);
        let account = Account { retries: per_second, at: Instant::now() };
        Self { ratio: f64::from(limits.retry_percent) / 100.0, per_second, account: Mutex::new(account) }
    }

    /// A request came, for the first time.
    pub(crate) fn deposit(&self) {
        self.change(|account| {
            account.retries += self.ratio;
            true
        });
    }

    /// Whether one more retry is in it; if so, it is taken.
    pub(crate) fn withdraw(&self) -> bool {
        self.change(|account| {
            let enough = account.retries >= 1.0;
            account.retries -= if enough { 1.0 } else { 0.0 };
            enough
        })
    }

    fn change(&self, change: impl FnOnce(&mut Account) -> bool) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        account.retries += now.saturating_duration_since(account.at).as_secs_f64() * self.per_second;
        account.at = now;
        account.retries = account.retries.min(SAVED.max(self.per_second));
        change(&mut account)
    }
}

/// Retries that a quiet time saves up at most: a second's worth of a busy backend's failures.
const SAVED: f64 = 100.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::Limits;

    fn empty() -> Budget {
        let budget = Budget::new(&Limits::default().upstream);
        while budget.withdraw() {}
        budget
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_requests_may_be_retried() {
        let budget = empty();
        (0..100).for_each(|_| budget.deposit());
        let retries = (0..100).filter(|_| budget.withdraw()).count();
        assert!((19..=20).contains(&retries), "{retries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_backend_has_a_few_each_second_and_saves_no_more_than_it_may() {
        let budget = empty();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 10);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 100);
    }
}
