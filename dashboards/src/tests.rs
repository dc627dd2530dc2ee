//! The pages as a browser gets them: inert whatever a source said, complete without JavaScript.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use expect_test::expect_file;
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::fixture::{Fixture, Flavour, HOSTILE};
use crate::headers::CONTENT_SECURITY_POLICY;
use crate::router;

const EVENT: &str = "/events/0193a1f0-7c21-8b3e-9d42-000000000071";
const SESSION: &str = "/sessions/conversation-309daf42-f826-415e-8b8f-6414e473e49e";

async fn get(flavour: Flavour, path: &str) -> (StatusCode, HeaderMap, String) {
    let app: Router = router(Fixture(flavour));
    let answer = app.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, String::from_utf8_lossy(&bytes).into_owned())
}

fn pages() -> Vec<String> {
    let mut pages: Vec<String> = [
        "/",
        "/sessions",
        "/sessions?tool=refund&outcome=error",
        "/sessions?from=yesterday",
        "/sources",
        "/forward",
        "/help",
        "/search",
        "/search?q=.env+file",
        "/search?q=no+such+words",
        "/nowhere",
        "/sessions/unknown",
        "/events/unknown",
    ]
    .map(String::from)
    .to_vec();
    for query in ["", "?open=all", "?open=toolu_fake000800-0", "?view=conversation", "?via=toolu_fake000800"] {
        pages.push(format!("{SESSION}{query}"));
    }
    for tab in ["summary", "json", "raw", "links"] {
        pages.push(format!("{EVENT}?tab={tab}"));
    }
    pages
}

/// Hostile search words too, as an attacker's link would bring them.
fn hostile_pages() -> Vec<String> {
    let mut pages = pages();
    let word = crate::text::Href::search(HOSTILE);
    pages.push(word.as_str().to_string());
    pages.push(word.with("as", "text").with("from", HOSTILE).as_str().to_string());
    pages.push(crate::text::Href::to(&["sessions"]).with("user", HOSTILE).with("from", HOSTILE).as_str().to_string());
    pages.push(crate::text::Href::to(&["nowhere", HOSTILE]).as_str().to_string());
    pages.push(
        crate::text::Href::session("x")
            .with("via", HOSTILE)
            .with("open", HOSTILE)
            .with("at", HOSTILE)
            .as_str()
            .to_string(),
    );
    pages
}

/// The tags of a page, each with its attributes, by a strict reading: `<` always opens a tag.
fn tags(html: &str) -> Vec<&str> {
    html.split('<').skip(1).map(|rest| rest.split_once('>').map_or(rest, |(tag, _)| tag)).collect()
}

#[tokio::test]
async fn hostile_text_in_every_field_is_inert() {
    for path in hostile_pages() {
        let (status, _, html) = get(Flavour::Hostile, &path).await;
        if status.is_redirection() {
            continue;
        }
        assert!(html.starts_with("<!doctype html>"), "{path}");
        for c in html.chars() {
            assert!(c == '\n' || !c.is_control(), "{path} holds {c:?}");
            assert!(
                !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}'),
                "{path} holds {c:?}"
            );
        }
        assert!(!html.contains("<script>"), "{path}");
        assert!(!html.contains("<img"), "{path}");
        // Inert because it is shown, not because it is left out.
        let shows = path == "/" || path.starts_with(SESSION) || path.starts_with(EVENT);
        assert!(!shows || html.contains("&lt;script&gt;alert(1)"), "{path} leaves the hostile text out");
        check_markup(&path, &html);
    }
}

/// No inline script, style or handler; every tag is one of ours; links stay on this origin.
fn check_markup(path: &str, html: &str) {
    let known: BTreeSet<&str> = "!doctype html head meta title link script body a header nav form label input button main h1 h2 p b i span div code pre bdi dl dt dd ol ul li table thead tbody tr th td abbr select option datalist time figure figcaption blockquote details summary section svg path rect kbd mark small noscript".split(' ').collect();
    for tag in tags(html) {
        // Names only: what stands between quotation marks is a value, and values hold no quotation mark.
        let bare: String = tag.split('"').step_by(2).collect();
        let mut words = bare.split([' ', '\n', '/']).filter(|word| !word.is_empty());
        let name = words.next().unwrap_or_default();
        assert!(known.contains(name), "{path}: <{tag}>");
        for attribute in words {
            assert!(!attribute.starts_with("on"), "{path}: handler in <{tag}>");
            assert!(!attribute.starts_with("style"), "{path}: inline style in <{tag}>");
        }
        for name in ["href=\"", "action=\"", "src=\""] {
            for value in tag.split(name).skip(1) {
                assert!(
                    value.starts_with('/') && !value.starts_with("//") || value.starts_with('#'),
                    "{path}: <{tag}>"
                );
            }
        }
        assert!(name != "script" || tag.starts_with('/') || tag.contains(" src=\"/assets/"), "{path}: <{tag}>");
    }
}

