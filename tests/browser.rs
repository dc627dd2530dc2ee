//! The pages in headless Chromium: they load without a policy violation, hostile text stays text, the
//! incident can be followed by keyboard, and everything is readable with JavaScript off.
//!
//! Speaks the WebDriver protocol (W3C) to `chromedriver` directly: four calls do not need a client library.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Serve, ok, skip, threadline};

/// The conversation of the demo's incident.
const INCIDENT: &str = "309daf42-f826-415e-8b8f-6414e473e49e";

struct Browser {
    driver: Child,
    base: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// `None`, with the reason printed, where there is no browser.
    fn start(javascript: bool) -> Option<Browser> {
        let found = |program: &str| {
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|folder| folder.join(program).exists())
        };
        if !found("chromedriver") || !found("chromium") {
            skip("no chromium and chromedriver: install the packages chromium and chromium-driver");
            return None;
        }
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split("started successfully on port ").nth(1)?;
            rest.trim_end_matches('.').trim().parse::<u16>().ok()
        });
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut browser = Browser {
            driver,
            base: format!("http://127.0.0.1:{}", port.expect("chromedriver says its port")),
            http: reqwest::Client::new(),
            runtime,
            _profile: profile,
        };
        let mut arguments: Vec<String> = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
        ]
        .map(str::to_string)
        .to_vec();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().display()));
        let preferences =
            if javascript { json!({}) } else { json!({"profile.managed_default_content_settings.javascript": 2}) };
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments, "prefs": preferences},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.post("/session", &capabilities);
        browser.base = format!("{}/session/{}", browser.base, session["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", self.base)).body(body.to_string());
        let answer = self.runtime.block_on(async { request.send().await.unwrap().text().await.unwrap() });
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    fn script(&self, code: &str) -> Value {
        self.post("/execute/sync", &json!({"script": code, "args": []}))
    }

    fn text(&self) -> String {
        let body = self.post("/element", &json!({"using": "css selector", "value": "body"}));
        let id = body.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_string();
        let request = self.http.get(format!("{}/element/{id}/text", self.base));
        let answer = self.runtime.block_on(async { request.send().await.unwrap().text().await.unwrap() });
        serde_json::from_str::<Value>(&answer).unwrap()["value"].as_str().unwrap_or_default().to_string()
    }

    fn press(&self, key: &str) {
        let actions = json!({"actions": [{"type": "key", "id": "k", "actions": [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]}]});
        self.post("/actions", &actions);
    }

    /// Messages of the console that are errors: a refused script, style or connection is one.
    fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let errors = entries.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
        errors.map(|entry| entry["message"].as_str().unwrap_or_default().to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let request = self.http.delete(&self.base);
        let _ended = self.runtime.block_on(request.send());
        let _gone = self.driver.kill();
        let _reaped = self.driver.wait();
    }
}

fn demo() -> (tempfile::TempDir, Serve) {
    let work = tempfile::tempdir().unwrap();
    let data = work.path().join("data");
    ok(threadline().args(["demo", "--no-serve", "--data"]).arg(&data));
    let serve = Serve::start(&data);
    let body = json!({"kind": "prompt", "conversation_id": "hostile-1", "turn_id": "hostile-turn",
        "text": "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>\u{1b}[31m\u{202e}"});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = reqwest::Client::new()
        .post(format!("{}/api/v1/events", serve.url))
        .header("content-type", "application/json")
        .body(body.to_string());
    assert!(runtime.block_on(request.send()).unwrap().status().is_success());
    (work, serve)
}

#[test]
fn pages_show_the_incident_and_stay_inert() {
    let Some(browser) = Browser::start(true) else { return };
    let (_work, serve) = demo();
    let at = |path: &str| format!("{}{path}", serve.url);

    browser.open(&at("/"));
    let list = browser.text();
    assert!(list.contains("claude-code") && list.contains("codex"), "{list}");

    browser.open(&at(&format!("/sessions/{INCIDENT}")));
    let session = browser.text();
    for expected in ["write_file", "read_text_file", "tickets"] {
        assert!(session.contains(expected), "{expected} is not on the session page:\n{session}");
    }
    // Some records bear the day of their import; closed, they put no date between the rows in view.
    let dates = "return [...document.querySelectorAll('#rows .date')].map(line => {
        const row = line.nextElementSibling;
        return row && !row.hidden && row.matches('.r') ? row.dataset.d : 'no row below';
    }).join()";
    assert_eq!(browser.script(dates), "2026-11-20");
    // By keyboard: to a row and into its record.
    browser.press("j");
    browser.press("j");
    assert_ne!(
        browser.script("return document.activeElement && document.activeElement.tagName"),
        "BODY",
        "j does not move the focus"
    );

    // On a narrow screen each name of a lane stays beside its lane.
    browser.post("/window/rect", &json!({"width": 500, "height": 900}));
    let taller = "return [...document.querySelectorAll('.lanes i')].filter(name => name.getBoundingClientRect().height > 11).length";
    assert_eq!(browser.script(taller), 0);
    assert_eq!(
        browser.script("return document.documentElement.scrollWidth > innerWidth"),
        false,
        "the page is too wide"
    );
    browser.post("/window/rect", &json!({"width": 1280, "height": 900}));

    browser.open(&at("/search?q=public%2Fstatus.html"));
    assert!(browser.text().contains("status.html"));
    let first = browser.script("return [...document.querySelectorAll('a')].map(a => a.pathname).find(p => /^\\/e(vents)?\\/[0-9a-f-]{36}/.test(p)) || ''");
    browser.open(&at(first.as_str().filter(|path| !path.is_empty()).expect("a hit links to its event")));
    assert!(browser.text().contains("time_unix_nano") || browser.text().contains("event"), "{}", browser.text());

    for path in ["/sessions/hostile-1", "/search?q=onerror", "/", "/search?q=%3Cscript%3Ealert(1)%3C/script%3E"] {
        browser.open(&at(path));
        assert_ne!(browser.script("return document.title"), "pwned", "{path}: markup was interpreted");
        assert_eq!(browser.script("return document.querySelectorAll('img[src=\"x\"]').length"), 0);
    }
    assert_eq!(browser.complaints(), Vec::<String>::new(), "the pages break their own policy");
    serve.stop();
}

