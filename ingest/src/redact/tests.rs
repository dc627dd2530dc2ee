use expect_test::{Expect, expect};
use threadline_schemas::{Kind, Record};

use super::*;

fn redactor() -> &'static Redactor {
    static REDACTOR: std::sync::LazyLock<Redactor> =
        std::sync::LazyLock::new(|| Redactor::new(MatchKey::new([7; 32]), &RedactConfig::default()).unwrap());
    &REDACTOR
}

/// With the first four digits of fingerprints only.
fn shortened(text: &str) -> String {
    let digits = regex::Regex::new(r":([0-9a-f]{4})[0-9a-f]{28}\]").unwrap();
    digits.replace_all(text, ":$1]").into_owned()
}

fn redacted(text: &str) -> String {
    let mut record = Record::new("t", "own:1", Kind::Log);
    record.text = Some(text.into());
    redactor().redact(&mut record);
    let once = record.clone();
    assert_eq!(redactor().redact(&mut record), 0, "redacting twice changes something");
    assert_eq!(record, once);
    record.text.unwrap()
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&shortened(&redacted(text)).replace('\r', ""));
}

const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";

#[test]
fn by_shape() {
    check(
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nrest",
        expect![[r#"
        [redacted:private-key:8fd7]
        rest"#]],
    );
    check("cut off: -----BEGIN PRIVATE KEY-----\nMIIE", expect!["cut off: [redacted:private-key:0f0b]"]);
    check(&format!("token {JWT}, next"), expect!["token [redacted:jwt:46c8], next"]);
    check(
        "AKIAIOSFODNN7EXAMPLE and ASIAIOSFODNN7EXAMPLE",
        expect!["[redacted:aws-key:f178] and [redacted:aws-key:0850]"],
    );
    check(
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        expect!["aws_secret_access_key = [redacted:aws-secret:f0f5]"],
    );
    check("ghp_abcdefghijklmnopqrstuvwxyz0123456789", expect!["[redacted:github-token:94d5]"]);
    check("github_pat_11ABCDEFG0abcdefghijkl_mn", expect!["[redacted:github-token:e5f9]"]);
    check("xoxb-1234567890-abcdef", expect!["[redacted:slack-token:9d21]"]);
    check("AIzaSyA1234567890abcdefghijklmnopqrstuv", expect!["[redacted:google-key:a2d6]"]);
    check(
        "key sk-ant-api03-abcdefghijklmnop, sk-proj-abcdefgh12345678ijkl",
        expect!["key [redacted:model-key:a277], [redacted:model-key:5fdf]"],
    );
    check("sk_live_abcdefghij0123456789", expect!["[redacted:stripe-key:fc25]"]);
    check("postgres://app:hunter2@db:5432/x", expect!["postgres://app:[redacted:connection-password:4ed3]@db:5432/x"]);
    check(
        "https://h/cb?code=1&access_token=abcd1234&x=2",
        expect!["https://h/cb?code=1&access_token=[redacted:form-secret:a8ff]&x=2"],
    );
}

#[test]
fn headers() {
    check(
        "GET / HTTP/1.1\r\nAuthorization: Bearer abc.def-123\r\nHost: h\r\nCookie: a=b; c=d\r\n\r\n",
        expect![[r#"
            GET / HTTP/1.1
            Authorization: Bearer [redacted:authorization:f9c9]
            Host: h
            Cookie: [redacted:cookie:0502]

        "#]],
    );
    check(
        "curl -H 'X-Api-Key: k1' -H \"Authorization: Basic dTpw\" u",
        expect![[
            r#"curl -H 'X-Api-Key: [redacted:api-key:22f9]' -H "Authorization: Basic [redacted:authorization:be0e]" u"#
        ]],
    );
    check(
        r#"{"headers":{"authorization":"Bearer t","set-cookie":["a=1","b=2"],"x":"y"}}"#,
        expect![[
            r#"{"headers":{"authorization":"Bearer [redacted:authorization:fa00]","set-cookie":["[redacted:cookie:d0af]","[redacted:cookie:3285]"],"x":"y"}}"#
        ]],
    );
    check(
        r#"[["Cookie","a=1"],["accept","*/*"]]"#,
        expect![[r#"[["Cookie","[redacted:cookie:d0af]"],["accept","*/*"]]"#]],
    );
    check(
        r#"{"key":"http.request.header.authorization","value":{"stringValue":"Bearer t"}}"#,
        expect![[
            r#"{"key":"http.request.header.authorization","value":{"stringValue":"Bearer [redacted:authorization:fa00]"}}"#
        ]],
    );
    check("Bearer authentication is required", expect!["Bearer authentication is required"]);
}

#[test]
fn by_name() {
    check(
        r#"{"user":"u","password":"hunter2","n":{"clientSecret":"s1","API_KEY":"k","apiKey":"k"}}"#,
        expect![[
            r#"{"user":"u","password":"[redacted:password:4ed3]","n":{"clientSecret":"[redacted:secret:20c7]","API_KEY":"[redacted:env:06f5]","apiKey":"[redacted:api-key:06f5]"}}"#
        ]],
    );
    check(
        r#"{"type":"object","required":["password","user"],"properties":{"password":{"type":"string"}}}"#,
        expect![[r#"{"type":"object","required":["password","user"],"properties":{"password":{"type":"string"}}}"#]],
    );
    check(
        r#"cut off {"a":{"password":"p\"q","b":"c"#,
        expect![[r#"cut off {"a":{"password":"[redacted:password:4f81]","b":"c"#]],
    );
    check(
        r#"cut off {\"password\":\"p\",\"b\":1"#,
        expect![[r#"cut off {\"password\":\"[redacted:password:b1ea]\",\"b\":1"#]],
    );
    check(
        r#"data: {\"env\":\"{\\\"A_TOKEN\\\": \\\"abcd1234\\\"}\"}"#,
        expect![[r#"data: {\"env\":\"{\\\"A_TOKEN\\\": \\\"[redacted:env:a8ff]\\\"}\"}"#]],
    );
    check("\"password\":\"open", expect![[r#""password":"[redacted:password:4fbb]"#]]);
}

#[test]
fn lines_of_an_env_file() {
    check(
        "# comment\nDEMO_KEY=dummy-demo-key-123\nexport DB_PASSWORD=\"a b c\"\nPORT=80\nPRIMARY_KEY=order_id\nX_TOKEN=$OTHER\n",
        expect![[r##"
            # comment
            DEMO_KEY=[redacted:env:4571]
            export DB_PASSWORD="[redacted:env:0627]"
            PORT=80
            PRIMARY_KEY=order_id
            X_TOKEN=$OTHER
        "##]],
    );
}

#[test]
fn one_secret_has_one_fingerprint_wherever_it_stands() {
    let secret = "dummy-\"demo\"\\key-123";
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let plain = format!("{{\"password\":{}}}", quoted(secret));
    let in_string = format!("{{\"text\":{}}}", quoted(&plain));
    let in_string_in_string = format!("{{\"raw\":{}}}", quoted(&in_string));
    let expected = redactor().scanner.fingerprint_of(secret.as_bytes());
    for text in [&plain, &in_string, &in_string_in_string, &format!("data: {plain}"), &format!("data: {in_string}")] {
        let shown = redacted(text);
        assert!(shown.contains(&format!("[redacted:password:{expected}]")), "{shown}");
        assert!(!shown.contains("demo"), "{shown}");
    }
    let read = redacted(r#"{"content":[{"type":"text","text":"DEMO_KEY=dummy-demo-key-123\n"}]}"#);
    let written = redacted(r#"{"path":"public/status.html","content":"DEMO_KEY=dummy-demo-key-123"}"#);
    let token = |text: &str| text[text.find("[redacted").unwrap()..].split(']').next().unwrap().to_string();
    assert_eq!(token(&read), token(&written));
}

#[test]
fn everything_else_stays_byte_for_byte() {
    check(
        "{ \"a\" : \"caf\\u00e9 \\/ DEMO_KEY=abcd1234\\n\", \"n\":1.50e2,\"password\":\"\" }",
        expect![[r#"{ "a" : "caf\u00e9 \/ DEMO_KEY=[redacted:env:a8ff]\n", "n":1.50e2,"password":"" }"#]],
    );
    check(
        r#"{"\u0070assword":"x","a":"\u0041KIAIOSFODNN7EXAMPLE"}"#,
        expect![[r#"{"\u0070assword":"[redacted:password:0090]","a":"[redacted:aws-key:f178]"}"#]],
    );
}

#[test]
fn what_was_taken_out_is_listed() {
    let mut record = Record::new("t", "own:1", Kind::Call);
    record.arguments = Some(r#"{"password":"hunter2"}"#.into());
    record.raw = Some(br#"{"params":{"arguments":{"password":"hunter2"}}}"#.to_vec());
    redactor().redact(&mut record);
    expect![[r#"[{"bytes":7,"field":"raw","fingerprint":"6b4c","kind":"password"},{"bytes":7,"field":"arguments","fingerprint":"6b4c","kind":"password"}]"#]]
    .assert_eq(&regex::Regex::new(r"[0-9a-f]{32}").unwrap().replace_all(&record.redactions.unwrap(), "6b4c"));
}

#[test]
fn a_binary_body_keeps_its_lengths() {
    let mut record = Record::new("t", "own:1", Kind::Span);
    record.decoder = "otlp-protobuf".into();
    let long = "t0123456789012345678901234567890123456789012345678901234567890123456789";
    let mut body = b"\x0a\x0dauthorization\x12\x08\x0a\x06abcdef\x0a\x0dauthorization\x12\x50\x0a\x4eBearer ".to_vec();
    body.extend_from_slice(long.as_bytes());
    body.extend_from_slice(b"\x0a\x04text\x12\x19\x0a\x17A_KEY=0123456789 ok\xff\x00");
    record.raw = Some(body.clone());
    redactor().redact(&mut record);
    let raw = record.raw.unwrap();
    assert_eq!(raw.len(), body.len());
    let shown = shortened(&raw.escape_ascii().to_string());
    expect![[r#"\n\rauthorization\x12\x08\n\x06******\n\rauthorization\x12P\nNBearer [redacted:authorization:8cf8]**************\n\x04text\x12\x19\n\x17A_KEY=********** ok\xff\x00"#]]
    .assert_eq(&shown);
}

#[test]
fn a_field_full_of_secrets_does_not_grow_without_bound() {
    let text = "A_KEY=abcdef\n".repeat(100_000);
    let mut record = Record::new("t", "own:1", Kind::Log);
    record.text = Some(text.clone());
    assert_eq!(redactor().redact(&mut record), 100_000);
    let shown = record.text.unwrap();
    assert!(!shown.contains("abcdef"));
    assert!(shown.len() < text.len() + 64 * scan::FINGERPRINTS_MAX);
    assert!(record.redactions.unwrap().len() < 200 * LISTED_MAX);
}

#[test]
fn rules_can_be_added_and_switched_off() {
    let config: RedactConfig = serde_json::from_str(
        r#"{"off":["env"],"add_patterns":[{"kind":"ticket","expression":"TCK-([0-9]{6})"}],"add_names":["pin_code"]}"#,
    )
    .unwrap();
    let redactor = Redactor::new(MatchKey::new([7; 32]), &config).unwrap();
    let mut record = Record::new("t", "own:1", Kind::Log);
    record.text = Some(r#"{"pinCode":"1","t":"TCK-123456 A_KEY=abcdef, data: {\"pin-code\":\"1\"}"}"#.into());
    redactor.redact(&mut record);
    expect![[r#"{"pinCode":"[redacted:named:409e]","t":"TCK-[redacted:ticket:4b57] A_KEY=abcdef, data: {\"pin-code\":\"[redacted:named:409e]\"}"}"#]]
        .assert_eq(&shortened(&record.text.unwrap()));
    let refused = |config: &str| {
        let config = serde_json::from_str(config).unwrap();
        Redactor::new(MatchKey::new([7; 32]), &config).unwrap_err().to_string()
    };
    assert_eq!(refused(r#"{"off":["jtw"]}"#), "there is no redaction rule \"jtw\" to switch off");
    assert_eq!(
        refused(r#"{"add_patterns":[{"kind":"a]","expression":"x"}]}"#),
        "kind \"a]\" of a redaction rule must be 1 to 32 lower-case letters, digits and dashes"
    );
}

/// What the rules take out of recorded traffic, secret by secret as it stood there: nothing here may be harmless text.
#[test]
fn on_real_traffic_only_secrets_are_found() {
    let redactor = redactor();
    let mut found = std::collections::BTreeMap::<String, usize>::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    for_each_file(&folder, &mut |bytes, is_lines| {
        let parts = if is_lines { bytes.split(|byte| *byte == b'\n').collect() } else { vec![bytes] };
        for part in parts {
            let hits = match holds_binary(part) {
                true => redactor.scanner.find_in_binary(part),
                false => redactor.scanner.find(part),
            };
            for hit in hits {
                let secret = String::from_utf8_lossy(&part[hit.span]).into_owned();
                *found.entry(format!("{} {secret}", redactor.scanner.kinds[usize::from(hit.kind)])).or_default() += 1;
            }
        }
    });
    let shown: Vec<String> = found.iter().map(|(secret, count)| format!("{count} {secret}")).collect();
    expect![[r#"
        17 authorization REDACTED
        18 env dummy-demo-key-123
        7 env dummy-not-a-secret-0123456789
        2 request-state v1.MnagHSb7WNu-VvWBZ4AYmszXbdARe1kqZasQehIeG5_BIz40N_BOGzpFFh1GFpYjL1ZKUBhYb6hds7_mVTe4xnUILFrQC7XE44dlaV-18nvyYqFQp3jlRckX7iOXSTandeURGBoPjRthpHSZ37YFTo6iEkAqdlc7BrApjTGtXrcpH8rWU3XYvuw6ftyNSJQjXuKOkbqBts69Lllciou1VWYWkzXsRRwzI-F0fBbO3PO3N0Mh7HULxYvf5qgsw9C7JyC0GYiLMHTGPnfgWCS93XMSB_tSd8b-51cbgOAw_pZ-z0eDPkGOKbOBpwUbiz-8UFZTf2S_WclNF-Fkfno4
        2 request-state v1.MnagHXEnv45CVBfDYO3SqvRudpQRQ8Lcv0FDPFsuBhQVnHqxxBrghoVTDGVEBnaFSJHpG8lZ_peoQBOPM875dnyOI4dMTESVAYmC4WSKa2vfwtQ5yV4RO8IS38RCop6CQdPCxsepedAvOzPHUOGdm83or3MjUqsh7cNDyHnmCJc9mQ-EOmCfvmz4TVMwuiei64AdjQi3HvjcDSvxWS6oZWLR4CBHo2xX0C3Y6xJpn2AtkYWIacQm_7uiVU9NfsoKvOaTO_1lBaXx31HWSaYlFqieKOAwD_Z8nmSOitBRpNWoqChUf9N11RL0Gsx2QOmd0sPLoRbFy8rIS7-TKdP1xEs8XE0"#]]
    .assert_eq(&shown.join("\n"));
}

fn for_each_file(folder: &std::path::Path, each: &mut dyn FnMut(&[u8], bool)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_file(&path, each);
        } else {
            each(&std::fs::read(&path).unwrap(), path.extension().is_some_and(|name| name == "jsonl"));
        }
    }
}

proptest::proptest! {
    #[test]
    fn json_stays_json(parts in proptest::collection::vec("(A_KEY=|password|\"|\\\\|:|,|[{}\\[\\]]|Bearer 12345678|abc1|\n)", 0..30)) {
        let text = serde_json::json!({ "a": parts.concat(), "password": parts.concat(), "b": [parts.concat()] }).to_string();
        let mut record = Record::new("t", "own:1", Kind::Log);
        record.text = Some(text);
        redactor().redact(&mut record);
        let shown = record.text.unwrap();
        proptest::prop_assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok(), "{}", shown);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let mut record = Record::new("t", "own:1", Kind::Log);
        record.raw = Some([b"\"password\":\"", &bytes[..], b"authorization\x12\x05\x0a"].concat());
        redactor().redact(&mut record);
    }
}

#[test]
fn what_a_server_lets_a_client_carry_is_not_kept_in_the_clear() {
    check(
        r#"{"params":{"requestState":"v1.c2VjcmV0","name":"x"}}"#,
        expect![[r#"{"params":{"requestState":"[redacted:request-state:00da]","name":"x"}}"#]],
    );
    check(
        r#"line {\"requestState\":\"v1.c2VjcmV0\"} more"#,
        expect![[r#"line {\"requestState\":\"[redacted:request-state:00da]\"} more"#]],
    );
    let config = RedactConfig { off: vec!["request-state".into()], ..RedactConfig::default() };
    let mut record = Record::new("t", "own:1", Kind::Log);
    record.text = Some(r#"{"requestState":"v1.c2VjcmV0"}"#.into());
    assert_eq!(Redactor::new(MatchKey::new([7; 32]), &config).unwrap().redact(&mut record), 0);
}