#[tokio::test]
async fn every_page_stands_without_javascript() {
    for flavour in [Flavour::Plain, Flavour::Empty, Flavour::Partial] {
        for path in pages() {
            let (status, headers, html) = get(flavour, &path).await;
            assert!(!status.is_server_error(), "{path}: {status}");
            if status.is_redirection() {
                continue;
            }
            assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8", "{path}");
            assert_eq!(html.matches("<h1").count(), 1, "{path} has one heading");
            assert!(html.contains("class=\"strip"), "{path} says what it covers");
            assert!(html.contains("class=\"skip\"") && html.contains("lang=\"en\""), "{path}");
            check_markup(&path, &html);
            let mut ids: Vec<&str> = html.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(all, ids.len(), "{path}: an id stands twice");
            for tag in tags(&html).iter().filter(|tag| tag.starts_with("label") && tag.contains("for=\"")) {
                let target = tag.split("for=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
                assert!(ids.binary_search(&target).is_ok(), "{path}: label for {target} has no field");
            }
        }
    }
}

#[tokio::test]
async fn the_policy_stands_on_everything() {
    let mut all = hostile_pages();
    all.extend([
        format!("{EVENT}/raw"),
        format!("{EVENT}/json"),
        format!("{SESSION}/skeleton"),
        "/assets/none.css".into(),
        "/favicon.ico".into(),
        "/sessions/%ff".into(),
        crate::assets::ASSETS.css.href.to_string(),
    ]);
    for path in all {
        let (_, headers, _) = get(Flavour::Plain, &path).await;
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy == CONTENT_SECURITY_POLICY || policy.contains("sandbox"), "{path}: {policy}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer", "{path}");
        assert_eq!(headers["cross-origin-opener-policy"], "same-origin", "{path}");
    }
}

#[tokio::test]
async fn downloads_are_the_exact_bytes_and_never_open() {
    let (_, headers, _) = get(Flavour::Plain, &format!("{EVENT}/raw")).await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
    assert_eq!(
        headers[header::CONTENT_DISPOSITION],
        "attachment; filename=\"event-0193a1f0-7c21-8b3e-9d42-000000000071.bin\""
    );
    let app = router(Fixture(Flavour::Plain));
    let answer = app.oneshot(Request::get(format!("{EVENT}/raw")).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), crate::fixture::RAW);
    let (_, headers, json) = get(Flavour::Hostile, "/events/%22%0d%0a%3b/json").await;
    assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment; filename=\"event-.json\"");
    assert!(!json.chars().any(|c| c != '\n' && c.is_control()));
    assert!(serde_json::from_str::<threadline_query::model::Event>(&json).is_ok(), "still the same JSON");
}

#[tokio::test]
async fn an_id_in_the_box_leads_to_what_it_names() {
    let location = async |q: &str| {
        let (status, headers, _) = get(Flavour::Plain, &format!("/search?q={q}")).await;
        (status.as_u16(), headers.get(header::LOCATION).map(|value| value.to_str().unwrap().to_string()))
    };
    assert_eq!(location("0193a1f0-7c21-8b3e-9d42-000000000071").await, (303, Some(EVENT.into())));
    assert_eq!(location("toolu_fake000800").await, (303, Some(format!("{SESSION}?via=toolu_fake000800"))));
    assert_eq!(location("conversation-309daf42-f826-415e-8b8f-6414e473e49e").await, (303, Some(SESSION.into())));
    assert_eq!(location("toolu_fake000800&as=text").await, (200, None));
    assert_eq!(location("neither").await, (200, None));
    let (status, headers, _) = get(Flavour::Plain, "/sessions/309daf42-f826-415e-8b8f-6414e473e49e").await;
    assert_eq!(status.as_u16(), 303, "any id of a session leads to its one address");
    assert_eq!(headers[header::LOCATION], format!("{SESSION}?via=309daf42-f826-415e-8b8f-6414e473e49e"));
    let (_, headers, _) = get(Flavour::Plain, "/sessions/309daf42-f826-415e-8b8f-6414e473e49e?view=conversation").await;
    let kept = format!("{SESSION}?view=conversation&via=309daf42-f826-415e-8b8f-6414e473e49e");
    assert_eq!(headers[header::LOCATION], kept, "what was to be shown of it stays");
}

