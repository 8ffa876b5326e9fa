//! Patterns with two wild cards: the globs of targets, and SQL's LIKE.

/// Whether a pattern fits a whole text. `any` stands for any text, `one` for one character, all else for itself. Without
/// recursion: a pattern full of `any` costs at most pattern times text.
pub(crate) fn fits(pattern: &str, text: &str, (any, one): (char, char)) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // The last `any`, and where the text that it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(c) if *c == any => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == one || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, end)) => {
                    *end += 1;
                    p = *at + 1;
                    t = *end;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fits;

    const GLOB: (char, char) = ('*', '?');

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("train*", "train[lr=0.1]", true),
            ("*[lr=0.1]", "train[lr=0.1]", true),
            ("t?ain", "train", true),
            ("*a*b*", "xaybz", true),
            ("*a*b", "xaybz", false),
            ("train", "trains", false),
            ("", "", true),
            ("*", "", true),
            ("%", "x", false),
        ] {
            assert_eq!(fits(pattern, text, GLOB), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_wild_cards_cost_little() {
        assert!(!fits(&"%a".repeat(200), &"a".repeat(199), ('%', '_')));
    }

    proptest! {
        #[test]
        fn a_text_with_stars_in_it_fits_itself(parts in prop::collection::vec("[ab]{0,3}", 1..5)) {
            prop_assert!(fits(&parts.join("*"), &parts.concat(), GLOB));
        }
    }
}