/// What the form of a page asks for, with one of its choices taken.
fn asked(browser: &Browser, format: &str) -> String {
    let script = format!(
        "const form = document.querySelector('form[action=\"/api/v1/export\"]'); form.elements.format.value = '{format}'; \
         return form.action + '?' + new URLSearchParams(new FormData(form))"
    );
    browser.script(&script).as_str().unwrap().to_string()
}

/// What a page's form exports is what the page shows; the report is inert, and the form can be reached by keyboard.
#[test]
fn exports_from_pages_hold_what_is_on_the_screen() {
    let Some(browser) = Browser::start(true) else { return };
    let (work, serve) = demo();
    let lines = |url: &str| {
        let got = browser.runtime.block_on(async { browser.http.get(url).send().await.unwrap().text().await.unwrap() });
        got.lines().count() as u64
    };
    let api = |path: &str| -> Value {
        let url = format!("{}/api/v1{path}", serve.url);
        let got = browser.runtime.block_on(async { browser.http.get(url).send().await.unwrap().text().await.unwrap() });
        serde_json::from_str(&got).unwrap()
    };
    for grade in ["proven", "matched", "claimed", "inferred"] {
        browser.open(&format!("{}/sessions/{INCIDENT}?grade={grade}", serve.url));
        let shown = api(&format!("/sessions/{INCIDENT}?grade={grade}"))["data"]["summary"]["records"].as_u64().unwrap();
        assert!(browser.text().contains(&format!("{shown} records")), "{grade}");
        assert_eq!(lines(&asked(&browser, "ndjson")), shown, "{grade}");
    }
    browser.open(&format!("{}/sessions/{INCIDENT}?as_known_at=2100-01-01", serve.url));
    assert!(browser.text().contains("as known at 2100-01-01T00:00:00Z"));
    assert!(asked(&browser, "ndjson").contains("as_known_at=2100-01-01T00%3A00%3A00Z"));
    // Before anything was received, nothing was known.
    let url = format!("{}/sessions/{INCIDENT}?as_known_at=2026-11-20", serve.url);
    let early = browser.runtime.block_on(async { browser.http.get(url).send().await.unwrap() });
    assert_eq!(early.status(), 404);
    browser.open(&format!("{}/sessions/{INCIDENT}?grade=maybe", serve.url));
    assert!(browser.text().contains("cannot be understood"));
    // The console tells of the status 400, and of nothing else so far.
    assert_eq!(browser.complaints().len(), 1);

    browser.open(&format!("{}/search?q=public%2Fstatus.html&as=text&from=2026-11-20", serve.url));
    let hits = api("/search?q=public%2Fstatus.html&limit=1000")["data"].as_array().unwrap().len() as u64;
    assert!(hits > 0);
    assert_eq!(lines(&asked(&browser, "ndjson")), hits);

    // By keyboard alone: the summary takes the focus, opens, and the next fields are those of the form.
    browser.script("document.querySelector('details.export summary').focus()");
    browser.press("\u{e007}");
    browser.press("\u{e004}");
    assert_eq!(browser.script("return document.activeElement.name"), "format");

    // The report of a session of hostile texts, opened from disk.
    let report = work.path().join("report.html");
    ok(threadline()
        .args(["export", "session", "hostile-1", "--format", "html", "--url", &serve.url, "-o"])
        .arg(&report));
    browser.open(&format!("file://{}", report.display()));
    assert_eq!(browser.script("return document.title"), "threadline report: session");
    assert_eq!(browser.script("return document.images.length + document.scripts.length"), 0);
    assert!(browser.text().contains("<script>document.title='pwned'</script>␛[31m⟨U+202E⟩"));
    let styled = browser.script("return getComputedStyle(document.querySelector('pre, .box')).borderLeftWidth");
    assert_eq!(styled, "4px", "the report's own style is refused");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    serve.stop();
}

#[test]
fn pages_are_readable_without_javascript() {
    let Some(browser) = Browser::start(false) else { return };
    let (_work, serve) = demo();
    for (path, expected) in [
        ("/".to_string(), "claude-code"),
        (format!("/sessions/{INCIDENT}"), "write_file"),
        ("/search?q=DEMO_KEY".to_string(), "DEMO_KEY"),
    ] {
        browser.open(&format!("{}{path}", serve.url));
        assert!(browser.text().contains(expected), "{path}: {expected} is not shown");
    }
    serve.stop();
}
