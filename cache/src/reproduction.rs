//! Records of results that were computed again only to see whether they come out the same.
//!
//! They are records like all others, so that a different result shows among the divergences, but their run is no run of a
//! manifest: it has no row, and what others would look up by key is never a reproduction as long as there is anything
//! else.

use camino::Utf8Path;

use crate::digest::Digest;
use crate::layout::unique_sibling;
use crate::store::Store;

const PREFIX: &str = "reproduction-";

/// Whether a run id is one of [`Store::reproduction_id`]'s.
#[must_use]
pub fn is_reproduction(run: &str) -> bool {
    run.starts_with(PREFIX)
}

impl Store {
    /// A run id for computing a key again.
    #[must_use]
    pub fn reproduction_id(&self, key: &Digest) -> String {
        let unique = unique_sibling(Utf8Path::new(&*key.hex()));
        format!("{PREFIX}{}", Digest::of_bytes(unique.as_str().as_bytes()).short())
    }
}

#[cfg(test)]
mod tests {
    use crate::Record;
    use crate::test_support::{Fixture, key, record};

    #[test]
    fn a_result_goes_before_its_reproductions() {
        let f = Fixture::new();
        let of = |run: String, bytes: &[u8]| Record { run, ..record("k", &[("out", f.object(bytes))]) };
        let (one, two) = (f.store.reproduction_id(&key("k")), f.store.reproduction_id(&key("k")));
        assert_ne!(one, two);
        f.store.commit(&[of(one.clone(), b"first"), of("run-1".into(), b"second"), of(two.clone(), b"third")]).unwrap();
        let hits = f.store.index().unwrap().candidates(&key("k")).unwrap();
        let runs: Vec<&str> = hits.iter().map(|hit| &*hit.run).collect();
        assert_eq!(runs, ["run-1", two.as_str(), one.as_str()]);
        let found = f.store.divergences().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].variants.len(), 3);
    }
}
