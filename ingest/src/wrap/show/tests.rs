use expect_test::{Expect, expect};

use super::*;

fn check(name: &str, before: &str, after: &str, expected: Expect) {
    expected.assert_eq(&diff(Path::new(name), Some(before), Some(after)));
}

#[test]
fn secrets_in_json_do_not_appear() {
    let before = r#"{
  "env": {"API": "hidden-1", "OTEL_LOGS_EXPORTER": "console", "OTEL_EXPORTER_OTLP_HEADERS": "hidden-2", "N": 123456},
  "headers": {"X": ["hidden-3", {"y": "hidden-4"}]},
  "primaryApiKey": "hidden-5",
  "args": ["--api-key", "hidden-6", "--token=hidden-7", "plain", "Bearer hidden-8", "https://u:hidden-9@h/", "https://h/?key=hidden-10"],
  "oauthAccount": {"a": {"b": "hidden-11"}},
  "mcp": "ghp_hidden-12",
  "change": 1
}
"#;
    check(
        "x.json",
        before,
        &before.replace("\"change\": 1", "\"change\": 2"),
        expect![[r#"
        --- x.json
        +++ x.json
        @@ -5,5 +5,5 @@
           "args": ["--api-key", "***", "***", "plain", "***", "***", "***"],
           "oauthAccount": {"a": {"b": "***"}},
           "mcp": "***",
        -  "change": 1
        +  "change": 2
         }
    "#]],
    );
    let masked = mask_json(before);
    assert!(!masked.contains("hidden") && !masked.contains("123456"), "{masked}");
    assert!(masked.contains("console") && masked.contains("plain"));
}

#[test]
fn secrets_in_toml_do_not_appear() {
    let text = "[mcp_servers.a]\ncommand = \"c\"\nargs = [\"-H\", \"hidden-1\", \"plain\"] # password is hidden-2\n\
        bearer_token_env_var = \"NAME\"\nenv = { A = \"hidden-3\" }\n# token = \"hidden-4\"\n\
        [mcp_servers.a.env]\nB = '''hidden-5\nhidden-6'''\n[mcp_servers.a.http_headers]\nC = \"hidden-7\"\n\
        [model_providers.x]\nexperimental_bearer_token = \"hidden-8\"\nbase_url = \"https://h/?api_key=hidden-9\"\n";
    let text = text.replace("\nenv = { A = \"hidden-3\" }", "");
    let masked = mask_toml(&text);
    expect![[r#"
        [mcp_servers.a]
        command = "c"
        args = ["-H", "***", "plain"] # password is hidden-2
        bearer_token_env_var = "NAME"
        # ***
        [mcp_servers.a.env]
        B = "***"
        [mcp_servers.a.http_headers]
        C = "***"
        [model_providers.x]
        experimental_bearer_token = "***"
        base_url = "***"
    "#]]
    .assert_eq(&masked);
}

#[test]
fn what_is_shown_steers_no_terminal() {
    let long = "x".repeat(1000);
    let before = format!("{{\"a\": \"\u{202e}\u{9b}31m{long}\"}}\n");
    let shown = diff(Path::new("x.json"), Some(&before), Some(""));
    assert!(!shown.contains(['\u{202e}', '\u{9b}']));
    assert!(shown.lines().all(|line| line.chars().count() < LINE_CHARS_MAX + 40));
}
