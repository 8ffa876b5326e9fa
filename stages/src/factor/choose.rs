//! Layers by name.

use glob::Pattern;

/// A pattern that names no layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// It is none.
    #[error("`{pattern}` is not a pattern: {why}")]
    NotAPattern {
        /// As written.
        pattern: String,
        /// What the parser says.
        why: String,
    },
    /// No layer has such a name.
    #[error("no layer is named `{pattern}`")]
    Unmatched {
        /// As written.
        pattern: String,
        /// The layers whose names are nearest, the nearest first.
        nearest: Vec<String>,
        /// Layers in all.
        layers: usize,
    },
}

impl ChooseError {
    /// What to write instead.
    #[must_use]
    pub fn help(&self) -> String {
        match self {
            Self::NotAPattern { .. } => "write * and ? for the wild cards".to_owned(),
            Self::Unmatched { nearest, layers, .. } if !nearest.is_empty() => {
                let names: Vec<String> = nearest.iter().map(|name| format!("`{name}`")).collect();
                format!("the nearest of its {layers} are {}", names.join(", "))
            }
            Self::Unmatched { .. } => "the model has no layer that can be factorised".to_owned(),
        }
    }
}

/// Which of these names each pattern (with `*` and `?`) matches, as indices.
///
/// # Errors
/// When something is no pattern, or one matches nothing.
pub fn choose(pattern: &str, names: &[&str]) -> Result<Vec<usize>, ChooseError> {
    let parsed = Pattern::new(pattern)
        .map_err(|error| ChooseError::NotAPattern { pattern: pattern.to_owned(), why: error.to_string() })?;
    let found: Vec<usize> = (0..names.len()).filter(|index| parsed.matches(names[*index])).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut nearest: Vec<(f64, &str)> =
        names.iter().map(|name| (strsim::normalized_damerau_levenshtein(pattern, name), *name)).collect();
    nearest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let nearest = nearest.iter().take(3).map(|(_, name)| (*name).to_owned()).collect();
    Err(ChooseError::Unmatched { pattern: pattern.to_owned(), nearest, layers: names.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "fc"];

    #[test]
    fn patterns_match_names() {
        assert_eq!(choose("layer1.*", NAMES).unwrap(), [0, 1]);
        assert_eq!(choose("fc", NAMES).unwrap(), [3]);
    }

    #[test]
    fn a_name_that_matches_nothing_comes_with_the_nearest() {
        let error = choose("layer2.0.conv3", NAMES).unwrap_err();
        assert_eq!(error.to_string(), "no layer is named `layer2.0.conv3`");
        assert_eq!(error.help(), "the nearest of its 4 are `layer2.0.conv1`, `layer1.0.conv1`, `layer1.0.conv2`");
        assert_eq!(choose("[", NAMES).unwrap_err().help(), "write * and ? for the wild cards");
        assert!(choose("x", &[]).unwrap_err().help().contains("no layer that can"));
    }
}
