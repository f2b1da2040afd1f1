//! The words that supervisor, backends and API share, and the state that the supervisor keeps.
//!
//! Everything here is pure. [`State::fold`] takes an [`Event`] and the [`Now`] at which it is folded, and reads
//! neither clock nor dice nor file; what follows from the state is decided in [`crate::supervisor`]'s `plan`,
//! and done in its `act`.

mod action;
mod death;
mod event;
mod in_full;
mod incident;
mod now;
mod place;
mod remains;
mod state;

pub use action::{Action, DrainOrder};
pub use death::{Autopsy, Cause, signal_name};
pub use event::{ActionError, Command, Company, DoorEvent, Event, StopScope, Welcome};
pub use in_full::in_full;
pub use incident::{Asked, Died, Incident, Incidents, Notes, Reason, Settled};
pub use now::Now;
pub use place::{Came, Compartment, Errand, Fate, KillReason, Launch, Phase, Place, Purpose, Tenant, Told};
pub use remains::{Burial, Remains, Stage};
pub use state::{Briefing, DoorState, Engine, Haste, PoolState, Pulse, State, Stopping, Stranger};
