//! Seeds for everything random in a stage.

/// The seed for one purpose at one step.
///
/// Everything random derives from (seed, purpose, step), never from how often a generator was called before: a run that
/// resumes at step 500 then draws what an uninterrupted one drew there.
#[must_use]
pub fn derive_seed(seed: u64, purpose: &str, step: u64) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("sepia stage randomness v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&step.to_le_bytes());
    hasher.update(purpose.as_bytes());
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::derive_seed;

    #[test]
    fn seed_purpose_and_step_all_matter() {
        let base = derive_seed(1, "init", 0);
        assert_eq!(base, derive_seed(1, "init", 0));
        assert_ne!(base, derive_seed(2, "init", 0));
        assert_ne!(base, derive_seed(1, "data", 0));
        assert_ne!(base, derive_seed(1, "init", 1));
    }
}