#[tokio::test]
async fn a_partial_answer_says_so_on_its_page() {
    let (_, _, html) = get(Flavour::Partial, SESSION).await;
    for words in ["△ partial", "240 rows left out", "budget of 2 s", "silent: gateway since 10:02"] {
        assert!(html.contains(words), "{words}");
    }
    let (_, _, html) = get(Flavour::Partial, "/sessions?tool=x").await;
    assert!(html.contains("/sessions?tool=x&amp;cursor=c3RlcA%3D%3D"), "the next page keeps the filter");
}

#[tokio::test]
async fn errors_are_pages_that_say_what_was_tried() {
    let (status, _, html) = get(Flavour::Plain, "/events/unknown").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(html.contains("unknown</bdi> as the id of a record"));
    assert!(html.contains("/search?q=unknown&amp;as=text"));
    let (status, _, html) = get(Flavour::Plain, "/sessions?from=yesterday").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(html.contains("Nothing was searched"));
}

#[tokio::test]
async fn rows_open_by_address() {
    let hidden =
        |html: &str| tags(html).iter().filter(|tag| tag.contains("role=\"row\"") && tag.contains(" hidden")).count();
    let (_, _, closed) = get(Flavour::Plain, SESSION).await;
    let (_, _, one) = get(Flavour::Plain, &format!("{SESSION}?open=toolu_fake000800-0")).await;
    let (_, _, all) = get(Flavour::Plain, &format!("{SESSION}?open=all")).await;
    assert!(hidden(&closed) > hidden(&one) && hidden(&one) > 0, "{} {}", hidden(&closed), hidden(&one));
    assert_eq!(hidden(&all), 0);
    let (_, _, at) = get(Flavour::Plain, &format!("{SESSION}?at=0193a1f0-7c21-8b3e-9d42-000000000323")).await;
    let row = tags(&at).into_iter().find(|tag| tag.contains(" id=\"e-0193a1f0-7c21-8b3e-9d42-000000000323\"")).unwrap();
    assert!(row.contains("aria-selected=\"true\"") && !row.contains(" hidden"), "{row}");
}

#[tokio::test]
async fn a_long_session_is_a_window_of_rows_and_a_skeleton() {
    let (_, _, html) = get(Flavour::Plain, "/sessions/long-2500").await;
    let rows = html.matches("role=\"row\"").count();
    assert!(rows <= crate::pages::session::ROWS_MAX + 1, "{rows} rows");
    assert!(html.contains("row=2000") && html.contains("data-skeleton=\"/sessions/long-2500/skeleton\""));
    let (_, _, later) = get(Flavour::Plain, "/sessions/long-2500?row=2000").await;
    assert!(later.contains("rows 2,001 to 2,501 of 2,501"));
    let (_, headers, json) = get(Flavour::Plain, "/sessions/long-2500/skeleton").await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    let skeleton: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows = skeleton["at"].as_array().unwrap().len();
    assert_eq!(rows, 1 + 2_500 * 9);
    for (name, column) in skeleton.as_object().unwrap() {
        let vocabulary = matches!(name.as_str(), "lanes" | "outcomes" | "grades" | "length" | "texts");
        assert!(vocabulary || column.as_array().unwrap().len() == rows, "{name}");
    }
    assert!(json.len() < 150 * rows, "{} bytes for {rows} rows", json.len());
}

