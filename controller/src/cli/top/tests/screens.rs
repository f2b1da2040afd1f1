//! The screen itself, in several sizes.

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::cli::stream::Breakage;
use crate::cli::top::draw::draw;
use crate::cli::top::look::{Colours, Letters, Look};
use crate::cli::top::order::Order;

const PLAIN: Look = Look { colours: Colours::Eight, letters: Letters::Unicode };

/// What stands on a screen of that size, without the space at the ends of lines.
fn screen(model: &mut Model, now: Now, look: Look, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| model.drawn = draw(model, look, now, frame.buffer_mut())).unwrap();
    let cells = terminal.backend().buffer().content().chunks(width.into());
    let line =
        |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    cells.map(|row| line(row).trim_end().to_owned() + "\n").collect()
}

#[test]
fn on_an_ordinary_terminal() {
    let mut model = watching();
    model.fold(event("k3f9x2-2", worker("web-3", 7, "ready", "")), at(1_150));
    model.fold(event("k3f9x2-3", worker("web-0", 1, "kill_requested", "SIGTERM")), at(1_160));
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (80, 24)), @r"
    bulkhead top  ● live  http://127.0.0.1:9090  process  door up (pid 123)
    ─ Pools ────────────────────────────────────────────────────────────────────────
      POOL  READY  BUSY  QUEUE  ANS/S  REDELIV  LOST  DIED    RECOVERY  STATE
      web     2/4     1      2    250        3     1     3  5.2/231 ms  ◌ recovering
      echo    1/4     1      2    0.0        3     1     3  5.2/231 ms  ▲ degraded
    ▸ Workers 5: 1 idle, 1 busy, 1 starting, 1 draining, 1 dead ────────────────────
      WORKER  PHASE       GEN  WHERE      UP  TURNS  HOLDING
    ▸ web-0   ● busy        1  pid 4711  3 h   1200  GET /work?ms=300 for 112 ms
      web-1   ◌ starting    2  pid 4711  3 h   1200
      web-2   ✕ dead        3  pid 4711  3 h   1200
      web-3   ▽ draining    7  pid 4711  3 h   1200  GET /\u{1b}]0;owned\u{7} for 6…
      echo-0  ○ idle        1  pid 4711  3 h   1200
    ─ Incidents 1 of 17 ────────────────────────────────────────────────────────────
      INCIDENT    AGO  CAUSE    REPLACED IN  WHAT IT HELD
      web-3.6   4 min  SIGKILL       231 ms  GET /work?ms=20: to web-1, +3.2 ms
    ─ Events ───────────────────────────────────────────────────────────────────────
      03:04:05.678  web-0.1   kill requested  SIGTERM
      03:04:05.678  web-3.7   ready





    ? help  q quit  tab pane  K kill  C crash  P pause  d drain  +/- scale
    ");
}

#[test]
fn on_a_large_one_with_an_order_given() {
    let mut model = watching();
    let Intent::Give(order) = type_in(&mut model, "jjK") else { panic!("no order") };
    model.asked(&order);
    model.answered(&order, Ok(()));
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (120, 40)), @r"
    bulkhead top  ● live  http://127.0.0.1:9090  process  door up (pid 123)
    ─ Pools ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
      POOL  READY  BUSY  QUEUE  ANS/S  REDELIV  LOST  DIED    RECOVERY  STATE
      web     2/4     1      2    250        3     1     3  5.2/231 ms  ◌ recovering
      echo    1/4     1      2    0.0        3     1     3  5.2/231 ms  ▲ degraded
    ▸ Workers 5: 1 idle, 1 busy, 1 starting, 1 draining, 1 dead ────────────────────────────────────────────────────────────
      WORKER  PHASE       GEN  WHERE      UP  TURNS  HOLDING
      web-0   ● busy        1  pid 4711  3 h   1200  GET /work?ms=300 for 112 ms
      web-1   ◌ starting    2  pid 4711  3 h   1200
    ▸ web-2   ✕ dead        3  pid 4711  3 h   1200
      web-3   ▽ draining    7  pid 4711  3 h   1200  GET /\u{1b}]0;owned\u{7} for 61 s and 1 more
      echo-0  ○ idle        1  pid 4711  3 h   1200
    ─ Incidents 1 of 17 ────────────────────────────────────────────────────────────────────────────────────────────────────
      INCIDENT    AGO  CAUSE    REPLACED IN  WHAT IT HELD
      web-3.6   4 min  SIGKILL       231 ms  GET /work?ms=20: to web-1, +3.2 ms
    ─ Events ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
      none yet





















    sent SIGKILL to web-2  $ bulkhead kill web-2
    ? help  q quit  tab pane  K kill  C crash  P pause  d drain  +/- scale  r kill any  enter incident  j/k choose
    ");
}

