//! A spec that has changed while everything runs.
//!
//! Pools that are still in it become what it says; their workers follow one by one, because they have another hash.
//! Pools that are new get places, and workers as soon as a door is there that has the pool. Pools that are not in it any
//! more are scaled to nothing and forgotten when nobody is left in them.
//!
//! A number of workers that somebody has asked for by command outlives a change to something else; a number that has been
//! changed in the file wins over it.

use std::sync::Arc;

use super::{PoolState, State};
use crate::model::now::Now;
use crate::spec::{Pool, effective};

impl State {
    /// These are the pools from now on, in this order.
    pub(super) fn apply(&mut self, pools: &[Arc<Pool>], now: Now) {
        if self.stopping.is_some() {
            return;
        }
        let mut old = std::mem::take(&mut self.pools);
        for written in pools {
            let found = old.iter().position(|pool| pool.name() == written.name()).map(|at| old.remove(at));
            let pool = match found {
                Some(mut pool) => {
                    let spec = effective(&pool.spec, written);
                    if pool.retired || spec.workers != pool.spec.workers {
                        pool.wanted = spec.workers;
                    }
                    pool.retired = false;
                    pool.spec_hash = spec.spec_hash();
                    pool.spec = Arc::new(spec);
                    pool
                }
                None => PoolState::new(Arc::clone(written), written.spec_hash(), now.at),
            };
            self.pools.push(pool);
        }
        for mut pool in old {
            pool.wanted = 0;
            pool.retired = true;
            self.pools.push(pool);
        }
    }

    /// Forgets pools that are not in the spec any more, and in which nobody is left.
    pub(super) fn forget_retired_pools(&mut self) {
        self.pools.retain(|pool| !(pool.retired && pool.places.is_empty()));
    }
}
