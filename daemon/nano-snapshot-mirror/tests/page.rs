//! The status page in a real browser: it draws itself anew, asks nobody else, fits a phone.
//!
//! Needs Chromium (`apt-get install chromium`). Where there is none the test says so and passes, unless
//! `REQUIRE_CHROMIUM` is set, as in CI. With `PAGE_SCREENSHOTS=DIR` it leaves pictures there.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{BEFORE, Running, World, command, copy_ledger, run_command};
use serde_json::{Value, json};

/// A browser that is talked to over a pair of pipes (Chromium's `--remote-debugging-pipe`).
struct Browser {
    process: Child,
    to: File,
    from: BufReader<File>,
    asked: u64,
    /// Of the one page.
    session: Option<String>,
    _home: tempfile::TempDir,
}

impl Browser {
    /// `None` when there is no browser here.
    fn start() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap();
        let places: Vec<PathBuf> = std::env::split_paths(&path)
            .flat_map(|dir| {
                ["chromium", "chromium-browser", "google-chrome"].map(|name| dir.join(name))
            })
            .collect();
        let program = places.into_iter().find(|place| place.exists())?;
        let home = tempfile::tempdir().unwrap();
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((theirs_in, ours_out), (ours_in, theirs_out)) = (pipe(), pipe());
        // Out of the way of 3 and 4, where the browser looks for them.
        let move_up = |end: OwnedFd| {
            let moved = rustix::io::fcntl_dupfd_cloexec(end, 100).unwrap();
            rustix::io::fcntl_setfd(&moved, rustix::io::FdFlags::empty()).unwrap();
            moved
        };
        let (theirs_in, theirs_out) = (move_up(theirs_in), move_up(theirs_out));
        let script = format!(
            "exec \"$@\" 3<&{} 4>&{}",
            theirs_in.as_raw_fd(),
            theirs_out.as_raw_fd()
        );
        let process = Command::new("bash")
            .args(["-c", &script, "browser"])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--no-first-run", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", home.path().display()))
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self {
            process,
            to: File::from(ours_out),
            from: BufReader::new(File::from(ours_in)),
            asked: 0,
            session: None,
            _home: home,
        })
    }

    /// Asks, and waits for the answer; events in between are passed over.
    #[track_caller]
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let mut question = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = &self.session {
            question["sessionId"] = json!(session);
        }
        self.to.write_all(question.to_string().as_bytes()).unwrap();
        self.to.write_all(&[0]).unwrap();
        loop {
            let mut answer = Vec::new();
            let length = self.from.read_until(0, &mut answer).unwrap();
            assert!(length > 0, "the browser ended");
            let answer: Value = serde_json::from_slice(&answer[..length - 1]).unwrap();
            if answer["id"] == self.asked {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    fn open(&mut self, address: &str) {
        let target = self.ask("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.ask("Target.attachToTarget", &attach);
        self.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        self.ask("Page.enable", &json!({}));
        self.ask("Page.navigate", &json!({"url": address}));
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        let question = json!({"expression": expression, "returnByValue": true});
        self.ask("Runtime.evaluate", &question)["result"]["value"].clone()
    }

    /// The page on a screen of this width, in this colour scheme.
    fn show(&mut self, width: u32, scheme: &str) {
        let metrics =
            json!({"width": width, "height": 1400, "deviceScaleFactor": 1, "mobile": width < 600});
        self.ask("Emulation.setDeviceMetricsOverride", &metrics);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.ask("Emulation.setEmulatedMedia", &media);
    }

    fn screenshot(&mut self, name: &str) {
        let picture = self.ask("Page.captureScreenshot", &json!({"format": "png"}));
        let bytes = data_encoding::BASE64
            .decode(picture["data"].as_str().unwrap().as_bytes())
            .unwrap();
        assert!(bytes.starts_with(b"\x89PNG"));
        if let Some(dir) = std::env::var_os("PAGE_SCREENSHOTS") {
            fs::write(PathBuf::from(dir).join(format!("{name}.png")), bytes).unwrap();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended; then there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_page_lives_in_a_browser() {
    let Some(mut browser) = Browser::start() else {
        let wanted = std::env::var_os("REQUIRE_CHROMIUM").is_some();
        assert!(!wanted, "no Chromium: apt-get install chromium");
        eprintln!("NOT CHECKED, no Chromium: apt-get install chromium");
        return;
    };
    let world = World::new();
    copy_ledger(BEFORE, &world.path("node.ldb"));
    let said = run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    let snapshot = said.value("snapshot");
    let seeder = Running::start(&mut world.mirror("producer"));
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    let mut report = Value::Null;
    mirror.until("readiness", || {
        let mut status = command();
        status
            .args(["status", "--json", "--data-dir"])
            .arg(world.path("mirror"));
        let said = run_command(&mut status);
        report = serde_json::from_str(&said.stdout).unwrap_or_default();
        said.status.code() == Some(0)
    });
    let address = report["mirror"]["addresses"]["http"].as_str().unwrap();
    browser.open(&format!("http://{address}/"));
    common::eventually("a drawing that was pushed", || {
        let live = browser.evaluate("document.querySelector('#live')?.textContent");
        (live == "live").then_some(())
    });
    let text = browser.evaluate("document.querySelector('main').innerText");
    let text = text.as_str().unwrap();
    for part in [
        "ready",
        "seeding",
        &snapshot,
        "1 of 1 authorities",
        "from peers",
        "Rates of the last hour",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // It is drawn again and again: what was there is replaced.
    browser.evaluate("document.querySelector('main').firstElementChild.id = 'old'");
    common::eventually("another drawing", || {
        let old = browser.evaluate("document.querySelector('#old') === null");
        (old == true).then_some(())
    });
    // All it ever asked for was its own address.
    let asked = browser.evaluate(
        "performance.getEntriesByType('resource').every(one => one.name.startsWith(location.origin))",
    );
    assert_eq!(asked, true);
    for (name, width, scheme) in [("desk", 1100, "light"), ("phone", 380, "dark")] {
        browser.show(width, scheme);
        let wider = browser.evaluate("document.documentElement.scrollWidth > innerWidth");
        assert_eq!(wider, false, "{name}: the page is wider than the screen");
        let colours = browser.evaluate("getComputedStyle(document.body).backgroundColor");
        assert_eq!(colours == "rgb(15, 18, 22)", scheme == "dark", "{colours}");
        browser.screenshot(name);
    }
    // When the mirror goes the page says so.
    mirror.stop().succeeded();
    common::eventually("the news", || {
        let live = browser.evaluate("document.querySelector('#live').textContent");
        live.as_str().unwrap().contains("no answer").then_some(())
    });
    seeder.stop().succeeded();
}
