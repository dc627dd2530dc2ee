use std::{fs, os::unix::fs::PermissionsExt};

use expect_test::{Expect, expect};

use super::*;

struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new(files: &[(&str, &str)]) -> Self {
        let house = Self { folder: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            house.write(name, text);
        }
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn places(&self) -> Places {
        Places { home: self.path("home"), claude_config_dir: None, codex_home: None, project: self.path("project") }
    }

    fn wrap(&self, agent: Agent) -> Plan {
        let plan = plan(agent, &self.places(), &options()).unwrap();
        apply(&plan).unwrap();
        plan
    }

    fn undo(&self, agent: Agent) -> Plan {
        let plan = plan_undo(agent, &self.places()).unwrap();
        apply(&plan).unwrap();
        plan
    }

    /// All files below, with their text.
    fn all(&self) -> Vec<(String, String)> {
        fn walk(folder: &Path, root: &Path, all: &mut Vec<(String, String)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, all);
                } else {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    all.push((name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut all = Vec::new();
        walk(self.folder.path(), self.folder.path(), &mut all);
        all.sort();
        all
    }

    /// Diffs and notes, with the temporary folder taken out.
    fn check(&self, plan: &Plan, expected: Expect) {
        let diffs = plan.files.iter().map(FileChange::diff);
        let shown: String = diffs.chain(plan.notes.iter().map(|note| format!("{note}\n"))).collect();
        let shown = shown.replace(&self.folder.path().display().to_string(), "");
        // White space at the end of a line does not survive in an expectation.
        let lines: String = shown.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        expected.assert_eq(&lines);
    }
}

fn options() -> WrapOptions {
    WrapOptions {
        executable: "/opt/threadline".into(),
        destination: Destination::Data("/var/threadline".into()),
        otlp_endpoint: Some("http://127.0.0.1:4318".into()),
    }
}

const MCP_JSON: &str = r#"{
  "mcpServers": {
    "orders": {
      "type": "stdio",
      "command": "python3",
      "args": [
        "server.py",
        "--token",
        "very-secret"
      ],
      "env": { "TOKEN": "very-secret" }
    },
    "bare": {"command":"bare-server"},
    "web": { "type": "http", "url": "https://example.org/mcp", "headers": {"Authorization": "very-secret"} },
    "odd": { "args": 7 }
  }
}
"#;

const CLAUDE_JSON: &str = r#"{"numStartups": 12345678901234567890123, "projects": {"/a b": {"mcpServers": {"fs": {"command": "npx", "args": ["-y", "fs"]}}, "history": ["very-secret?"]}, "/c": {}}, "mcpServers": {}}"#;

#[test]
fn claude_code_is_wrapped_and_given_back_byte_for_byte() {
    let files = [("project/.mcp.json", MCP_JSON), ("home/.claude.json", CLAUDE_JSON)];
    let house = House::new(&files);
    let before = house.all();
    let wrapped = house.wrap(Agent::ClaudeCode);
    house.check(
        &wrapped,
        expect![[r#"
            --- /project/.mcp.json
            +++ /project/.mcp.json
            @@ -2,15 +2,22 @@
               "mcpServers": {
                 "orders": {
                   "type": "stdio",
            -      "command": "python3",
            +      "command": "/opt/threadline",
                   "args": [
            +        "tap",
            +        "--data",
            +        "/var/threadline",
            +        "--server-name",
            +        "orders",
            +        "--",
            +        "python3",
                     "server.py",
                     "--token",
                     "***"
                   ],
                   "env": { "TOKEN": "***" }
                 },
            -    "bare": {"command":"bare-server"},
            +    "bare": {"command":"/opt/threadline","args": ["tap", "--data", "/var/threadline", "--server-name", "bare", "--", "bare-server"]},
                 "web": { "type": "http", "url": "https://example.org/mcp", "headers": {"Authorization": "***"} },
                 "odd": { "args": 7 }
               }
            --- /home/.claude.json
            +++ /home/.claude.json
            @@ -1 +1 @@
            -{"numStartups": 12345678901234567890123, "projects": {"/a b": {"mcpServers": {"fs": {"command": "npx", "args": ["-y", "fs"]}}, "history": ["***"]}, "/c": {}}, "mcpServers": {}}
            \ No newline at end of file
            +{"numStartups": 12345678901234567890123, "projects": {"/a b": {"mcpServers": {"fs": {"command": "/opt/threadline", "args": ["tap", "--data", "/var/threadline", "--server-name", "fs", "--", "npx", "-y", "fs"]}}, "history": ["***"]}, "/c": {}}, "mcpServers": {}}
            \ No newline at end of file
            --- /dev/null
            +++ /home/.claude/settings.json
            @@ -0,0 +1,12 @@
            +{
            +  "env": {
            +    "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
            +    "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
            +    "OTEL_LOGS_EXPORTER": "otlp",
            +    "OTEL_TRACES_EXPORTER": "otlp",
            +    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            +    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
            +    "OTEL_LOG_USER_PROMPTS": "1",
            +    "OTEL_LOG_TOOL_DETAILS": "1"
            +  }
            +}
            /project/.mcp.json: web talks HTTP, which a stdio tap does not see: not wrapped; run `threadline tap --server-name NAME --upstream URL --listen 127.0.0.1:PORT` and give the agent http://127.0.0.1:PORT with the path of URL
            /project/.mcp.json: odd has neither command nor url: not wrapped
        "#]],
    );
    let first = house.all();
    let again = house.wrap(Agent::ClaudeCode);
    assert!(again.files.is_empty(), "wrapping twice changes nothing");
    assert_eq!(house.all(), first);
    house.undo(Agent::ClaudeCode);
    assert_eq!(house.all(), before);
    assert!(house.undo(Agent::ClaudeCode).files.is_empty());
}

const CONFIG_TOML: &str = r#"# my settings
model = "gpt-5-codex"   # the good one

[mcp_servers.orders]
required = true
command = "python3" # from the system
args = [
    # the server
    "server.py",
    "--flag",
]
env = { TOKEN = "very-secret" }

[mcp_servers.web]
url = "http://127.0.0.1:1/mcp"

[mcp_servers.more]
command = "z"
args=['a']

[analytics]
enabled = false
"#;

#[test]
fn codex_is_wrapped_and_given_back_byte_for_byte() {
    let house = House::new(&[("home/.codex/config.toml", CONFIG_TOML)]);
    let before = house.all();
    let wrapped = house.wrap(Agent::Codex);
    house.check(
        &wrapped,
        expect![[r#"
        --- /home/.codex/config.toml
        +++ /home/.codex/config.toml
        @@ -3,8 +3,15 @@
 
         [mcp_servers.orders]
         required = true
        -command = "python3" # from the system
        +command = "/opt/threadline" # from the system
         args = [
        +    "tap",
        +    "--data",
        +    "/var/threadline",
        +    "--server-name",
        +    "orders",
        +    "--",
        +    "python3",
             # the server
             "server.py",
             "--flag",
        @@ -15,8 +22,13 @@
         url = "http://127.0.0.1:1/mcp"
 
         [mcp_servers.more]
        -command = "z"
        -args=['a']
        +command = "/opt/threadline"
        +args=["tap", "--data", "/var/threadline", "--server-name", "more", "--", "z", 'a']
 
         [analytics]
         enabled = false
        +
        +[otel]
        +log_user_prompt = true
        +exporter = { otlp-http = { endpoint = "http://127.0.0.1:4318/v1/logs", protocol = "binary" } }
        +trace_exporter = { otlp-http = { endpoint = "http://127.0.0.1:4318/v1/traces", protocol = "binary" } }
        /home/.codex/config.toml: web talks HTTP, which a stdio tap does not see: not wrapped; run `threadline tap --server-name NAME --upstream URL --listen 127.0.0.1:PORT` and give the agent http://127.0.0.1:PORT with the path of URL
    "#]],
    );
    assert!(house.wrap(Agent::Codex).files.is_empty(), "wrapping twice changes nothing");
    house.undo(Agent::Codex);
    assert_eq!(house.all(), before);
}

#[test]
fn inline_and_dotted_codex_servers_are_wrapped_too() {
    let text = "mcp_servers = { a = { command = \"x\", args = [\"1\"] }, b.command = \"y\" }\n";
    let house = House::new(&[("home/.codex/config.toml", text)]);
    house.wrap(Agent::Codex);
    expect![[r#"
        mcp_servers = { a = { command = "/opt/threadline", args = ["tap", "--data", "/var/threadline", "--server-name", "a", "--", "x", "1"] }, b.command = "/opt/threadline" , b.args = ["tap", "--data", "/var/threadline", "--server-name", "b", "--", "y"] }

        [otel]
        log_user_prompt = true
        exporter = { otlp-http = { endpoint = "http://127.0.0.1:4318/v1/logs", protocol = "binary" } }
        trace_exporter = { otlp-http = { endpoint = "http://127.0.0.1:4318/v1/traces", protocol = "binary" } }
    "#]]
    .assert_eq(&house.read("home/.codex/config.toml"));
    house.undo(Agent::Codex);
    assert_eq!(house.read("home/.codex/config.toml"), text);
}

#[test]
fn undo_after_a_change_takes_out_only_what_is_ours() {
    let house = House::new(&[
        ("project/.mcp.json", MCP_JSON),
        (
            "home/.claude/settings.json",
            "{\n  \"env\": {\n    \"MINE\": \"1\",\n    \"OTEL_LOG_USER_PROMPTS\": \"1\"\n  }\n}\n",
        ),
        ("home/.codex/config.toml", CONFIG_TOML),
    ]);
    let codex = house.read("home/.codex/config.toml");
    house.wrap(Agent::ClaudeCode);
    house.wrap(Agent::Codex);
    for (name, from, to) in [
        ("project/.mcp.json", "\"odd\": {", "\"new\": { \"command\": \"z\" },\n    \"odd\": {"),
        ("home/.claude/settings.json", "\"MINE\": \"1\"", "\"MINE\": \"2\""),
        ("home/.codex/config.toml", "# my settings", "# changed settings"),
    ] {
        let text = house.read(name);
        assert!(text.contains(from), "{text}");
        house.write(name, &text.replace(from, to));
    }
    house.undo(Agent::ClaudeCode);
    house.undo(Agent::Codex);
    expect![[r#"
        {
          "env": {
            "MINE": "2",
            "OTEL_LOG_USER_PROMPTS": "1"
          }
        }
    "#]]
    .assert_eq(&house.read("home/.claude/settings.json"));
    expect![[r#"
        {
          "mcpServers": {
            "orders": {
              "type": "stdio",
              "command": "python3",
              "args": [
                "server.py",
                "--token",
                "very-secret"
              ],
              "env": { "TOKEN": "very-secret" }
            },
            "bare": {"command":"bare-server"},
            "web": { "type": "http", "url": "https://example.org/mcp", "headers": {"Authorization": "very-secret"} },
            "new": { "command": "z" },
            "odd": { "args": 7 }
          }
        }
    "#]]
    .assert_eq(&house.read("project/.mcp.json"));
    assert_eq!(house.read("home/.codex/config.toml"), codex.replace("# my settings", "# changed settings"));
    assert!(house.all().iter().all(|(name, _)| !name.contains("threadline-")), "nothing is left behind");
}

#[test]
fn wrapping_again_with_other_options_changes_ours_and_keeps_the_first_backup() {
    let files = [("project/.mcp.json", MCP_JSON), ("home/.claude/settings.json", "{}")];
    let house = House::new(&files);
    let before = house.all();
    house.wrap(Agent::ClaudeCode);
    let url = WrapOptions {
        destination: Destination::Url("http://127.0.0.1:7700".into()),
        otlp_endpoint: Some("http://127.0.0.1:5318".into()),
        ..options()
    };
    let changed = plan(Agent::ClaudeCode, &house.places(), &url).unwrap();
    apply(&changed).unwrap();
    let text = house.read("project/.mcp.json");
    assert!(text.contains("\"--to\"") && !text.contains("--data"), "{text}");
    assert_eq!(text.matches("\"tap\"").count(), 2);
    assert!(house.read("home/.claude/settings.json").contains("5318"));
    assert_eq!(changed.notes.len(), 2, "the servers over HTTP and without command: {:?}", changed.notes);
    house.undo(Agent::ClaudeCode);
    assert_eq!(house.all(), before);
}

#[test]
fn wrapping_after_a_change_keeps_the_change_through_undo() {
    let house = House::new(&[("project/.mcp.json", MCP_JSON)]);
    house.wrap(Agent::ClaudeCode);
    let text = house
        .read("project/.mcp.json")
        .replace("\"odd\"", "\"new\": { \"command\": \"z\", \"args\": [] },\n    \"odd\"");
    house.write("project/.mcp.json", &text);
    house.wrap(Agent::ClaudeCode);
    assert_eq!(house.read("project/.mcp.json").matches("\"tap\"").count(), 3);
    house.undo(Agent::ClaudeCode);
    let text = house.read("project/.mcp.json");
    assert_eq!((text.matches("\"tap\"").count(), text.matches("\"new\"").count()), (0, 1));
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed["mcpServers"]["orders"]["command"], "python3");
}

#[test]
fn telemetry_that_goes_elsewhere_is_left_alone() {
    let settings = "{\"env\": {\"OTEL_EXPORTER_OTLP_ENDPOINT\": \"https://elsewhere.example\"}}";
    let toml = "[otel]\nexporter = { otlp-http = { endpoint = \"https://elsewhere.example\", protocol = \"json\" } }\n";
    let house = House::new(&[("home/.claude/settings.json", settings), ("home/.codex/config.toml", toml)]);
    for (agent, name) in [(Agent::ClaudeCode, "OTEL_EXPORTER_OTLP_ENDPOINT"), (Agent::Codex, "otel.exporter")] {
        let plan = house.wrap(agent);
        assert!(plan.files.is_empty());
        assert_eq!(plan.notes[0].name, name);
    }
    let quiet = "{\"env\": {\"OTEL_LOG_USER_PROMPTS\": \"0\"}}";
    house.write("home/.claude/settings.json", quiet);
    let plan = house.wrap(Agent::ClaudeCode);
    assert_eq!(plan.notes[0].name, "OTEL_LOG_USER_PROMPTS");
    let text = house.read("home/.claude/settings.json");
    assert!(text.contains("\"OTEL_LOG_USER_PROMPTS\": \"0\"") && text.contains("\"OTEL_LOG_TOOL_DETAILS\": \"1\""));
}

#[test]
fn telemetry_can_be_left_out() {
    let house = House::new(&[("home/.codex/config.toml", "[mcp_servers.a]\ncommand = \"x\"\n")]);
    let servers_only = WrapOptions { otlp_endpoint: None, ..options() };
    let codex = plan(Agent::Codex, &house.places(), &servers_only).unwrap();
    let after = codex.files[0].after.clone().unwrap();
    assert!(after.contains("\"tap\"") && !after.contains("otel"));
    assert!(plan(Agent::ClaudeCode, &house.places(), &servers_only).unwrap().files.is_empty());
}

#[test]
fn config_folders_from_the_environment_are_used() {
    let house = House::new(&[
        ("cc/.claude.json", "{\"mcpServers\": {\"a\": {\"command\": \"x\"}}}"),
        ("cx/config.toml", "[mcp_servers.a]\ncommand = \"x\"\n"),
        ("home/.claude.json", "not read"),
    ]);
    let places =
        Places { claude_config_dir: Some(house.path("cc")), codex_home: Some(house.path("cx")), ..house.places() };
    let changed = |agent| -> Vec<PathBuf> {
        plan(agent, &places, &options()).unwrap().files.into_iter().map(|file| file.path).collect()
    };
    assert_eq!(changed(Agent::ClaudeCode), [house.path("cc/.claude.json"), house.path("cc/settings.json")]);
    assert_eq!(changed(Agent::Codex), [house.path("cx/config.toml")]);
}

#[test]
fn links_stay_links_and_permissions_stay() {
    let house = House::new(&[("dotfiles/mcp.json", MCP_JSON)]);
    fs::create_dir_all(house.path("project")).unwrap();
    std::os::unix::fs::symlink(house.path("dotfiles/mcp.json"), house.path("project/.mcp.json")).unwrap();
    fs::set_permissions(house.path("dotfiles/mcp.json"), fs::Permissions::from_mode(0o640)).unwrap();
    house.wrap(Agent::ClaudeCode);
    assert!(house.path("project/.mcp.json").is_symlink());
    assert!(house.read("dotfiles/mcp.json").contains("\"tap\""));
    let mode = |name| fs::metadata(house.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("dotfiles/mcp.json"), 0o640);
    assert_eq!(mode("dotfiles/mcp.json.threadline-backup"), 0o600);
    house.undo(Agent::ClaudeCode);
    assert!(house.path("project/.mcp.json").is_symlink());
    assert_eq!((house.read("dotfiles/mcp.json").as_str(), mode("dotfiles/mcp.json")), (MCP_JSON, 0o640));
}

#[test]
fn refuses_what_it_cannot_do_safely() {
    let house = House::new(&[("project/.mcp.json", MCP_JSON)]);
    let planned = plan(Agent::ClaudeCode, &house.places(), &options()).unwrap();
    house.write("project/.mcp.json", "{}");
    assert!(matches!(apply(&planned), Err(WrapError::Changed { .. })));
    assert_eq!(house.read("project/.mcp.json"), "{}");

    house.write("project/.mcp.json", "{\n\"very-secret\": }");
    let error = plan(Agent::ClaudeCode, &house.places(), &options()).unwrap_err();
    assert!(matches!(error, WrapError::Parse { line: 2, .. }) && !error.to_string().contains("very-secret"));
    house.write("project/.mcp.json", "[]");
    assert!(matches!(plan(Agent::ClaudeCode, &house.places(), &options()), Err(WrapError::Shape { .. })));
    house.write("home/.codex/config.toml", "a = 1\nvery-secret = \n");
    let error = plan(Agent::Codex, &house.places(), &options()).unwrap_err();
    assert!(matches!(error, WrapError::Parse { line: 2, .. }) && !error.to_string().contains("very-secret"));

    fs::remove_file(house.path("project/.mcp.json")).unwrap();
    std::os::unix::fs::symlink("nowhere", house.path("project/.mcp.json")).unwrap();
    assert!(matches!(plan(Agent::ClaudeCode, &house.places(), &options()), Err(WrapError::Read { .. })));
}

#[test]
fn a_lost_backup_does_not_lose_the_file() {
    let house = House::new(&[("project/.mcp.json", MCP_JSON)]);
    house.wrap(Agent::ClaudeCode);
    fs::remove_file(house.path("project/.mcp.json.threadline-backup")).unwrap();
    assert!(matches!(plan_undo(Agent::ClaudeCode, &house.places()), Err(WrapError::Shape { .. })));
    // Without either, our entries are still known by their shape.
    fs::remove_file(house.path("project/.mcp.json.threadline-undo")).unwrap();
    house.undo(Agent::ClaudeCode);
    let text = house.read("project/.mcp.json");
    assert!(!text.contains("\"tap\"") && text.contains("\"command\": \"python3\""));
}

#[test]
fn a_file_removed_since_stays_removed() {
    let house = House::new(&[("project/.mcp.json", MCP_JSON)]);
    house.wrap(Agent::ClaudeCode);
    for name in ["project/.mcp.json", "home/.claude/settings.json"] {
        fs::remove_file(house.path(name)).unwrap();
    }
    house.undo(Agent::ClaudeCode);
    assert_eq!(house.all(), []);
}

#[test]
fn nothing_shown_holds_a_secret() {
    let house = House::new(&[
        ("project/.mcp.json", MCP_JSON),
        ("home/.claude.json", CLAUDE_JSON),
        ("home/.codex/config.toml", CONFIG_TOML),
    ]);
    for agent in [Agent::ClaudeCode, Agent::Codex] {
        for plan in [house.wrap(agent), house.undo(agent)] {
            let shown: String = plan.files.iter().map(FileChange::diff).collect();
            assert!(shown.contains("tap") && !shown.contains("very-secret"), "{shown}");
        }
    }
}

#[test]
fn undo_removes_folders_that_wrapping_made_and_nobody_used() {
    let house = House::new(&[("home/.claude.json", CLAUDE_JSON)]);
    let wrapped = || {
        house.wrap(Agent::ClaudeCode);
        // A second time, with the folder there.
        let other = WrapOptions { otlp_endpoint: Some("http://127.0.0.1:5318".into()), ..options() };
        apply(&plan(Agent::ClaudeCode, &house.places(), &other).unwrap()).unwrap();
        assert!(house.path("home/.claude/settings.json").exists());
    };
    wrapped();
    house.undo(Agent::ClaudeCode);
    assert!(!house.path("home/.claude").exists());
    wrapped();
    house.write("home/.claude/mine", "x");
    house.undo(Agent::ClaudeCode);
    assert!(house.path("home/.claude/mine").exists());
    std::fs::remove_file(house.path("home/.claude/mine")).unwrap();
    house.wrap(Agent::ClaudeCode);
    house.undo(Agent::ClaudeCode);
    assert!(house.path("home/.claude").exists(), "it was there before this wrap");
}
