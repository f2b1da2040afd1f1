//! `bulkhead top`: pools, workers and deaths as they are at this moment, with a key for every harm.
//!
//! ```text
//! the stream ──┐
//! the keyboard ├──► model (fold, pure) ──► draw (pure) ──► the terminal
//! answers ─────┘        └──► orders ──► the API
//! ```
//!
//! It decides nothing and keeps nothing: whoever leaves it, or kills it, leaves the deployment as it is. What a key
//! does to a worker is an order to the API like any other, and the foot of the screen says which command does the
//! same. When the controller is gone it says so, shows what it knew last, and connects again by itself.
//!
//! The terminal is given back as it was found: at the end, after an error, on SIGTERM and SIGHUP, and before the
//! message of a panic is printed. Only SIGKILL leaves it raw (`reset` mends that).

mod draw;
mod keys;
mod look;
mod model;
mod order;
mod table;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input};
use tokio::sync::mpsc;

use self::keys::Intent;
use self::look::Look;
use self::model::{Model, Now};
use self::order::Order;
use super::client::{Api, ApiArgs};
use super::interrupts::Interrupts;
use super::stream::{self, Extent, FROM_THE_BEGINNING, Told};

/// How often the screen is drawn at most, unless a key was pressed: times on it go on between two frames.
const TICK: Duration = Duration::from_millis(100);

/// How many orders may be under way.
const ORDERS: usize = 16;

/// Watch pools, workers and deaths live, and kill what you see
#[derive(Debug, Args)]
#[command(after_help = "\
Keys: K kills the chosen worker, C crashes it, P pauses it, d drains it; + and -
scale its pool, r kills any of it; tab changes the list, enter shows an incident;
? shows all keys, q leaves.

Colours are the terminal's own eight; NO_COLOR=1 takes them away. Signs are
plain ASCII unless the locale (LC_ALL, LC_CTYPE, LANG) is UTF-8.

Examples:
  bulkhead top
  bulkhead top --api http://127.0.0.1:9091")]
pub(super) struct TopArgs {
    #[command(flatten)]
    api: ApiArgs,
}

pub(super) async fn run(args: TopArgs) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "`top` needs a terminal to draw on and to read keys from\n  \
             for a file or a pipe there are `bulkhead ps` (who is there) and `bulkhead events -f` (what happens)"
        );
    }
    let api = args.api.connect()?;
    // Before the screen is taken: a controller that is not there is an error as for any other command.
    let told = stream::open(&api, FROM_THE_BEGINNING, Extent::Follow).await?;
    let mut interrupts = Interrupts::catch()?;
    let mut screen = Screen::take()?;
    let watching = watch(api, args.api.address(), told, &mut screen);
    interrupts.unless(watching).await.unwrap_or(Ok(()))
}

/// The loop: whatever comes is folded in, and what is shown is drawn.
async fn watch(
    api: Api,
    address: String,
    mut told: mpsc::Receiver<Told>,
    screen: &mut Screen,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let now = || Now { since_start: started.elapsed(), wall: jiff::Timestamp::now() };
    let look = Look::of_environment(|name| std::env::var(name).ok());
    let mut model = Model::new(address, now());
    let mut keyboard = keyboard();
    let (answer, mut answers) = mpsc::channel(ORDERS);
    let mut under_way = 0;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            input = keyboard.recv() => match input {
                None => bail!("the keyboard is gone"),
                Some(Input::Key(key)) => match keys::press(&mut model, key, rand::random()) {
                    Intent::Quit => return Ok(()),
                    Intent::Give(order) if under_way >= ORDERS => {
                        model.answered(&order, Err(format!("{ORDERS} orders have not been answered yet")));
                    }
                    Intent::Give(order) => {
                        under_way += 1;
                        model.asked(&order);
                        give(&api, order, &answer);
                    }
                    Intent::Redraw => screen.terminal.clear()?,
                    Intent::Look => {}
                },
                Some(_) => {}
            },
            Some((order, answer)) = answers.recv() => {
                under_way -= 1;
                model.answered(&order, answer);
            }
            Some(told) = told.recv() => {
                model.fold(told, now());
                // Drawn with the next tick: a journal of two thousand events is not two thousand screens.
                continue;
            }
            _ = tick.tick() => {}
        }
        screen.terminal.draw(|frame| model.drawn = draw::draw(&model, look, now(), frame.buffer_mut()))?;
    }
}

/// Has an order done, and tells what became of it.
fn give(api: &Api, order: Order, answer: &mpsc::Sender<(Order, Result<(), String>)>) {
    let (api, answer) = (api.clone(), answer.clone());
    tokio::spawn(async move {
        let done = order.give(&api).await.map_err(|error| error.in_short());
        // Nobody waits for it any more when the screen is gone.
        let _ = answer.send((order, done)).await;
    });
}

/// What is typed, and changes of the terminal's size. They are read by a thread of their own, which ends with the
/// process: reading a terminal cannot be called off.
fn keyboard() -> mpsc::Receiver<Input> {
    let (tell, typed) = mpsc::channel(64);
    std::thread::spawn(move || {
        while let Ok(input) = event::read() {
            if tell.blocking_send(input).is_err() {
                break;
            }
        }
    });
    typed
}

/// The terminal, taken. Dropping it gives the terminal back.
#[derive(Debug)]
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn take() -> anyhow::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                // Some of it may have been done.
                let _ = ratatui::try_restore();
                Err(error).context("cannot draw on this terminal")
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        // A terminal that is gone needs no restoring.
        let _ = ratatui::try_restore();
    }
}
