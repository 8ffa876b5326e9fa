//! `stage`, `stage.port`, `stage[label,key=*,*]`, `stage[*].port`.

/// A reference, taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Reference<'a> {
    pub(super) stage: &'a str,
    /// What stands between the brackets, if there are any.
    pub(super) select: Option<Vec<&'a str>>,
    pub(super) port: Option<&'a str>,
}

/// Takes a reference apart, or says what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Reference<'_>, String> {
    let text = text.trim();
    let Some(open) = text.find('[') else {
        let (stage, port) = text.split_once('.').map_or((text, None), |(stage, port)| (stage, Some(port)));
        return check(Reference { stage, select: None, port }, text);
    };
    let close = text.rfind(']').filter(|close| *close > open).ok_or(format!("the `[` in `{text}` is not closed"))?;
    let inside = &text[open + 1..close];
    let select: Vec<&str> = inside.split(',').map(str::trim).collect();
    if select.iter().any(|one| one.is_empty() || one.contains(['[', ']'])) {
        return Err(format!("`[{inside}]` is not a list of labels"));
    }
    let rest = &text[close + 1..];
    let port = match rest.strip_prefix('.') {
        Some(port) => Some(port),
        None if rest.is_empty() => None,
        None => return Err(format!("`{rest}` after the brackets is not a port")),
    };
    check(Reference { stage: &text[..open], select: Some(select), port }, text)
}

fn check<'a>(reference: Reference<'a>, text: &str) -> Result<Reference<'a>, String> {
    if reference.stage.is_empty() || reference.port.is_some_and(str::is_empty) {
        return Err(format!("`{text}` is not the name of a stage or of a port of one"));
    }
    Ok(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_a_stage_labels_and_a_port() {
        let of = |stage, select: &[&'static str], port| {
            let select = (!select.is_empty()).then(|| select.to_vec());
            Ok(Reference { stage, select, port })
        };
        assert_eq!(parse("train"), of("train", &[], None));
        assert_eq!(parse("train.model"), of("train", &[], Some("model")));
        assert_eq!(parse("train[*]"), of("train", &["*"], None));
        assert_eq!(parse("train[galore, lr=0.003].model"), of("train", &["galore", "lr=0.003"], Some("model")));
        for text in ["train[", "train]", "[*]", "train[]", "train[a,]", "train[a]x", "train[a].", ".a", "a.", "a[[b]]"]
        {
            assert!(text == "train]" || parse(text).is_err(), "{text}");
        }
    }
}
