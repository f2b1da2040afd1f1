//! The state as the API shows it.

use std::net::SocketAddr;
use std::time::Duration;

use server::control::{Held, Outcome, PoolReport};
use server::identity::PoolName;

use super::plan::reported;
use super::restart::Health;
use super::retell::{self, Failures};
use crate::api::views::{
    CauseKind, CauseView, HeldView, HoldingView, IncidentView, PhaseView, PoolView, StepsView, WorkerView,
    rfc3339,
};
use crate::backend::{BackendKind, Unit};
use crate::model::{
    Cause, DoorState, Incident, KillReason, Phase, Place, PoolState, Reason, State, Tenant, signal_name,
};

/// Every place of every pool.
pub(super) fn workers(state: &State, backend: BackendKind) -> Vec<WorkerView> {
    let places = state.pools.iter().flat_map(|pool| pool.places.iter().map(move |place| (pool, place)));
    places.map(|(pool, (number, place))| worker(state, backend, pool, *number, place)).collect()
}

/// Every pool, in the spec's order.
pub(super) fn pools(state: &State, backend: BackendKind) -> Vec<PoolView> {
    state.pools.iter().map(|pool| pool_view(state, backend, pool)).collect()
}

/// The deaths, newest first.
pub(super) fn incidents(state: &State, backend: BackendKind) -> Vec<IncidentView> {
    let failures = Failures::of(state);
    state.incidents.iter().map(|it| incident_among(state, backend, it, &failures)).collect()
}

/// A death.
pub(super) fn incident(state: &State, backend: BackendKind, incident: &Incident) -> IncidentView {
    // What it cost the others is asked for when it is over.
    let failures = if incident.ready.is_some() { Failures::of(state) } else { Failures::default() };
    incident_among(state, backend, incident, &failures)
}

fn incident_among(
    state: &State,
    backend: BackendKind,
    incident: &Incident,
    failures: &Failures<'_>,
) -> IncidentView {
    let held = incident.left.as_ref().map_or(&[][..], |left| &left.held);
    IncidentView {
        id: incident.life.to_string(),
        pool: incident.life.worker.pool.to_string(),
        worker: incident.life.worker.to_string(),
        at: incident.detected().map(rfc3339).unwrap_or_default(),
        cause: cause(&incident.cause()),
        held: held.iter().map(|held| held_view(incident, held)).collect(),
        steps_ms: StepsView {
            detected: incident.detection().map(millis),
            redelivered: incident.redelivery().map(millis),
            spawned: incident.respawn().map(millis),
            ready: incident.recovery().map(millis),
        },
        siblings: incident.siblings(),
        last_output: incident.died.as_ref().map_or(Vec::new(), |died| died.autopsy.last_output.clone()),
        memory: retell::memory(incident),
        siblings_failed: failures.of_siblings(incident),
        reproduce: retell::reproduce(incident, listens_at(state, &incident.life.worker.pool)),
        backend: backend_name(backend).to_owned(),
        unit: incident.unit.as_ref().map(unit_name),
        trouble: replacement(state, incident).and_then(Tenant::trouble).map(str::to_owned),
        complete: incident.is_complete(),
    }
}

/// Whose readiness is waited for.
fn replacement<'a>(state: &'a State, incident: &Incident) -> Option<&'a Tenant> {
    let mut tenants =
        state.pools.iter().flat_map(|pool| pool.places.values()).filter_map(|it| it.phase.tenant());
    tenants.find(|tenant| tenant.succeeds.as_ref() == Some(&incident.life))
}

fn worker(state: &State, backend: BackendKind, pool: &PoolState, number: u32, place: &Place) -> WorkerView {
    let id = pool.worker(number);
    let tenant = place.phase.tenant();
    let seen = tenant.and_then(|tenant| reported(state.report.as_ref()?, &tenant.life));
    let holding = seen.map_or(&[][..], |seen| &seen.holding);
    let unit = tenant.and_then(|tenant| tenant.compartment.unit());
    WorkerView {
        id: id.to_string(),
        pool: pool.name().to_string(),
        backend: backend_name(backend).to_owned(),
        phase: match &place.phase {
            Phase::Empty { .. } => PhaseView::Dead,
            Phase::Starting { .. } => PhaseView::Starting,
            Phase::Live { .. } if holding.is_empty() => PhaseView::Idle,
            Phase::Live { .. } => PhaseView::Busy,
            Phase::Draining { .. } | Phase::Dying { .. } => PhaseView::Draining,
        },
        generation: tenant.map_or_else(|| state.latest(&id), |tenant| tenant.life.generation),
        pid: match unit {
            Some(Unit::Process { pid, .. }) => Some(*pid),
            Some(Unit::Container { pid, .. }) => *pid,
            Some(Unit::Pod { .. }) | None => None,
        },
        container: match unit {
            Some(Unit::Container { name, .. }) => Some(name.clone()),
            Some(Unit::Process { .. } | Unit::Pod { .. }) | None => None,
        },
        pod: match unit {
            Some(Unit::Pod { name, .. }) => Some(name.clone()),
            Some(Unit::Process { .. } | Unit::Container { .. }) | None => None,
        },
        node: match unit {
            Some(Unit::Pod { node, .. }) => node.clone(),
            Some(Unit::Process { .. } | Unit::Container { .. }) | None => None,
        },
        started_at: tenant.map(|tenant: &Tenant| rfc3339(tenant.born)),
        turns: seen.map_or(0, |seen| seen.turns),
        holding: holding.iter().map(holding_view).collect(),
        trouble: tenant.and_then(Tenant::trouble).map(str::to_owned),
    }
}

