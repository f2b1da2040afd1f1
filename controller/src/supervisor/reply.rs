//! Answers to what the API asks: the loop's side of [`Handle`].

use std::sync::Arc;

use server::config::Protocol;
use server::control::{Order, Stamp};
use server::identity::{Incarnation, PoolName, WorkerId};
use server::observation::LONGEST_TRICKLE;
use tokio::sync::oneshot;

use super::handle::{CommandError, Errand, Handle, Request, StopSummary};
use super::tell::News;
use super::{Supervisor, frame, measure, now, views, with_connections};
use crate::backend::Unit;
use crate::model::{Command, DoorState, Event, Phase, PoolState, Pulse, State};

impl Supervisor {
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Workers(report, reply) => {
                self.note(report);
                tell(reply, views::workers(&self.state, self.backend));
            }
            Request::Pools(report, reply) => {
                self.note(report);
                tell(reply, views::pools(&self.state, self.backend));
            }
            Request::Incidents(reply) => tell(reply, views::incidents(&self.state, self.backend)),
            Request::Incident(life, reply) => {
                let incident = self.state.incidents.get(&life);
                tell(reply, incident.map(|it| views::incident(&self.state, self.backend, it)));
            }
            Request::Frame(mut report, reply) => {
                let turns = frame::take_turns(report.as_mut());
                self.note(report);
                self.lately.note(self.state.report.as_ref(), now().at);
                let about =
                    frame::About { backend: self.backend, started: self.started, at: Stamp::now(), turns };
                tell(reply, frame::frame(&self.state, &self.teller, &self.lately, about));
            }
            Request::Metrics(report, reply) => {
                self.note(report);
                let mut measured = measure::measure(&self.state, self.backend, &self.teller, self.started);
                measured.events = self.chronicle.count();
                tell(reply, measured);
            }
            Request::Trickles(report, reply) => {
                self.note(report);
                tell(reply, frame::trickles(&self.state));
            }
            Request::Errand(errand, reply) => tell(reply, self.pass_on(errand)),
            Request::IsReady(reply) => tell(reply, is_ready(&self.state)),
            Request::Locate(worker, reply) => tell(reply, locate(&self.state, &worker)),
            Request::Command(command, reply) => {
                let admitted = admit(&self.state, &command);
                if admitted.is_ok() {
                    if let Command::Scale { pool, workers } = &command
                        && let Some(state) = self.state.pool(pool)
                    {
                        self.scales.note(pool, state.spec.workers, *workers);
                    }
                    if let Command::Apply(pools) = &command {
                        self.scales.heed(pools);
                    }
                    let applied = matches!(command, Command::Apply(_));
                    self.take(Event::Command(command));
                    if applied {
                        let pools = self.state.pools.iter();
                        let orders = pools.map(|pool| (Arc::clone(&pool.spec), pool.spec_hash.clone()));
                        self.hands.orders.replace(orders.collect());
                        let pools = self.state.pools.iter().map(|pool| &*pool.spec);
                        self.hands.door.connections_are_turns_in(with_connections(pools));
                    }
                }
                tell(reply, admitted);
            }
            // The loop's own.
            Request::Leave => {}
            Request::Stop(scope, within, reply) => {
                self.when_stopped.push(reply);
                self.hands.backend.spawn_no_more();
                self.take(Event::Command(Command::Stop { scope, within }));
            }
        }
    }

    /// Tells everybody who waits for it how stopping went.
    pub(super) fn farewell(self) {
        let tenants = self.state.tenants().map(|tenant| tenant.life.clone());
        let left_behind: Vec<Incarnation> = tenants.chain(self.state.remains.keys().cloned()).collect();
        let (clean, killed) =
            self.state.stopping.map_or((0, 0), |stopping| (stopping.clean, stopping.killed));
        let told = self.state.stopping.is_some_and(|stopping| stopping.door_told);
        let door_remains = !told || matches!(self.state.door, DoorState::Up { .. });
        let verified = self.state.is_deserted();
        self.scales.forget();
        for reply in self.when_stopped {
            let left_behind = left_behind.clone();
            tell(reply, StopSummary { clean, killed, left_behind, verified, door_remains });
        }
    }

    /// Passes something on to the door, if it makes sense at this moment.
    fn pass_on(&mut self, errand: Errand) -> Result<(), CommandError> {
        let (Errand::Request { pool, .. } | Errand::Trickle { pool, .. } | Errand::EndTrickle { pool }) =
            &errand;
        let found = known_pool(&self.state, pool)?;
        if found.spec.door.protocol != Protocol::Http {
            return Err(CommandError::NotHttp(pool.clone()));
        }
        if !matches!(self.state.door, DoorState::Up { open: true, .. }) {
            return Err(CommandError::DoorAway);
        }
        if let Errand::Trickle { pool, path, per_second } = &errand {
            let News { at, happened } = self.teller.trickle_began(pool, path, *per_second, Stamp::now());
            self.chronicle.tell(at, happened);
        }
        self.hands.door.order(match errand {
            Errand::Request { pool, method, path } => Order::Request { pool, method, path },
            Errand::Trickle { pool, path, per_second } => {
                Order::Trickle { pool, path, per_second, lasting: LONGEST_TRICKLE }
            }
            Errand::EndTrickle { pool } => Order::EndTrickle { pool },
        });
        Ok(())
    }

    fn note(&mut self, report: Option<server::control::Report>) {
        if let Some(report) = report {
            self.take(Event::Command(Command::Note(report)));
        }
    }
}