#[test]
fn on_a_small_one() {
    let mut model = watching();
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (40, 12)), @r"
    bulkhead top  ● live  http://127.0.0.1:9
    ▸ Workers 5: 1 idle, 1 busy, 1 starting…
      WORKER  PHASE       HOLDING
    ▸ web-0   ● busy      GET /work?ms=300 …
      web-1   ◌ starting
      web-2   ✕ dead
      web-3   ▽ draining  GET /\u{1b}]0;own…
      echo-0  ○ idle



    ? help  q quit  tab pane  K kill
    ");
    type_in(&mut model, "\t");
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (40, 12)), @r"
    bulkhead top  ● live  http://127.0.0.1:9
    ▸ Incidents 1 of 17 ────────────────────
      INCIDENT    AGO  CAUSE    WHAT IT HELD
    ▸ web-3.6   4 min  SIGKILL  GET /work?m…







    ? help  q quit  tab pane  K kill
    ");
    type_in(&mut model, "\t");
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (40, 12)), @r"
    bulkhead top  ● live  http://127.0.0.1:9
    ▸ Pools ────────────────────────────────
      POOL  READY  BUSY  ANS/S  STATE
    ▸ web     2/4     1    250  ◌ recovering
      echo    1/4     1    0.0  ▲ degraded






    ? help  q quit  tab pane  K kill
    ");
}

#[test]
fn an_incident_in_full() {
    let mut model = watching();
    type_in(&mut model, "\t\n");
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (80, 24)), @r"
    bulkhead top  ● live  http://127.0.0.1:9090  process  door up (pid 123)
    ─ Po┌ Incident, lines 1 to 19 of 20 ───────────────────────────────────────┐────
      PO│ web-3.6: worker web-3 of pool web died                               │
      we│                                                                      │ring
      ec│ When      2026-01-02T03:00:00Z (4 min ago)                           │ed
    ─ Wo│ Cause     killed by a signal (SIGKILL)                               │────
      WO│ Where     pid 4711                                                   │
      we│ Siblings  3 other workers of the pool lived on, 0 requests failed    │
      we│ Again     kill -9 4711                                               │
      we│                                                                      │
      we│ What it held                                                         │r 6…
      ec│   GET /work?ms=20                                                    │
    ▸ In│     redelivered to web-1; the client waited longer by 3.2 ms         │────
      IN│                                                                      │
    ▸ we│ How long it took                                                     │
    ─ Ev│   detected       0.4 ms  after the death                             │────
      no│   redelivered    1.1 ms  after it was detected                       │
        │   spawned        2.0 ms  after it was detected                       │
        │   ready          231 ms  after it was detected                       │
        │                                                                      │
        │ The last that it wrote                                               │
        └──────────────────────────────────────────────────────────────────────┘

    esc back  j/k scroll  Ctrl-C quit
    ");
    // On a small screen it is scrolled, to its last line and no further.
    screen(&mut model, at(1_200), PLAIN, (40, 12));
    type_in(&mut model, "G");
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (40, 12)), @r"
    bulkhead top  ● live  http://127.0.0.1:9
    ┌ Incident, lines 23 to 29 of 29 ──────┐
    │   spawned        2.0 ms  after it    │
    │ was detected                         │
    │   ready          231 ms  after it    │
    │ was detected                         │
    │                                      │
    │ The last that it wrote               │
    │   | listening                        │
    └──────────────────────────────────────┘

    esc back  j/k scroll  Ctrl-C quit
    ");
}

