//! Does what has been planned.
//!
//! Nothing here blocks the loop: each order to the backend becomes a task that reports back with one event,
//! whatever happens: success, failure, or, after a while, that nobody answered. How many orders an engine gets
//! at a time is the backend's business: an order for a worker may wait its turn for long, with every one before it
//! within its own deadlines, so the patience for it is that of a last resort. An order that was given up may still be carried out; the next listing
//! shows it, and the state knows what to do with a worker that it did not expect.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use server::control::Order;
use server::identity::Incarnation;
use tokio::sync::mpsc;

use super::order::OrderBook;
use crate::backend::{Backend, BackendError, Unit};
use crate::door::Door;
use crate::model::{Action, ActionError, DrainOrder, Event};

/// How long an order for a worker may take, its turn behind hundreds of others included. What the engine may take for
/// each step is the backend's to bound.
const SPAWN_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long it may take for anything else.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whom to ask for what.
pub(super) struct Hands {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) door: Door,
    pub(super) orders: OrderBook,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// What the door is told about a worker that is to be killed at once. A pod's API knows no such thing: it would ask the
/// worker to finish first. Sent before the backend's signal, which is for a worker that does not hear the door.
pub(super) fn kill_by_the_door(life: &Incarnation, unit: &Unit) -> Option<Order> {
    match unit {
        Unit::Pod { .. } => Some(Order::Kill { worker: life.clone() }),
        Unit::Process { .. } | Unit::Container { .. } => None,
    }
}

impl Hands {
    /// Begins to do it, and returns at once.
    pub(super) fn perform(&self, action: Action) {
        tracing::debug!(?action, "doing");
        match action {
            Action::List => self.list(),
            Action::Spawn { life } => self.spawn(life),
            Action::Drain { life, order: DrainOrder::ThroughDoor, .. } => {
                self.door.order(Order::Drain { worker: life });
            }
            Action::Drain { life, order: DrainOrder::Sigterm(unit), .. } => {
                self.signal(life, unit, Signal::TERM);
            }
            Action::Kill { life, unit, .. } | Action::Finish { life, unit } => {
                if let Some(order) = kill_by_the_door(&life, &unit) {
                    self.door.order(order);
                }
                self.signal(life, unit, Signal::KILL);
            }
            Action::KillByDoor { life, .. } => self.door.order(Order::Kill { worker: life }),
            Action::LinkLost { life, unit, end } => self.backend.link_lost(&life, &unit, end),
            Action::Bury { life } => self.door.order(Order::Bury { worker: life }),
            Action::Brief { lives } => self.door.order(Order::Over { lives }),
            Action::TurnOut { life } => {
                tracing::warn!(
                    %life,
                    "somebody is at a door as a worker that neither this controller nor the backend knows: turned out"
                );
                self.door.order(Order::Bury { worker: life });
            }
            Action::Remove { life, unit } => self.remove(life, unit),
            Action::StopDoor => self.door.order(Order::Stop),
        }
    }

    fn list(&self) {
        let backend = Arc::clone(&self.backend);
        let began = super::monotonic();
        self.report(async move {
            let result = within(PATIENCE, "list", backend.list()).await;
            Event::Listed { began, result }
        });
    }

    fn spawn(&self, life: Incarnation) {
        // A pool does not leave the book, and only pools in it are planned for.
        let Some(order) = self.orders.spawn(&life, &self.door) else { return };
        let order = match order {
            Ok(order) => order,
            Err(error) => {
                let (operation, subject) = ("start", life.to_string());
                let refused = BackendError::Refused { operation, subject, source: error.into() };
                return self.report(async move { Event::Spawned { life, result: Err(refused.into()) } });
            }
        };
        let backend = Arc::clone(&self.backend);
        self.report(async move {
            let result = within(SPAWN_PATIENCE, "start", backend.spawn(&order)).await;
            Event::Spawned { life, result }
        });
    }

    fn signal(&self, life: Incarnation, unit: Unit, signal: Signal) {
        let backend = Arc::clone(&self.backend);
        let signal = signal.as_raw();
        self.report(async move {
            let result = within(PATIENCE, "signal", backend.signal(&life, &unit, signal)).await;
            Event::Signalled { life, signal, result }
        });
    }

    fn remove(&self, life: Incarnation, unit: Unit) {
        let backend = Arc::clone(&self.backend);
        self.report(async move {
            let result = within(PATIENCE, "remove", backend.remove(&life, &unit)).await;
            Event::Removed { life, result }
        });
    }

    fn report(&self, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.events.clone();
        tokio::spawn(async move {
            // The loop may have ended meanwhile; then nobody wants to know.
            let _ = events.send(work.await);
        });
    }
}

async fn within<T>(
    allowed: Duration,
    operation: &'static str,
    work: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, ActionError> {
    match tokio::time::timeout(allowed, work).await {
        Ok(result) => Ok(result?),
        Err(_elapsed) => Err(ActionError::Silence { operation, allowed }),
    }
}
