//! What the backend is told when it is to start a worker.

use std::num::NonZeroU32;
use std::sync::Arc;

use server::identity::{Incarnation, PoolName, Secret};

use crate::backend::SpawnOrder;
use crate::spec::{Pool, Recycle};

/// Makes orders.
pub(super) struct OrderBook {
    secret: Secret,
    pools: Vec<(Arc<Pool>, String)>,
}

impl OrderBook {
    pub(super) fn new(secret: Secret, pools: Vec<(Arc<Pool>, String)>) -> Self {
        Self { secret, pools }
    }

    /// The order for this life; `None` when its pool is not in the spec.
    pub(super) fn spawn(&self, life: &Incarnation) -> Option<SpawnOrder> {
        let (pool, spec_hash) = self.pool(&life.worker.pool)?;
        Some(SpawnOrder {
            life: life.clone(),
            token: self.secret.token(life),
            pool: Arc::clone(pool),
            retire_after: retire_after(&pool.recycle, rand::random()),
            spec_hash: spec_hash.clone(),
            tunnel: None,
        })
    }

    fn pool(&self, name: &PoolName) -> Option<&(Arc<Pool>, String)> {
        self.pools.iter().find(|(pool, _)| pool.name() == name)
    }
}

/// After how many requests a worker retires, `luck` (0.0 to 1.0) having moved it by up to the jitter either way.
fn retire_after(recycle: &Recycle, luck: f64) -> Option<NonZeroU32> {
    let requests = recycle.requests?;
    let factor = 1.0 + recycle.jitter * (2.0 * luck - 1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, which is meant"
    )]
    let moved = (f64::from(requests.get()) * factor).round() as u32;
    Some(NonZeroU32::new(moved).unwrap_or(NonZeroU32::MIN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn jitter_stays_in_its_share(requests in 1_u32..1_000_000, jitter in 0.0..=1.0, luck in 0.0..=1.0) {
            let recycle = Recycle { requests: NonZeroU32::new(requests), jitter };
            let after = f64::from(retire_after(&recycle, luck).map_or(0, NonZeroU32::get));
            let most = f64::from(requests) * jitter;
            prop_assert!(after >= 1.0);
            prop_assert!((after - f64::from(requests)).abs() <= most.max(1.0) + 0.5);
        }
    }
}
