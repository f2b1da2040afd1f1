//! What each key means. Pure: a key changes what is shown, or comes to an [`Intent`].
//!
//! Small letters look, capitals hurt: `k` goes up, `K` kills. Nothing asks back: to kill a worker is what one is here
//! for, and its pool is made for it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Model, Overlay, Pane, Shown};
use super::order::{Chosen, Deed, Order};

/// What `?` shows.
pub(super) const HELP: &str = "\
Looking
  tab, left, right   next pane, and back
  up, down, j, k     choose a row
  pgup, pgdn, g, G   a page, the first, the last
  enter              the chosen incident in full

To the chosen worker
  K                  kill it (SIGKILL)
  C                  crash it (SIGSEGV)
  P                  pause it (SIGSTOP), or resume it (SIGCONT):
                     what it holds overruns its time, then it is killed
  d                  drain it: it finishes what it holds and is replaced

To the chosen pool, or the chosen worker's
  + -                one worker more, one less
  r                  kill one of its workers, whichever

  ?                  this page
  q, Ctrl-C          leave; workers and door stay as they are

Words
  starting           spawned, its link is not up yet
  idle, busy         waits for a turn, holds one
  draining           finishes what it holds and takes no more
  paused             was sent SIGSTOP and not yet SIGCONT
  dead               gone; its place waits for the next worker
  ans/s              requests that workers answered, a second
  redeliv            requests that another worker was given because theirs had died
  lost               requests that died with their worker
  died               workers that did
  recovery           from a death until the replacement was ready: median/p99";

/// What the loop is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// Nothing but drawing anew.
    Look,
    /// Have it done.
    Give(Order),
    /// Clear the screen and draw anew.
    Redraw,
    /// Leave.
    Quit,
}

/// A key was pressed. `dice` is from 0 to 1.
pub(super) fn press(model: &mut Model, key: KeyEvent, dice: f64) -> Intent {
    if key.kind == KeyEventKind::Release {
        return Intent::Look;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Intent::Quit,
            KeyCode::Char('l') => Intent::Redraw,
            _ => Intent::Look,
        };
    }
    if key.modifiers.contains(KeyModifiers::ALT) {
        return Intent::Look;
    }
    match model.overlay {
        Overlay::None => on_lists(model, key.code, dice),
        Overlay::Help { .. } | Overlay::Card { .. } => {
            over_lists(model, key.code);
            Intent::Look
        }
    }
}

fn on_lists(model: &mut Model, key: KeyCode, dice: f64) -> Intent {
    let page = isize::try_from(model.drawn.page.max(1)).unwrap_or(1);
    match key {
        KeyCode::Char('q') => return Intent::Quit,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => model.overlay = Overlay::Help { scroll: 0 },
        KeyCode::Tab | KeyCode::Right => model.pane = next(model.pane),
        KeyCode::BackTab | KeyCode::Left => model.pane = next(next(model.pane)),
        KeyCode::Down | KeyCode::Char('j') => model.move_by(1),
        KeyCode::Up | KeyCode::Char('k') => model.move_by(-1),
        KeyCode::PageDown => model.move_by(page),
        KeyCode::PageUp => model.move_by(-page),
        KeyCode::Home | KeyCode::Char('g') => model.move_by(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => model.move_by(isize::MAX),
        KeyCode::Enter => match (model.pane, model.death()) {
            (Pane::Incidents, Some(death)) => {
                model.overlay = Overlay::Card { key: death.key.clone(), scroll: 0 };
            }
            (Pane::Incidents, None) => model.tell("no worker has died"),
            (Pane::Pools | Pane::Workers, _) => model.tell("enter shows an incident: choose one first (tab)"),
        },
        KeyCode::Char('K') => return to_worker(model, Deed::Kill),
        KeyCode::Char('C') => return to_worker(model, Deed::Crash),
        KeyCode::Char('d') => return to_worker(model, Deed::Drain),
        KeyCode::Char('P') => {
            let paused = model.worker().is_some_and(|worker| model.shown(worker) == Shown::Paused);
            return to_worker(model, if paused { Deed::Resume } else { Deed::Pause });
        }
        KeyCode::Char('+' | '=') => return scale(model, 1),
        KeyCode::Char('-' | '_') => return scale(model, -1),
        KeyCode::Char('r') => {
            let pool = model.pool().map(|pool| pool.pool.name.clone());
            match model.anybody(pool.as_deref(), dice) {
                Some(order) => return Intent::Give(order),
                None => model.tell("no worker serves at the moment"),
            }
        }
        _ => {}
    }
    Intent::Look
}

/// Scrolls what lies over the lists, or takes it away.
fn over_lists(model: &mut Model, key: KeyCode) {
    let (page, deepest) = (model.drawn.page.max(1), model.drawn.deepest);
    let (Overlay::Help { scroll } | Overlay::Card { scroll, .. }) = &mut model.overlay else { return };
    *scroll = match key {
        KeyCode::Down | KeyCode::Char('j') => *scroll + 1,
        KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
        KeyCode::PageDown | KeyCode::Char(' ') => *scroll + page,
        KeyCode::PageUp => scroll.saturating_sub(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => deepest,
        KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q' | '?' | 'h') | KeyCode::F(1) => {
            model.overlay = Overlay::None;
            return;
        }
        _ => *scroll,
    }
    .min(deepest);
}

fn next(pane: Pane) -> Pane {
    match pane {
        Pane::Pools => Pane::Workers,
        Pane::Workers => Pane::Incidents,
        Pane::Incidents => Pane::Pools,
    }
}

fn to_worker(model: &mut Model, deed: Deed) -> Intent {
    match (model.pane, model.worker()) {
        (Pane::Workers, Some(worker)) => Intent::Give(Order::Worker {
            deed,
            worker: worker.id.clone(),
            generation: worker.generation,
            chosen: Chosen::ByHand,
        }),
        (Pane::Workers, None) => {
            model.tell("there is no worker");
            Intent::Look
        }
        // What one does not look at one does not hurt.
        (Pane::Pools | Pane::Incidents, _) => {
            model.tell("that is for a worker: choose one first (tab)");
            Intent::Look
        }
    }
}

fn scale(model: &mut Model, by: i32) -> Intent {
    let Some(pool) = model.pool() else {
        model.tell("there is no pool");
        return Intent::Look;
    };
    let order =
        Order::Scale { pool: pool.pool.name.clone(), workers: pool.pool.wanted.saturating_add_signed(by) };
    Intent::Give(order)
}