/// Whoever asked may have gone; then nobody wants the answer.
fn tell<T>(reply: oneshot::Sender<T>, answer: T) {
    let _ = reply.send(answer);
}

fn is_ready(state: &State) -> bool {
    let open = matches!(state.door, DoorState::Up { open: true, pulse: Pulse::Beats, .. });
    // A pool that the door does not have yet is not served, however long it is waited for.
    let served = |pool: &&PoolState| pool.wanted > 0 && state.door_has(pool.name());
    open && state.pools.iter().filter(served).all(|pool| pool.live() > 0)
}

fn locate(state: &State, worker: &WorkerId) -> Result<(Incarnation, Unit), CommandError> {
    let place = state.place(worker).ok_or_else(|| CommandError::UnknownWorker(worker.clone()))?;
    let not_running = || CommandError::NotRunning(worker.clone());
    let tenant = place.phase.tenant().ok_or_else(not_running)?;
    let unit = tenant.compartment.unit().ok_or_else(not_running)?;
    Ok((tenant.life.clone(), unit.clone()))
}

/// Whether a command makes sense at this moment.
fn admit(state: &State, command: &Command) -> Result<(), CommandError> {
    match command {
        Command::Note(_) | Command::Stop { .. } | Command::CutOff => Ok(()),
        Command::Kill { signal, .. } if !(1..=64).contains(signal) => {
            Err(CommandError::UnknownSignal(*signal))
        }
        Command::Kill { worker, .. } => locate(state, worker).map(|_| ()),
        Command::Drain { .. } | Command::Scale { .. } | Command::Apply(_) if state.stopping.is_some() => {
            Err(CommandError::Stopping)
        }
        Command::Drain { worker } => match state.place(worker).map(|place| &place.phase) {
            None => Err(CommandError::UnknownWorker(worker.clone())),
            Some(Phase::Empty { .. }) => Err(CommandError::NotRunning(worker.clone())),
            Some(_) => Ok(()),
        },
        Command::Scale { workers, .. } if *workers > Handle::MOST_WORKERS => {
            Err(CommandError::TooManyWorkers { workers: *workers, most: Handle::MOST_WORKERS })
        }
        Command::Scale { pool, .. } => known_pool(state, pool).map(|_| ()),
        Command::Apply(_) => Ok(()),
    }
}

fn known_pool<'a>(state: &'a State, pool: &PoolName) -> Result<&'a PoolState, CommandError> {
    state.pool(pool).ok_or_else(|| {
        let known: Vec<&str> = state.pools.iter().map(|pool| pool.name().as_str()).collect();
        CommandError::UnknownPool { pool: pool.clone(), known: known.join(", ") }
    })
}
