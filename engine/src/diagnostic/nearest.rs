//! "Did you mean".

/// The candidate that was probably meant: the closest one, if it is close enough for its length.
///
/// Case and the difference between `-` and `_` count for nothing.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let name = plain(name);
    // A third of the characters may be wrong, as in rustc.
    let limit = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = strsim::damerau_levenshtein(&name, &plain(candidate));
            let prefix = name.len() >= 3 && plain(candidate).starts_with(&name);
            (distance <= limit || prefix).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_closest_name_is_found_if_it_is_close() {
        let names = ["max_steps", "lr", "batch_size", "warmup_steps"];
        assert_eq!(nearest("max_step", names), Some("max_steps"));
        assert_eq!(nearest("batchsize", names), Some("batch_size"));
        assert_eq!(nearest("Batch-Size", names), Some("batch_size"));
        assert_eq!(nearest("warmup", names), Some("warmup_steps"));
        assert_eq!(nearest("rl", names), Some("lr"));
        assert_eq!(nearest("epochs", names), None);
        assert_eq!(nearest("", names), None);
    }
}
