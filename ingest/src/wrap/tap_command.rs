//! The command line that puts a tap before a server, and how it is recognised.

use std::path::PathBuf;

use super::{WrapError, WrapOptions};

/// Where the tap sends what it records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A data directory.
    Data(PathBuf),
    /// A running server.
    Url(String),
}

/// The arguments that go before the old command of the server called `name`, up to and with `--`.
pub(super) fn tap_arguments(name: &str, options: &WrapOptions) -> Result<Vec<String>, WrapError> {
    let mut arguments = vec!["tap".to_owned()];
    match &options.destination {
        Destination::Data(directory) => arguments.extend(["--data".into(), absolute(directory)?]),
        Destination::Url(url) => arguments.extend(["--to".into(), url.clone()]),
    }
    if name.starts_with('-') {
        arguments.push(format!("--server-name={name}"));
    } else {
        arguments.extend(["--server-name".into(), name.into()]);
    }
    arguments.push("--".into());
    Ok(arguments)
}

/// The program that the entry will name.
pub(super) fn executable(options: &WrapOptions) -> Result<String, WrapError> {
    absolute(&options.executable)
}

/// How many of a wrapped entry's arguments are ours: those up to and with `--`. `None` for an entry that is not wrapped.
///
/// Recognised by shape, whatever the program is called: it may have been moved or renamed since.
pub(super) fn own_arguments(arguments: &[String]) -> Option<usize> {
    let end = arguments.iter().position(|argument| argument == "--")?;
    let ours = &arguments[..end];
    let has = |name: &str| ours.iter().any(|argument| argument == name || argument.starts_with(&format!("{name}=")));
    let is_tap = ours.first()? == "tap" && has("--server-name") && (has("--data") || has("--to"));
    (is_tap && arguments.len() > end + 1).then_some(end + 1)
}

/// A host starts servers in folders of its own choice, so paths must not depend on ours.
fn absolute(path: &std::path::Path) -> Result<String, WrapError> {
    let absolute = std::path::absolute(path).map_err(|source| WrapError::Read { path: path.into(), source })?;
    absolute.into_os_string().into_string().map_err(|path| WrapError::NotUnicode { path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_its_own() {
        let options = WrapOptions {
            executable: "/bin/threadline".into(),
            destination: Destination::Data("/data".into()),
            otlp_endpoint: None,
        };
        for name in ["orders", "-odd", ""] {
            let mut arguments = tap_arguments(name, &options).unwrap();
            let own = arguments.len();
            assert_eq!(own_arguments(&arguments), None, "no server behind it");
            arguments.extend(["node".into(), "--".into(), "x".into()]);
            assert_eq!(own_arguments(&arguments), Some(own));
        }
        let foreign = ["tap", "--port", "1", "--", "x"].map(String::from);
        assert_eq!(own_arguments(&foreign), None);
    }
}