#[test]
fn the_help_fits_an_ordinary_terminal_with_a_page_down() {
    let mut model = watching();
    type_in(&mut model, "?");
    insta::assert_snapshot!(screen(&mut model, at(1_200), PLAIN, (80, 24)), @r"
    bulkhead top  ● live  http://127.0.0.1:9090  process  door up (pid 123)
    ─ Po┌ Keys and words, lines 1 to 19 of 35 ─────────────────────────────────┐────
      PO│ Looking                                                              │
      we│   tab, left, right   next pane, and back                             │ring
      ec│   up, down, j, k     choose a row                                    │ed
    ▸ Wo│   pgup, pgdn, g, G   a page, the first, the last                     │────
      WO│   enter              the chosen incident in full                     │
    ▸ we│                                                                      │
      we│ To the chosen worker                                                 │
      we│   K                  kill it (SIGKILL)                               │
      we│   C                  crash it (SIGSEGV)                              │r 6…
      ec│   P                  pause it (SIGSTOP), or resume it (SIGCONT):     │
    ─ In│                      what it holds overruns its time, then it is     │────
      IN│ killed                                                               │
      we│   d                  drain it: it finishes what it holds and is      │
    ─ Ev│ replaced                                                             │────
      no│                                                                      │
        │ To the chosen pool, or the chosen worker's                           │
        │   + -                one worker more, one less                       │
        │   r                  kill one of its workers, whichever              │
        │                                                                      │
        └──────────────────────────────────────────────────────────────────────┘

    esc back  j/k scroll  Ctrl-C quit
    ");
}

#[test]
fn without_a_controller_what_was_known_last_is_shown() {
    let mut model = watching();
    let breakage = Breakage {
        why: "no controller answers at http://127.0.0.1:9090 (Connection refused (os error 111))".to_owned(),
        again_in: Some(Duration::from_secs(2)),
    };
    model.fold(Told::Broken(breakage), at(1_300));
    let order = Order::Scale { pool: "web".into(), workers: 5 };
    model.answered(&order, Err("no controller answers at http://127.0.0.1:9090".into()));
    insta::assert_snapshot!(screen(&mut model, at(1_400), PLAIN, (80, 24)), @r"
    bulkhead top  ▲ reconnecting in 2 s: no controller answers at http://127.0.0.1:9
    ─ Pools (as last known) ────────────────────────────────────────────────────────
      POOL  READY  BUSY  QUEUE  ANS/S  REDELIV  LOST  DIED    RECOVERY  STATE
      web     2/4     1      2    250        3     1     3  5.2/231 ms  ◌ recovering
      echo    1/4     1      2    0.0        3     1     3  5.2/231 ms  ▲ degraded
    ▸ Workers 5: 1 idle, 1 busy, 1 starting, 1 draining, 1 dead (as last known) ────
      WORKER  PHASE       GEN  WHERE      UP  TURNS  HOLDING
    ▸ web-0   ● busy        1  pid 4711  3 h   1200  GET /work?ms=300 for 12 ms
      web-1   ◌ starting    2  pid 4711  3 h   1200
      web-2   ✕ dead        3  pid 4711  3 h   1200
      web-3   ▽ draining    7  pid 4711  3 h   1200  GET /\u{1b}]0;owned\u{7} for 6…
      echo-0  ○ idle        1  pid 4711  3 h   1200
    ─ Incidents 1 of 17 ────────────────────────────────────────────────────────────
      INCIDENT    AGO  CAUSE    REPLACED IN  WHAT IT HELD
      web-3.6   4 min  SIGKILL       231 ms  GET /work?ms=20: to web-1, +3.2 ms
    ─ Events ───────────────────────────────────────────────────────────────────────
      none yet





    not done: no controller answers at http://127.0.0.1:9090  $ bulkhead scale web 5
    ? help  q quit  tab pane  K kill  C crash  P pause  d drain  +/- scale
    ");
}

#[test]
fn before_the_first_state_there_is_nothing_to_show() {
    let mut model = Model::new("http://127.0.0.1:9090".to_owned(), at(0));
    let ascii = Look { letters: Letters::Ascii, ..PLAIN };
    insta::assert_snapshot!(screen(&mut model, at(0), ascii, (80, 16)), @r"
    bulkhead top  + connected, no state yet  http://127.0.0.1:9090
    - Pools ------------------------------------------------------------------------
      nothing is known yet

    > Workers ----------------------------------------------------------------------
      nothing is known yet

    - Incidents --------------------------------------------------------------------
      no worker has died

    - Events -----------------------------------------------------------------------
      none yet



    ? help  q quit  tab pane  K kill  C crash  P pause  d drain  +/- scale
    ");
}

#[test]
fn every_phase_has_a_sign_and_a_word_in_plain_ascii_too() {
    let mut model = watching();
    let Intent::Give(pause) = type_in(&mut model, "GP") else { panic!("no order") };
    model.answered(&pause, Ok(()));
    let ascii = Look { colours: Colours::None, letters: Letters::Ascii };
    let screen = screen(&mut model, at(1_200), ascii, (80, 24));
    for told in ["* busy", "+ starting", "x dead", "v draining", "= paused", "! degraded"] {
        assert!(screen.contains(told), "{told:?} is not on\n{screen}");
    }
    assert!(screen.is_ascii(), "{screen}");
}

#[test]
fn without_colours_there_is_none() {
    let mut model = watching();
    let look = Look { colours: Colours::None, ..PLAIN };
    for keys in ["j", "\t", "\t", "?"] {
        type_in(&mut model, keys);
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| model.drawn = draw(&model, look, at(1_200), frame.buffer_mut())).unwrap();
        for cell in terminal.backend().buffer().content() {
            assert_eq!((cell.fg, cell.bg), (ratatui::style::Color::Reset, ratatui::style::Color::Reset));
        }
    }
}

#[test]
fn the_chosen_worker_is_on_the_screen_wherever_it_is() {
    let mut model = watching();
    let mut many = state(at(1_200), 1_300);
    let one = many["workers"][0].clone();
    let workers = (0..200).map(|nth| {
        let mut worker = one.clone();
        worker["id"] = format!("web-{nth}").into();
        worker
    });
    many["workers"] = workers.collect();
    model.fold(Told::State(many.to_string()), at(1_200));
    for (keys, chosen) in [("g", "web-0"), ("jjjjjjjjjj", "web-10"), ("G", "web-199"), ("kk", "web-197")] {
        type_in(&mut model, keys);
        let screen = screen(&mut model, at(1_200), PLAIN, (80, 24));
        assert!(screen.contains(&format!("\n▸ {chosen} ")), "{chosen} is not chosen on\n{screen}");
    }
}

#[test]
fn no_stranger_gives_orders_to_the_terminal() {
    let screen = screen(&mut watching(), at(1_200), PLAIN, (120, 40));
    assert!(screen.chars().all(|c| c == '\n' || !c.is_control()), "{screen:?}");
}

proptest! {
    #[test]
    fn any_size_can_be_drawn_on(
        width in 1_u16..150,
        height in 1_u16..60,
        keys in "[jkgG\t\n?+\u{1b}KPr]{0,12}",
        ascii: bool,
    ) {
        let mut model = watching();
        let look = Look { letters: if ascii { Letters::Ascii } else { Letters::Unicode }, ..PLAIN };
        screen(&mut model, at(1_200), look, (width, height));
        for key in keys.chars() {
            if let Intent::Give(order) = press(&mut model, key_of(key), 0.3) {
                model.asked(&order);
            }
            screen(&mut model, at(1_200), look, (width, height));
        }
    }
}
