//! The profiles that are known: those shipped in the binary, and the user's own in front of them.
//!
//! Invariants
//! - names are unique; a profile of the user's with a shipped name takes its place
//! - shipped profiles are valid (a test loads every one)

use std::sync::{Arc, LazyLock};

use include_dir::{Dir, include_dir};

use super::{Profile, ProfileError};

static SHIPPED_FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/sources");

static SHIPPED: LazyLock<Arc<Catalogue>> = LazyLock::new(|| {
    let files = SHIPPED_FILES.files().filter(|file| file.path().extension().is_some_and(|end| end == "toml"));
    let texts = files.filter_map(|file| Some((file.path().display().to_string(), file.contents_utf8()?)));
    // Each is loaded by a test; one that were broken all the same must not stop the others.
    let profiles = texts.filter_map(|(_, text)| Profile::parse(text).ok().map(Arc::new)).collect();
    Arc::new(Catalogue { profiles, own: 0 })
});

/// Why a profile cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The file is not a profile.
    #[error("profile {file} cannot be used")]
    Profile {
        /// As it was named.
        file: String,
        /// Where and what.
        source: ProfileError,
    },
    /// Two files of the user's describe a profile of one name.
    #[error("profile {file}: the name {name} is taken by another file")]
    Twice {
        /// As it was named.
        file: String,
        /// The name.
        name: String,
    },
    /// The name is that of a built-in decoder.
    #[error("profile {file}: the name {name} is that of a built-in decoder")]
    BuiltIn {
        /// As it was named.
        file: String,
        /// The name.
        name: String,
    },
}

/// Profiles by name.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// The user's own first.
    profiles: Vec<Arc<Profile>>,
    own: usize,
}

impl Catalogue {
    /// The profiles in the binary.
    pub fn shipped() -> Arc<Catalogue> {
        SHIPPED.clone()
    }

    /// The files of the shipped profiles: name and text, in order of name.
    pub fn shipped_files() -> Vec<(String, &'static str)> {
        let mut files: Vec<(String, &'static str)> = SHIPPED_FILES
            .files()
            .filter(|file| file.path().extension().is_some_and(|end| end == "toml"))
            .filter_map(|file| Some((file.path().display().to_string(), file.contents_utf8()?)))
            .collect();
        files.sort();
        files
    }

    /// The same with a profile of the user's in front.
    ///
    /// # Errors
    /// When the text is no profile or its name is taken by another text.
    pub fn with(&self, file: &str, text: &str) -> Result<Catalogue, CatalogueError> {
        let profile = Profile::parse(text).map_err(|source| CatalogueError::Profile { file: file.into(), source })?;
        let name = profile.name().to_string();
        if crate::decode::recognise::Format::is_built_in(&name) {
            return Err(CatalogueError::BuiltIn { file: file.into(), name });
        }
        match self.profiles[..self.own].iter().find(|own| own.name() == name) {
            // A copy of the file.
            Some(own) if own.digest() == profile.digest() => return Ok(self.clone()),
            Some(_) => return Err(CatalogueError::Twice { file: file.into(), name }),
            None => {}
        }
        let mut profiles = self.profiles.clone();
        profiles.retain(|known| known.name() != name);
        profiles.insert(self.own, Arc::new(profile));
        Ok(Catalogue { profiles, own: self.own + 1 })
    }

    /// The profile of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Profile>> {
        self.profiles.iter().find(|profile| profile.name() == name)
    }

    /// All of them, the user's own first.
    pub fn profiles(&self) -> &[Arc<Profile>] {
        &self.profiles
    }

    /// Whether a profile is the user's.
    pub fn is_own(&self, name: &str) -> bool {
        self.profiles[..self.own].iter().any(|own| own.name() == name)
    }
}
