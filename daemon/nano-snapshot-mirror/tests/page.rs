//! The status page in a real browser: it updates itself, asks no other server, fits a phone.
//!
//! Needs Chromium (`apt-get install chromium`). Without it the test is left out, with a line on stderr, and fails if `REQUIRE_CHROMIUM` is set, as
//! in CI. With `PAGE_SCREENSHOTS=DIR` it leaves pictures there.
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

/// Makes the page as long-worded as a degraded mirror's: problems with hashes, paths and words without breaks.
const DEGRADE: &str = r#"
    const long = "a".repeat(64), path = "/var/lib/" + "directory/".repeat(12);
    document.querySelector("main section").insertAdjacentHTML("beforeend",
        `<ul class="bad"><li>ledger-unsound: snapshot ${long} at ${path}: supply: less</ul>`);
    document.querySelector("main table").insertAdjacentHTML("beforeend",
        `<tr><td><code>dddddddddddd…</code><td>silent<td class="n">1764500000<td><span class="bad">no DHT
         node could be reached: ${path}</span></tr>
         <tr><td class="dim" colspan="4">refused 3 times, last 2 min ago: seq 3 of ${long} is below 7</tr>`);
    document.querySelector("main section:last-child").insertAdjacentHTML("beforeend",
        `<div class="scroll peers"><table><tr><th>network<th>client<th>has<th class="n">down<th class="n">up<th
         class="n">received<th class="n">sent</tr>
         <tr><td>2001:db8:abcd::x ←<td>nano-snapshot-mirror/0.1.0 ${long}<td>12345 pieces<td class="n">1.23 MiB/s<td
         class="n">45.6 MiB/s<td class="n">1.23 GiB<td class="n">45.6 GiB</tr></table></div>`);
"#;

/// The texts of elements that have more to show than there is room for.
const CUT: &str = r#"
    [...document.querySelectorAll("main *")]
        .filter((one) => !one.closest("svg") && one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1)
        .map((one) => one.tagName + ": " + one.textContent.slice(0, 80))
"#;

#[test]
fn the_page_lives_in_a_browser() {
    let Some(mut browser) = Browser::start() else {
        let wanted = std::env::var_os("REQUIRE_CHROMIUM").is_some();
        assert!(!wanted, "no Chromium: apt-get install chromium");
        // The test harness hides what `eprintln!` writes in a test that passes.
        let text =
            b"the_page_lives_in_a_browser: LEFT OUT, no Chromium: apt-get install chromium\n";
        std::io::stderr().write_all(text).unwrap();
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
    // Pushed drawings would take away what is added here.
    browser.evaluate("source.close()");
    browser.evaluate(DEGRADE);
    let sizes = [
        ("desk", 1100, "light"),
        ("tablet", 760, "light"),
        ("phone", 380, "dark"),
        ("small-phone", 320, "dark"),
    ];
    for (name, width, scheme) in sizes {
        browser.show(width, scheme);
        let wide = browser.evaluate("document.documentElement.scrollWidth");
        let wide = wide.as_u64().unwrap();
        assert!(
            wide <= width.into(),
            "{name}: the page is {wide} wide, the screen {width}"
        );
        let cut = browser.evaluate(CUT);
        assert_eq!(cut, json!([]), "{name}: text is cut");
        let colours = browser.evaluate("getComputedStyle(document.body).backgroundColor");
        assert_eq!(colours == "rgb(15, 18, 22)", scheme == "dark", "{colours}");
        browser.screenshot(name);
    }
    browser.evaluate("open()");
    common::eventually("a drawing", || {
        let badge = browser.evaluate("document.querySelector('.badge').textContent");
        (badge == "ready").then_some(())
    });
    // When the mirror goes the page says so.
    mirror.stop().succeeded();
    common::eventually("the news", || {
        let live = browser.evaluate("document.querySelector('#live').textContent");
        live.as_str().unwrap().contains("no answer").then_some(())
    });
    let badge = browser.evaluate("document.querySelector('.badge').textContent");
    assert_eq!(badge, "no answer", "the last state is not known to hold");
    browser.screenshot("gone");
    seeder.stop().succeeded();
}
