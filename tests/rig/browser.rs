//! A real browser: Debian's chromium without a window, driven over WebDriver by its own chromedriver.
//!
//! Stories read what a person would see ([`Page::ask`] runs a script in the page) and wait until it is so. Whatever
//! the page has complained of on its console is an error of the story's: [`Page::close`] looks.

use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::eventually;

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub scheme: Scheme,
}

/// Which colours the reader prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

impl Look {
    pub const DESK: Self = Self { width: 1280, height: 1240, scheme: Scheme::Light };
    pub const PHONE: Self = Self { width: 360, height: 740, scheme: Scheme::Light };

    pub fn in_the_dark(self) -> Self {
        Self { scheme: Scheme::Dark, ..self }
    }
}

/// Whether a browser and its driver are installed; what is missing, and how to get it.
pub fn is_here() -> Result<(), String> {
    for program in ["chromium", "chromedriver"] {
        Command::new(program).arg("--version").output().map_err(|error| {
            format!("{program}: {error} (Debian: apt-get install chromium chromium-driver)")
        })?;
    }
    Ok(())
}

/// One page in a browser of its own.
pub struct Page {
    client: Client,
    runtime: Runtime,
    _driver: Driver,
}

/// The driver's process, and the directory in which its browser keeps everything.
struct Driver {
    process: Child,
    port: u16,
    home: TempDir,
}

impl Page {
    /// Opens an address.
    pub fn open(url: &str, look: Look) -> Self {
        let driver = Driver::start();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let arguments = [
            "--headless=new".to_owned(),
            // Nothing but the page under test is shown, and whoever runs tests as root has no sandbox.
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--force-color-profile=srgb".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--user-data-dir={}", driver.home.path().display()),
        ];
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(wanted) = wanted else { unreachable!("it is an object") };
        let address = format!("http://127.0.0.1:{}", driver.port);
        let client = runtime.block_on(async {
            ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
                .capabilities(wanted)
                .connect(&address)
                .await
                .unwrap_or_else(|error| panic!("no browser: {error}"))
        });
        let page = Self { client, runtime, _driver: driver };
        page.look_with(look);
        page.go(url);
        page
    }

    /// Another address in the same browser.
    pub fn go(&self, url: &str) {
        self.run(self.client.goto(url));
    }

    /// Looks at it with other eyes.
    pub fn look_with(&self, look: Look) {
        let scheme = if look.scheme == Scheme::Dark { "dark" } else { "light" };
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        );
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false }),
        );
    }

    /// What a script returns.
    pub fn ask(&self, script: &str) -> Value {
        self.run(self.client.execute(script, Vec::new()))
    }

    /// How many elements there are of a selector.
    pub fn count(&self, selector: &str) -> usize {
        let script = format!("return document.querySelectorAll({}).length", json!(selector));
        self.ask(&script).as_u64().unwrap().try_into().unwrap()
    }

    /// What an element says; nothing where there is none.
    pub fn text(&self, selector: &str) -> Option<String> {
        let script =
            format!("const it = document.querySelector({}); return it && it.textContent", json!(selector));
        self.ask(&script).as_str().map(str::to_owned)
    }

    /// Waits until a script returns something that is true.
    pub fn until(&self, what: &str, script: &str) -> Value {
        eventually(what, || {
            let seen = self.ask(script);
            let is_true = !matches!(&seen, Value::Null | Value::Bool(false));
            if is_true { Ok(seen) } else { Err((seen, self.text("main"))) }
        })
    }

    /// Clicks on an element, as a hand would: it has to be there, visible and uncovered.
    pub fn click(&self, selector: &str) {
        let click = async { self.client.find(Locator::Css(selector)).await?.click().await };
        if let Err(error) = self.runtime.block_on(click) {
            panic!("cannot click on {selector}: {error}\n{}", self.text("main").unwrap_or_default());
        }
    }

    /// Types into an element.
    pub fn type_into(&self, selector: &str, text: &str) {
        self.run(async { self.client.find(Locator::Css(selector)).await?.send_keys(text).await });
    }

    /// Presses a key wherever the focus is.
    pub fn press(&self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            let code = match key {
                "Tab" => 9,
                "Enter" => 13,
                "Escape" => 27,
                "ArrowUp" => 38,
                "ArrowRight" => 39,
                "ArrowDown" => 40,
                _ => 0,
            };
            let text = if key == "Enter" && kind == "rawKeyDown" { "\r" } else { "" };
            let kind = if text.is_empty() { kind } else { "keyDown" };
            let event = json!({
                "type": kind, "key": key, "code": key, "text": text,
                "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code,
            });
            self.devtools("Input.dispatchKeyEvent", &event);
        }
    }

    /// What it looks like, as PNG.
    pub fn picture(&self) -> Vec<u8> {
        self.run(self.client.screenshot())
    }

    /// Closes the page. It has nothing to complain of, but for what contains one of `expected`.
    pub fn close(self, expected: &[&str]) {
        let log = self.run(
            self.client.issue_cmd(Vendor { path: "se/log".to_owned(), body: json!({ "type": "browser" }) }),
        );
        let complaints: Vec<String> = log
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .filter(|entry| matches!(entry["level"].as_str(), Some("SEVERE" | "WARNING")))
            .map(|entry| entry["message"].to_string())
            .filter(|message| !expected.iter().any(|it| message.contains(it)))
            .collect();
        let _ = self.runtime.block_on(self.client.close());
        assert!(complaints.is_empty(), "the page complained: {complaints:#?}");
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.run(self.client.issue_cmd(Vendor { path: "goog/cdp/execute".to_owned(), body }));
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, CmdError>>) -> T {
        let bounded = async { tokio::time::timeout(super::PATIENCE, work).await };
        match self.runtime.block_on(bounded) {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => panic!("the browser: {error}"),
            Err(_elapsed) => panic!("the browser said nothing for {:?}", super::PATIENCE),
        }
    }
}

/// A command of chromedriver's own.
#[derive(Debug)]
struct Vendor {
    path: String,
    body: Value,
}

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

impl Driver {
    /// Starts the driver on a port that it chooses itself, and waits until it says which.
    fn start() -> Self {
        let home = tempfile::Builder::new().prefix("chromium-").tempdir().unwrap();
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| port_in(&line));
        let port = port.expect("chromedriver says where it listens");
        // It must never wait for somebody to read.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { process, port, home }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Its browser ends with it, unless the session could not be closed: asked to stop, it sees to that.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        for _ in 0..200 {
            if self.process.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `ChromeDriver was started successfully on port 38519.`
fn port_in(line: &str) -> Option<u16> {
    line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
}
