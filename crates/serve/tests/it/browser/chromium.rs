//! Chromium over its debugging pipe: JSON messages, each ended by a NUL.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Chromium {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    /// What came while something else was waited for.
    events: VecDeque<Value>,
    session: Option<String>,
    last_id: u64,
    _profile: TempDir,
}

/// The browser of this machine, if there is one.
fn find() -> Option<PathBuf> {
    let named = std::env::var_os("EVALIGN_TEST_BROWSER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let in_path = |name: &str| places.iter().map(|place| place.join(name)).find(|file| file.is_file());
    named
        .or_else(|| ["chromium", "chromium-browser", "google-chrome", "chrome"].into_iter().find_map(in_path))
}

impl Chromium {
    /// `None` where there is no browser.
    pub(crate) fn start() -> Option<Self> {
        let browser = find()?;
        let profile = tempfile::tempdir().unwrap();
        // The browser reads its commands from descriptor 3 and answers on 4.
        let script = "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(browser).arg("--remote-debugging-pipe");
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        for flag in [
            "--headless=new",
            // Tests run as root in containers, where its sandbox cannot be set up; the only pages are our own.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
        ] {
            command.arg(flag);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, messages) = channel();
        std::thread::spawn(move || {
            let mut answers = BufReader::new(answers);
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|bytes| bytes > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if send.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut chromium = Self {
            child,
            commands,
            messages,
            events: VecDeque::new(),
            session: None,
            last_id: 0,
            _profile: profile,
        };
        chromium.open_page();
        Some(chromium)
    }

    fn open_page(&mut self) {
        let target = self.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.ask("Target.attachToTarget", &attach);
        self.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Audits", "DOM", "Accessibility"] {
            self.ask(&format!("{domain}.enable"), &json!({}));
        }
    }

    /// Sends a command and waits for its result.
    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.commands.flush().unwrap();
        loop {
            let answer = self.message();
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push_back(answer);
        }
    }

    fn message(&self) -> Value {
        self.messages.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("the browser: {error}"))
    }

    /// Waits until the page has loaded, whatever has made it load.
    fn await_load(&mut self) {
        while !self.has_loaded() {
            let event = self.message();
            self.events.push_back(event);
        }
    }

    pub(crate) fn open(&mut self, address: &str) {
        self.has_loaded();
        self.ask("Page.navigate", &json!({"url": address}));
        self.await_load();
    }

    /// Whether a load was noted since the last look.
    fn has_loaded(&mut self) -> bool {
        let is_load = |event: &Value| event["method"] == "Page.loadEventFired";
        let found = self.events.iter().any(is_load);
        self.events.retain(|event| !is_load(event));
        found
    }

    /// Presses the mouse on an element and waits for the page that it leads to.
    pub(crate) fn click_through(&mut self, selector: &str) {
        let place = self.run(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        ));
        self.has_loaded();
        for kind in ["mousePressed", "mouseReleased"] {
            let press =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", &press);
        }
        self.await_load();
    }

    /// The value of an expression in the page.
    pub(crate) fn run(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.ask("Runtime.evaluate", &params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    pub(crate) fn text(&mut self) -> String {
        self.run("document.body.innerText").as_str().unwrap().to_owned()
    }

    /// Errors that the browser has told of since the last call: of scripts, of the policy, of anything that was not
    /// found.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // What is on its way is there after an answer.
        self.run("1");
        let is_error = |event: &Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Audits.issueAdded") => true,
            Some("Runtime.consoleAPICalled") => event["params"]["type"] == "error",
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        self.events.drain(..).filter(is_error).map(|event| event.to_string()).collect()
    }

    /// Roles of what a person can act on that has no name to be called by.
    pub(crate) fn nameless_controls(&mut self) -> Vec<String> {
        const CONTROLS: [&str; 8] =
            ["button", "link", "textbox", "searchbox", "combobox", "checkbox", "spinbutton", "radio"];
        let tree = self.ask("Accessibility.getFullAXTree", &json!({}));
        let nodes = tree["nodes"].as_array().unwrap();
        let is_nameless = |node: &&Value| {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            let name = node["name"]["value"].as_str().unwrap_or_default();
            node["ignored"] != true && CONTROLS.contains(&role) && name.trim().is_empty()
        };
        nodes.iter().filter(is_nameless).map(ToString::to_string).collect()
    }

    pub(crate) fn look(&mut self, width: u32, scheme: &str) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", &metrics);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.ask("Emulation.setEmulatedMedia", &features);
    }

    /// Pixels by which the page is wider than the window.
    pub(crate) fn overflow(&mut self) -> i64 {
        self.run("document.documentElement.scrollWidth - window.innerWidth").as_i64().unwrap()
    }

    /// The page as it looks, as far down as it goes.
    pub(crate) fn screenshot(&mut self, file: &Path) {
        let shot =
            self.ask("Page.captureScreenshot", &json!({"format": "png", "captureBeyondViewport": true}));
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            shot["data"].as_str().unwrap(),
        );
        fs_err::write(file, bytes.unwrap()).unwrap();
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Asked to, it ends with all its processes.
        let close = json!({"id": 0, "method": "Browser.close", "params": {}});
        let asked = self.commands.write_all(format!("{close}\0").as_bytes());
        let until = Instant::now() + Duration::from_secs(5);
        while asked.is_ok() && Instant::now() < until {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