#[tokio::test]
async fn the_skeleton_holds_visible_text_only() {
    let (_, _, json) = get(Flavour::Hostile, "/sessions/x/skeleton").await;
    let skeleton: serde_json::Value = serde_json::from_str(&json).unwrap();
    let texts: Vec<&str> = skeleton["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(texts.iter().any(|text| text.contains("␛[31m⟨U+202E⟩")));
    assert!(!texts.iter().any(|text| text.chars().any(char::is_control)));
}

/// Text of a page in reading order, a line per element that holds any.
fn outline(html: &str) -> String {
    let mut out = String::new();
    for part in html.split('<').skip(1) {
        let Some((tag, text)) = part.split_once('>') else { continue };
        let name = tag.split([' ', '\n']).next().unwrap_or_default();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if matches!(name, "h1" | "h2" | "tr" | "li" | "section" | "nav" | "main" | "dl" | "figure")
            || tag.contains("role=\"row\"")
        {
            out.push_str(&format!("\n{name}{}: ", if tag.contains(" hidden") { " (closed)" } else { "" }));
        }
        if !text.is_empty() {
            out.push_str(&text);
            out.push(' ');
        }
    }
    out.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn outline_of_the_session_page() {
    let (_, _, html) = get(Flavour::Plain, &format!("{SESSION}?open=toolu_fake000800-0")).await;
    expect_file!["../goldens/session_outline.txt"].assert_eq(&outline(&html));
}

#[test]
fn templates_and_views_cannot_bypass_the_escaping() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |dir: &str| {
        let files = std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.is_file())
            .map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap()))
            .collect::<Vec<_>>()
    };
    for (path, template) in read("templates") {
        for forbidden in
            ["|safe", "| safe", "|escape", "| escape", "{% filter", "style=", "<style", "javascript:", "onclick"]
        {
            assert!(!template.contains(forbidden), "{path} holds {forbidden}");
        }
        assert!(path.ends_with(".html"), "{path}: only .html is escaped by the module");
    }
    // Structs that templates read hold no String: text reaches them as Shown or Href.
    let views = read("src/pages").into_iter().chain(
        read("src")
            .into_iter()
            .filter(|(path, _)| ["chrome.rs", "tree.rs", "words.rs"].iter().any(|name| path.ends_with(name))),
    );
    for (path, source) in views {
        let mut inside = false;
        for line in source.lines() {
            inside = if line.contains("struct ") && line.ends_with('{') {
                !line.contains("Builder")
            } else {
                inside && line != "}"
            };
            assert!(!(inside && line.contains("String")), "{path}: raw text in a view: {line}");
        }
    }
}

#[test]
fn colours_keep_their_contrast_in_both_themes() {
    let css = include_str!("../assets/app.css");
    let themes = css
        .match_indices(":root")
        .filter(|(at, _)| css[*at..].split_once('}').is_some_and(|(rule, _)| rule.contains("--bg:")));
    let themes: Vec<Vec<(&str, &str)>> = themes
        .map(|(at, _)| {
            let rule = css[at..].split_once('{').unwrap().1.split_once('}').unwrap().0;
            rule.split(';')
                .filter_map(|pair| pair.strip_prefix("--")?.split_once(':'))
                .filter(|(_, v)| v.starts_with('#'))
                .collect()
        })
        .collect();
    assert_eq!(themes.len(), 3, "light, dark by choice, dark by system");
    assert_eq!(themes[1], themes[2], "dark is dark either way");
    for theme in &themes {
        let colour = |name: &str| theme.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no {name}")).1;
        for surface in ["bg", "sf", "sf2"] {
            for text in
                ["tx", "mu", "ac", "ok", "warn", "bad", "user", "host", "wire", "gateway", "server", "downstream"]
            {
                let ratio = contrast(colour(text), colour(surface));
                assert!(ratio >= 4.5, "{text} on {surface}: {ratio:.2}");
            }
            let ratio = contrast(colour("ctl"), colour(surface));
            assert!(ratio >= 3.0, "ctl on {surface}: {ratio:.2}");
        }
    }
}

/// WCAG contrast of two `#rgb` or `#rrggbb` colours.
fn contrast(a: &str, b: &str) -> f64 {
    let luminance = |hex: &str| {
        let hex = hex.trim_start_matches('#');
        let digits: String = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex.into() };
        let part = |i: usize| {
            let c = f64::from(u8::from_str_radix(&digits[i..i + 2], 16).unwrap()) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4)
    };
    let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
    a.max(b) / a.min(b)
}
