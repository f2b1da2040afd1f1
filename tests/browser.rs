//! The dashboard, as a person sees it: a real browser before a real deployment, with real kills.
//!
//! ```sh
//! cargo test -p controller --test browser
//! BULKHEAD_PICTURES=docs cargo test -p controller --test browser -- pictures      # makes those that the README shows
//! ```
//!
//! Without chromium and its driver the stories show as ignored, with the reason; on CI they are required.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a story that goes wrong ends there"
)]
#![allow(dead_code, unreachable_pub, reason = "the rig is shared: each program that includes it uses a part")]

mod rig;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::Arguments;
use rig::browser::{self, Look, Page};
use rig::stack::Tokens;
use rig::{Backend, Missing, Stack, eventually};
use serde_json::json;

/// A story that is told once: what is looked at is the page, and not where its workers run.
type Story = fn();

const ALL: &[(&str, Story)] = &[
    ("the_page_shows_who_is_there_and_what_they_hold", the_page_shows_who_is_there_and_what_they_hold),
    (
        "the_kill_button_kills_and_the_compartment_fills_again",
        the_kill_button_kills_and_the_compartment_fills_again,
    ),
    ("what_a_client_sends_stays_text", what_a_client_sends_stays_text),
    ("the_keyboard_is_enough", the_keyboard_is_enough),
    ("a_token_is_demanded_where_strangers_can_reach_it", a_token_is_demanded_where_strangers_can_reach_it),
    ("two_hundred_workers_are_drawn_within_the_frame", two_hundred_workers_are_drawn_within_the_frame),
    ("it_fits_a_phone", it_fits_a_phone),
    ("pictures_of_the_calm_and_the_wounded_ship", pictures_of_the_calm_and_the_wounded_ship),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A browser is heavy, and two of them disturb each other's frames.
    arguments.test_threads = Some(1);
    let optional = std::env::var("CI").as_deref() != Ok("true");
    let missing = browser::is_here().err().map(|why| Missing { why, excused: optional });
    let trials = ALL.iter().map(|&(name, story)| {
        let missing = missing.clone();
        rig::trial(name.to_owned(), move || missing, story)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn ship(workers: u32, more: &str) -> Stack {
    let stack = Stack::web(Backend::Process, workers, more);
    stack.ready("web", workers as usize);
    stack
}

fn page(stack: &Stack, look: Look) -> Page {
    let page = Page::open(&format!("http://{}/", stack.api().address()), look);
    page.until("the page is live", "return document.querySelector('[data-connection=live]') !== null");
    page
}

fn compartment(worker: &str) -> String {
    format!("[data-worker='{worker}']")
}

/// A script that says whether a compartment is in a phase.
fn is_in(worker: &str, phase: &str) -> String {
    let selector = format!("{}[data-phase='{phase}']", compartment(worker));
    format!("return document.querySelector({}) !== null", json!(selector))
}

/// The raw number behind one of the headline figures of all pools.
fn figure(page: &Page, name: &str) -> String {
    let selector = json!(format!("[data-figure='{name}'][data-of='all']"));
    let value = page.ask(&format!("return document.querySelector({selector})?.dataset.value ?? ''"));
    value.as_str().unwrap_or_default().to_owned()
}

fn the_page_shows_who_is_there_and_what_they_hold() {
    let stack = ship(4, "");
    let page = page(&stack, Look::DESK);
    page.until(
        "four compartments are manned",
        "return document.querySelectorAll('[data-phase=idle]').length === 4",
    );

    let mut client = stack.connect();
    client.send_get("/work?ms=10000");
    let holder = stack.holder_of("GET /work?ms=10000");
    page.until("the one at work is seen to be", &is_in(&holder.id, "busy"));
    let shown = page.text(&compartment(&holder.id)).unwrap();
    assert!(shown.contains("GET /work?ms=10000"), "{shown}");
    assert_eq!(client.response().status, 200);
    page.until("and to be idle when it is done", &is_in(&holder.id, "idle"));
    page.close(&[]);
    stack.down();
}

fn the_kill_button_kills_and_the_compartment_fills_again() {
    let stack = ship(4, "");
    let page = page(&stack, Look::DESK);
    page.until("web-2 is there", &is_in("web-2", "idle"));
    page.ask("window.__here_before = true");

    page.click(&compartment("web-2"));
    page.click("[data-action='kill']");

    let incident = eventually("the worker is dead", || {
        let incidents = stack.api().incidents();
        incidents.first().cloned().ok_or(incidents)
    });
    assert_eq!(incident["worker"], "web-2");
    assert_eq!(incident["cause"]["detail"], "SIGKILL, sent on request");
    page.until(
        "the compartment holds the next life",
        "const it = document.querySelector(\"[data-worker='web-2'][data-phase=idle]\");\
         return it !== null && it.dataset.generation === '2'",
    );
    page.until(
        "the incident is listed",
        "return document.querySelector(\"[data-incident='web-2.1']\") !== null",
    );
    eventually("the counters say so", || match figure(&page, "deaths").as_str() {
        "1" => Ok(()),
        other => Err(other.to_owned()),
    });
    // On the timeline, the death is in its lane: the third one down, and told as text to whoever goes there.
    page.ask("document.querySelector('#chart').focus()");
    eventually("the timeline says so", || {
        let before = page.text("#readout").unwrap_or_default();
        page.press(if before.starts_with("web-3") { "ArrowUp" } else { "ArrowDown" });
        let told = page.text("#readout").unwrap_or_default();
        if told.starts_with("web-2.1 died at ") && told.contains("replaced") { Ok(()) } else { Err(told) }
    });
    assert_eq!(page.ask("return window.__here_before === true"), json!(true), "the page was loaded anew");
    page.close(&[]);
    stack.down();
}

fn what_a_client_sends_stays_text() {
    const MARKUP: &str = "/work?ms=10000&<img/src=x/onerror=window.__pwned=1>";
    let stack = ship(2, "");
    let page = page(&stack, Look::DESK);
    let mut client = stack.connect();
    client.send_get(MARKUP);
    let holder = stack.holder_of("GET /work?ms=10000&<img");
    page.until("it is shown while it is held", &format!(
        "const it = document.querySelector({}); return it !== null && it.textContent.includes('<img/src=x')",
        json!(compartment(&holder.id))
    ));
    // And in the incident of the worker that dies with it, and in the timeline of the one that answers it.
    stack.kill_from_outside(&holder);
    assert_eq!(client.response().status, 200);
    let incident = format!("[data-incident='{}']", holder.life());
    page.until(
        "the incident is listed",
        &format!("return document.querySelector({}) !== null", json!(incident)),
    );
    page.click(&incident);
    page.until(
        "the card shows the request",
        "const it = document.querySelector('dialog[open]');\
        return it !== null && it.textContent.includes('<img/src=x')",
    );
    assert_eq!(page.count("img"), 0);
    assert_eq!(page.ask("return window.__pwned === undefined"), json!(true));
    page.close(&[]);
    stack.down();
}

fn the_keyboard_is_enough() {
    let stack = ship(2, "");
    let page = page(&stack, Look::DESK);
    page.until("web-1 is there", &is_in("web-1", "idle"));
    // However the page is arranged, TAB comes to a compartment, and an arrow to the next.
    eventually("TAB comes to the compartments", || {
        page.press("Tab");
        let at = page.ask("return document.activeElement.dataset.worker ?? null");
        if at == json!("web-0") { Ok(()) } else { Err(at) }
    });
    page.press("ArrowRight");
    assert_eq!(page.ask("return document.activeElement.dataset.worker"), json!("web-1"));
    page.press("Enter");
    eventually("TAB comes to the kill button", || {
        page.press("Tab");
        let at = page.ask("return document.activeElement.dataset.action ?? null");
        if at == json!("kill") { Ok(()) } else { Err(at) }
    });
    page.press("Enter");
    eventually("the worker is dead", || {
        let incidents = stack.api().incidents();
        if incidents.iter().any(|it| it["id"] == "web-1.1") { Ok(()) } else { Err(incidents) }
    });
    page.close(&[]);
    stack.down();
}

fn a_token_is_demanded_where_strangers_can_reach_it() {
    const TOKENS: Tokens = Tokens {
        operator: "operator-0123456789abcdef0123456789abcdef",
        viewer: "viewer-0123456789abcdef0123456789abcdef",
    };
    // What the browser itself says of requests that were refused.
    const REFUSED: &str = "401 (Unauthorized)";
    let stack = Stack::up_guarded(TOKENS, &rig::stack::web(2, ""));
    stack.ready("web", 2);
    let page = Page::open(&format!("http://{}/", stack.api().address()), Look::DESK);
    let asks = "return document.querySelector('[data-connection=token]') !== null";
    let is_live = "return document.querySelector('[data-connection=live]') !== null";
    page.until("a token is asked for", asks);
    assert_eq!(page.count("[data-worker]"), 0, "it shows workers to strangers");

    page.type_into("#token", "a guess\n");
    page.until("a wrong one is refused", asks);
    page.ask("document.querySelector('#token').value = ''");
    page.type_into("#token", &format!("{}\n", TOKENS.viewer));
    page.until("a viewer's is enough to look", is_live);
    page.until("web-1 is there", &is_in("web-1", "idle"));
    page.click(&compartment("web-1"));
    let disabled = "const it = document.querySelector(\"[data-action='kill']\");\
                    return it.disabled || it.getAttribute('aria-disabled') === 'true'";
    assert_eq!(page.ask(disabled), json!(true), "a viewer can press the kill button");

    page.go("about:blank");
    page.go(&format!("http://{}/#token={}", stack.api().address(), TOKENS.operator));
    page.until("an operator's in the link is taken", is_live);
    assert_eq!(page.ask("return location.hash"), json!(""), "the token stands in the address bar");
    page.until("web-1 is there", &is_in("web-1", "idle"));
    page.click(&compartment("web-1"));
    page.click("[data-action='kill']");
    stack.api().incident("web-1.1", |it| it["worker"] == "web-1");
    page.close(&[REFUSED]);
    stack.down();
}

fn two_hundred_workers_are_drawn_within_the_frame() {
    /// What drawing an update may take on average: one frame at 60 Hz. The page's own budget is half of it.
    const FRAME_MS: f64 = 1000.0 / 60.0;
    let stack = ship(200, "");
    let page = page(&stack, Look::DESK);
    page.until("all are there", "return document.querySelectorAll('[data-phase=idle]').length === 200");
    page.ask("window.__bulkhead.reset()");
    page.until("fifty updates have been drawn", "return window.__bulkhead.frames >= 50");
    let mean = page.ask("return window.__bulkhead.totalMs / window.__bulkhead.frames").as_f64().unwrap();
    assert!(mean < FRAME_MS, "an update with 200 workers takes {mean} ms");
    page.close(&[]);
    stack.down();
}

fn it_fits_a_phone() {
    let stack = ship(4, "");
    let page = page(&stack, Look::PHONE);
    page.until("web-3 is there", &is_in("web-3", "idle"));
    let wider = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(page.ask(wider), json!(0), "it has to be scrolled sideways");
    page.close(&[]);
    stack.down();
}

/// Four pictures, into the directory that `BULKHEAD_PICTURES` names, else into one that is thrown away.
fn pictures_of_the_calm_and_the_wounded_ship() {
    let throwaway = tempfile::tempdir().unwrap();
    let into = std::env::var_os("BULKHEAD_PICTURES").map_or_else(
        || throwaway.path().to_owned(),
        |it| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(it),
    );
    std::fs::create_dir_all(&into).unwrap();
    // A request whose worker is killed may be given to the one that is killed next.
    let stack = ship(6, "redeliver: { attempts: 3 }");
    let page = page(&stack, Look::DESK);
    let take = |name: &str| {
        for (scheme, look) in [("light", Look::DESK), ("dark", Look::DESK.in_the_dark())] {
            page.look_with(look);
            let picture = page.picture();
            let path: PathBuf = into.join(format!("dashboard-{name}-{scheme}.png"));
            std::fs::write(&path, &picture).unwrap();
            assert!(picture.len() > 10_000, "{} shows nothing", path.display());
        }
    };
    let load = rig::load::Load::start(stack.address("web"), 3, "/work?ms=400");
    // Enough to be seen on the timeline.
    eventually("sixty requests are answered", || {
        if load.answered() >= 60 { Ok(()) } else { Err(load.answered()) }
    });
    page.until(
        "the page knows",
        "return Number(document.querySelector(\"[data-figure='answered'][data-of='all']\").dataset.value) >= 60",
    );
    take("calm");
    for worker in ["web-1", "web-4"] {
        assert_eq!(stack.api().kill(worker, "SIGKILL").status, 202);
    }
    page.until(
        "both deaths are told to their end",
        "return document.querySelectorAll(\"[data-incident][data-complete='true']\").length >= 2\
         && document.querySelector(\"[data-figure='deaths'][data-of='all']\").dataset.value === '2'",
    );
    take("wounded");
    assert!(load.stop().failed.is_empty());
    page.close(&[]);
    stack.down();
}