fn pool_view(state: &State, backend: BackendKind, pool: &PoolState) -> PoolView {
    let seen: Option<&PoolReport> =
        state.report.as_ref().and_then(|report| report.pools.iter().find(|seen| seen.name == *pool.name()));
    let busy = seen.map_or(0, |seen| seen.workers.iter().filter(|worker| !worker.holding.is_empty()).count());
    PoolView {
        name: pool.name().to_string(),
        listen: listens_at(state, pool.name()).unwrap_or(pool.spec.door.listen).to_string(),
        protocol: pool.spec.door.protocol.to_string(),
        turn: pool.spec.door.turn.to_string(),
        app: pool.spec.worker.app.to_string(),
        model: pool.spec.worker.model.to_string(),
        backend: backend_name(backend).to_owned(),
        wanted: pool.wanted,
        ready: u32::try_from(pool.live()).unwrap_or(u32::MAX),
        busy: u32::try_from(busy).unwrap_or(u32::MAX),
        degraded: *pool.intensity.health() != Health::Sound,
        trouble: pool.trouble().map(str::to_owned),
        queued: seen.map_or(0, |seen| seen.queued),
        connections: seen.map_or(0, |seen| seen.connections),
        counters: seen.map(|seen| seen.counters.clone()).unwrap_or_default(),
    }
}

/// Where a pool listens, port resolved; the spec's word for it when the door has never been there to say.
fn listens_at(state: &State, name: &PoolName) -> Option<SocketAddr> {
    let by_door = match &state.door {
        DoorState::Up { pools, .. } => pools.get(name).copied(),
        DoorState::NotMetYet | DoorState::Away => None,
    };
    let by_report =
        || state.report.as_ref()?.pools.iter().find(|seen| seen.name == *name).map(|seen| seen.listen);
    by_door.or_else(by_report).or_else(|| state.pool(name).map(|pool| pool.spec.door.listen))
}

/// A unit, by the name that people know it by.
pub(super) fn unit_name(unit: &Unit) -> String {
    match unit {
        Unit::Process { pid, .. } => format!("pid {pid}"),
        Unit::Container { name, .. } | Unit::Pod { name, node: None } => name.clone(),
        Unit::Pod { name, node: Some(node) } => format!("{name} on {node}"),
    }
}

fn cause(reason: &Reason) -> CauseView {
    let (kind, detail) = match reason {
        Reason::Killed(KillReason::RequestTimeout { request }) => {
            (CauseKind::RequestTimeout, request.clone())
        }
        Reason::Killed(KillReason::StartTimeout { allowed }) => {
            (CauseKind::StartTimeout, format!("not ready within {}", plainly(*allowed)))
        }
        Reason::Killed(KillReason::Protocol { detail }) => (CauseKind::Protocol, detail.clone()),
        Reason::Killed(KillReason::DrainTimeout) => {
            (CauseKind::Signal, "SIGKILL, still busy when its time to drain was over".to_owned())
        }
        Reason::Vanished(why) => (CauseKind::Lost, why.clone()),
        Reason::NotKnownYet => (CauseKind::NotKnownYet, "its link closed".to_owned()),
        Reason::Asked(signal) => (CauseKind::Signal, format!("{}, sent on request", signal_name(*signal))),
        Reason::Found(cause) => {
            let kind = match cause {
                Cause::Signal(_) => CauseKind::Signal,
                Cause::Exit(_) => CauseKind::Exit,
                Cause::Oom { .. } => CauseKind::Oom,
                Cause::Taken { .. } | Cause::Lost => CauseKind::Lost,
            };
            (kind, cause.to_string())
        }
    };
    CauseView { kind, detail }
}

fn held_view(incident: &Incident, held: &Held) -> HeldView {
    let mut view = HeldView {
        request: held.request.clone(),
        outcome: "pending".to_owned(),
        to: None,
        status: None,
        why: None,
        added_ms: None,
    };
    match incident.outcome(held.turn) {
        None => {}
        Some(Outcome::Redelivered { to, added }) => {
            "redelivered".clone_into(&mut view.outcome);
            view.to = Some(to.worker.to_string());
            view.added_ms = Some(millis(*added));
        }
        Some(Outcome::Answered { status, why }) => {
            "answered".clone_into(&mut view.outcome);
            view.status = Some(*status);
            view.why = Some(why.clone());
        }
        Some(Outcome::Finished) => {
            "answered".clone_into(&mut view.outcome);
            view.why = Some("the worker had answered in full before it died".to_owned());
        }
        Some(Outcome::Closed { why }) => {
            "closed".clone_into(&mut view.outcome);
            view.why = Some(why.clone());
        }
    }
    view
}

fn holding_view(held: &Held) -> HoldingView {
    HoldingView { request: held.request.clone(), for_ms: millis(held.held_for) }
}

pub(super) fn backend_name(backend: BackendKind) -> &'static str {
    match backend {
        BackendKind::Process => "process",
        BackendKind::Docker => "docker",
        BackendKind::Kubernetes => "kubernetes",
    }
}

/// To the microsecond, which is what stamps are kept to: more digits would only be the binary fraction's.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// `10s`, `1.5s`, `250ms`.
fn plainly(duration: Duration) -> String {
    if duration >= Duration::from_secs(1) {
        format!("{}s", duration.as_secs_f64())
    } else {
        format!("{}ms", duration.as_millis())
    }
}
