//! A headless Chromium, driven over its DevTools protocol with real key presses and clicks.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// A page in a browser of its own; dropping it ends the browser.
pub struct Page {
    child: Child,
    socket: WebSocket<TcpStream>,
    session: String,
    next: u64,
    /// Addresses that the page asked for.
    requests: Vec<String>,
    /// What scripts complained of.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

const NAMES: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

fn browser() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("EBBTIDE_CHROMIUM") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    NAMES.iter().find_map(|name| std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file()))
}

impl Page {
    /// Opens a file; none, and said why, where there is no browser.
    pub fn open(file: &Path) -> Option<Self> {
        let Some(browser) = browser() else {
            eprintln!("skipped: needs a Chromium (apt-get install chromium-headless-shell, or EBBTIDE_CHROMIUM=/path)");
            return None;
        };
        let profile = tempfile::Builder::new().prefix("ebbtide-chromium-").tempdir().expect("a temporary directory");
        let mut child = Command::new(browser)
            // It refuses to be root in a sandbox of its own.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", "--window-size=1400,900"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            // Debian's is a script that starts the browser: what ends it must end both.
            .process_group(0)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("starting chromium");
        let stderr = BufReader::new(child.stderr.take().expect("its stderr"));
        let mut lines = stderr.lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("DevTools listening on ").map(str::to_owned));
        let url = url.expect("chromium says where its DevTools listen");
        // A full pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let address = url.trim_start_matches("ws://").split('/').next().unwrap_or_default();
        let stream = TcpStream::connect(address).expect("its DevTools");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let (socket, _) = client(url.as_str(), stream).expect("its DevTools' WebSocket");
        let mut page =
            Self { child, socket, session: String::new(), next: 0, requests: Vec::new(), complaints: Vec::new(), _profile: profile };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}));
        let session = page.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        page.session = session["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Network.enable", "Runtime.enable", "Page.enable"] {
            page.call(domain, json!({}));
        }
        page.call("Page.navigate", json!({"url": format!("file://{}", file.display())}));
        page.wait("document.readyState === 'complete' && location.protocol === 'file:'");
        Some(page)
    }

    /// A command of the protocol, and its answer.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).expect("chromium listens");
        loop {
            let Message::Text(text) = self.socket.read().expect("chromium answers within a minute") else { continue };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            match answer["method"].as_str() {
                Some("Network.requestWillBeSent") => {
                    self.requests.push(answer["params"]["request"]["url"].as_str().unwrap_or_default().to_owned());
                }
                Some("Runtime.exceptionThrown") => self.complaints.push(answer["params"]["exceptionDetails"].to_string()),
                _ => {}
            }
        }
    }

    /// The value of an expression on the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let result = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// The text of the first element that a selector finds.
    pub fn text(&mut self, selector: &str) -> String {
        let value = self.value(&format!("document.querySelector({}).textContent", json!(selector)));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    pub fn wait(&mut self, expression: &str) {
        ebbtide_tests::wait_for(expression, Duration::from_secs(30), || self.value(&format!("!!({expression})")) == json!(true));
    }

    /// Presses a key where the focus is.
    pub fn press(&mut self, key: &str) {
        let mut event = json!({"type": "keyDown", "key": key});
        if key.chars().count() == 1 {
            event["text"] = json!(key);
        }
        self.call("Input.dispatchKeyEvent", event);
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Clicks at a point of the window.
    pub fn click(&mut self, x: f64, y: f64) {
        for kind in ["mousePressed", "mouseReleased"] {
            self.call("Input.dispatchMouseEvent", json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}));
        }
    }

    /// Turns the wheel at a point, with Ctrl held.
    pub fn zoom(&mut self, x: f64, y: f64, by: f64) {
        let event = json!({"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": by, "modifiers": 2});
        self.call("Input.dispatchMouseEvent", event);
    }

    /// The window as a PNG in base64.
    pub fn picture(&mut self) -> String {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        shot["data"].as_str().unwrap_or_default().to_owned()
    }

    /// What the page asked for besides files.
    pub fn requests(&self) -> Vec<&str> {
        self.requests.iter().map(String::as_str).filter(|url| !url.starts_with("file:") && !url.starts_with("data:")).collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}
