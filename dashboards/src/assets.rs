//! Style sheet, modules and icon, inside the binary; addressed by content, so that browsers may keep
//! them for ever and never mix versions.

use std::borrow::Cow;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::text::Href;

/// One embedded file.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Its address: name with digest.
    pub(crate) href: Href,
    file: String,
    media_type: &'static str,
    bytes: Cow<'static, [u8]>,
}

/// Everything pages refer to.
#[derive(Debug)]
pub(crate) struct Assets {
    /// The style sheet.
    pub(crate) css: Asset,
    /// The module of every page.
    pub(crate) page: Asset,
    /// The module of the session page.
    pub(crate) timeline: Asset,
    /// The icon.
    pub(crate) icon: Asset,
}

/// The embedded files.
pub(crate) static ASSETS: LazyLock<Assets> = LazyLock::new(|| {
    const MODULE: &str = "text/javascript; charset=utf-8";
    let page = asset("page", "js", MODULE, Cow::Borrowed(include_bytes!("../assets/page.js")));
    // One module imports the other: by the name under which it is served.
    let timeline = include_str!("../assets/timeline.js").replacen("./page.js", &format!("./{}", page.file), 1);
    Assets {
        css: asset("app", "css", "text/css; charset=utf-8", Cow::Borrowed(include_bytes!("../assets/app.css"))),
        timeline: asset("timeline", "js", MODULE, Cow::Owned(timeline.into_bytes())),
        page,
        icon: asset("icon", "svg", "image/svg+xml", Cow::Borrowed(include_bytes!("../assets/icon.svg"))),
    }
});

fn asset(name: &str, extension: &str, media_type: &'static str, bytes: Cow<'static, [u8]>) -> Asset {
    let digest = hex::encode(Sha256::digest(&bytes));
    let file = format!("{name}.{}.{extension}", &digest[..16]);
    Asset { href: Href::to(&["assets", &file]), file, media_type, bytes }
}

/// `GET /assets/{file}`
pub(crate) async fn serve(Path(file): Path<String>) -> Response {
    let all = [&ASSETS.css, &ASSETS.page, &ASSETS.timeline, &ASSETS.icon];
    match all.into_iter().find(|asset| asset.file == file) {
        Some(asset) => (
            [(header::CONTENT_TYPE, asset.media_type), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")],
            &asset.bytes[..],
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds() {
        assert!(ASSETS.css.bytes.len() <= 15 << 10, "CSS is {} bytes", ASSETS.css.bytes.len());
        let js = ASSETS.page.bytes.len() + ASSETS.timeline.bytes.len();
        assert!(js <= 60 << 10, "JavaScript is {js} bytes");
    }

    #[test]
    fn modules_import_what_is_served() {
        let source = std::str::from_utf8(&ASSETS.timeline.bytes).unwrap();
        assert!(source.contains(&format!("from \"./{}\"", ASSETS.page.file)));
    }

    #[test]
    fn modules_never_turn_text_into_markup_or_code() {
        for asset in [&ASSETS.page, &ASSETS.timeline] {
            let source = std::str::from_utf8(&asset.bytes).unwrap();
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "DOMParser",
                ".srcdoc",
            ] {
                assert!(!source.contains(sink), "{} uses {sink}", asset.file);
            }
        }
    }
}
