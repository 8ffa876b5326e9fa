//! The passes from text to one merged table, in their order: `extends`, the profile, `--set` and `--matrix`,
//! `${params.x}`, defaults. Each works on spanned tables and knows nothing of stages; taking stages apart and expanding
//! sweeps come after.

use std::collections::HashSet;

use super::{Manifest, defaults, extends, overrides, params, profile, read, rebase, stem};
use crate::diagnostic::{Diagnostic, Sources};
use crate::value::{Span, Table};

/// Errors and warnings that are handed out of one manifest.
const MAX_FOUND: usize = 100;

/// Gives the text of a file that a manifest extends, or says in words why it cannot. The path is relative to the same
/// folder as the name of the manifest that was loaded.
pub type Loader<'a> = &'a dyn Fn(&str) -> Result<String, String>;

/// The places of a kind's parameters that name files, keys from the outside in, `*` for any key.
pub type PathParams<'a> = &'a dyn Fn(&str) -> Vec<PathParam>;

/// A parameter that names files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathParam {
    /// Keys from the outside in, `*` for the names of a map.
    pub keys: Vec<String>,
    /// The names of the files count, and not only what is in them.
    pub named: bool,
}

/// What the caller chooses beside the text of the manifest.
#[derive(Clone, Copy, Default)]
pub struct Load<'a> {
    /// The profile to lay over the manifest.
    pub profile: Option<&'a str>,
    /// `stages.train.lr=0.01`: the value is TOML, or else text.
    pub set: &'a [String],
    /// `train.lr=[0.1, 0.01]`: an axis of a stage's matrix.
    pub matrix: &'a [String],
    /// Reads the files that a manifest extends; without it, `extends` is an error.
    pub loader: Option<Loader<'a>>,
    /// The stage kinds that there are; empty where nobody knows them. Defaults of others are errors.
    pub kinds: &'a [&'a str],
    /// Knows which parameters are paths; without it, paths in a manifest that is extended stay as they are.
    pub paths: Option<PathParams<'a>>,
}

impl Manifest {
    /// Reads one text, which gets a place in `sources` under `name`. Warnings come with the manifest.
    ///
    /// # Errors
    /// Everything that is wrong with the text, codes `manifest::...`.
    pub fn parse(sources: &mut Sources, name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::load(sources, name, text, &Load::default())
    }

    /// Reads one text together with what it extends and what the command line changes. `name` is the path of the
    /// manifest, which the paths in `extends` are relative to.
    ///
    /// # Errors
    /// Everything that is wrong, codes `manifest::...`.
    pub fn load(
        sources: &mut Sources,
        name: &str,
        text: &str,
        options: &Load<'_>,
    ) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut found = Vec::new();
        let manifest = resolve(sources, name, text, options, &mut found).map(|(table, whole, unresolved)| {
            let manifest = read::manifest(table, stem(name), whole, &mut found);
            drop_consequences(&mut found, &unresolved);
            manifest
        });
        limit(&mut found);
        match manifest {
            Some(manifest) if !found.iter().any(Diagnostic::is_error) => Ok((manifest, found)),
            _ => Err(found),
        }
    }
}

/// The merged table of a manifest that has no errors.
pub(super) fn merged(
    sources: &mut Sources,
    name: &str,
    text: &str,
    options: &Load<'_>,
) -> Result<Table, Vec<Diagnostic>> {
    Manifest::load(sources, name, text, options)?;
    let mut found = Vec::new();
    resolve(sources, name, text, options, &mut found).map(|(table, ..)| table).ok_or(found)
}

/// The merged table, the span of the whole text, and the places that could not be resolved.
fn resolve(
    sources: &mut Sources,
    name: &str,
    text: &str,
    options: &Load<'_>,
    found: &mut Vec<Diagnostic>,
) -> Option<(Table, Span, Vec<Span>)> {
    let (mut table, whole) = extends::load(sources, name, text, options.loader, found)?;
    let bases = whole.source + 1..=u16::try_from(sources.len().saturating_sub(1)).unwrap_or(u16::MAX);
    if table.entries.is_empty() {
        let error = Diagnostic::error("manifest::empty", "the manifest is empty").label(Span { end: 0, ..whole }, "");
        found.push(error.help("`sepia new NAME` writes a manifest to start from"));
        return None;
    }
    profile::apply(&mut table, options.profile, found);
    let ended = overrides::set(sources, &mut table, options.set, found);
    let begun = overrides::matrix(sources, &mut table, options.matrix, found);
    let unresolved = params::apply(&mut table, found);
    defaults::apply(&mut table, options.kinds, found);
    overrides::end_defaults(&mut table, &ended, &begun);
    if let Some(paths) = options.paths {
        rebase::apply(&mut table, sources, name, bases, paths);
    }
    Some((table, whole, unresolved))
}

/// Keeps the first errors, and warnings where there is room: nobody reads ten thousand.
fn limit(found: &mut Vec<Diagnostic>) {
    let Some(more) = found.len().checked_sub(MAX_FOUND).filter(|more| *more > 0) else { return };
    found.sort_by_key(|one| (one.severity, one.labels.first().map(|label| label.span)));
    found.truncate(MAX_FOUND);
    let message = format!("{more} more errors and warnings of this manifest are not shown");
    found.push(if found.iter().any(Diagnostic::is_error) {
        Diagnostic::error("manifest::more", message).help("correct these first")
    } else {
        Diagnostic::warning("manifest::more", message)
    });
}

/// Where `${params.x}` has no value, the text that stays is not wrong a second time for not being a number.
fn drop_consequences(found: &mut Vec<Diagnostic>, unresolved: &[Span]) {
    let unresolved: HashSet<Span> = unresolved.iter().copied().collect();
    found.retain(|one| {
        one.code.starts_with("manifest::param") || !one.labels.iter().any(|label| unresolved.contains(&label.span))
    });
}

#[cfg(test)]
mod tests;
