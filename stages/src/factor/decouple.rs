//! Network decoupling: a convolution as a sum of pairs, pointwise then depthwise (TRP's third form).

use faer::Mat;

use super::{Keep, Truncated};
use crate::linalg::svd::{LinalgError, Svd, svd};

/// A kernel as k paths, whose outputs are summed: a 1 x 1 convolution and then a depthwise one with the kernel's size.
#[derive(Debug, Clone)]
pub struct Decoupled {
    /// `[k * out, in]`, the rows of one path together.
    pub point: Mat<f64>,
    /// `[k * out, kh * kw]`, in the same order.
    pub depth: Mat<f64>,
    /// k.
    pub paths: usize,
}

/// Decouples a kernel, given as the matrix `[out * in, kh * kw]` of its filters one below the other.
///
/// Of every filter the matrix `[in, kh * kw]` is decomposed; the number of paths is the largest count that `keep` asks for
/// over all filters, at least 1. Singular values are split by square roots.
///
/// # Errors
/// As [`svd`].
pub fn decouple(filters: &Mat<f64>, outputs: usize, keep: Keep) -> Result<Decoupled, LinalgError> {
    let (found, paths) = decompose(filters, outputs, keep)?;
    let (inputs, patch) = (filters.nrows() / outputs.max(1), filters.ncols());
    let row = |row: usize| (row / outputs, &found[row % outputs]);
    let point = Mat::from_fn(paths * outputs, inputs, |r, i| {
        let (k, svd) = row(r);
        svd.u[(i, k)] * svd.s[k].sqrt()
    });
    let depth = Mat::from_fn(paths * outputs, patch, |r, c| {
        let (k, svd) = row(r);
        svd.v[(c, k)] * svd.s[k].sqrt()
    });
    Ok(Decoupled { point, depth, paths })
}

/// The filters cut down to the paths that `keep` asks for, in the same form, with the sub-gradient of the sum of the
/// filters' nuclear norms. The singular values are those of the filter that needs most paths.
///
/// # Errors
/// As [`svd`].
pub fn truncate_filters(filters: &Mat<f64>, outputs: usize, keep: Keep) -> Result<Truncated, LinalgError> {
    let (found, paths) = decompose(filters, outputs, keep)?;
    let inputs = filters.nrows() / outputs.max(1);
    let summed = |weight: fn(f64) -> f64| {
        Mat::from_fn(filters.nrows(), filters.ncols(), |r, c| {
            let (svd, i) = (&found[r / inputs], r % inputs);
            (0..paths).map(|k| svd.u[(i, k)] * weight(svd.s[k]) * svd.v[(c, k)]).sum()
        })
    };
    let (matrix, subgradient) = (summed(|s| s), summed(|s| f64::from(u8::from(s > 0.0))));
    let most = found.iter().max_by_key(|svd| keep.count(&svd.s));
    let singular_values = most.map(|svd| svd.s.clone()).unwrap_or_default();
    Ok(Truncated { matrix, subgradient, rank: paths, singular_values })
}

fn decompose(filters: &Mat<f64>, outputs: usize, keep: Keep) -> Result<(Vec<Svd<f64>>, usize), LinalgError> {
    let inputs = filters.nrows() / outputs.max(1);
    let found = (0..outputs).map(|o| svd(filters.subrows(o * inputs, inputs))).collect::<Result<Vec<_>, _>>()?;
    let paths = found.iter().map(|svd| keep.count(&svd.s)).max().unwrap_or(1).max(1);
    Ok((found, paths))
}

#[cfg(test)]
impl Decoupled {
    /// The filters that the paths add up to, one below the other: `[out * in, kh * kw]`.
    fn filters(&self, outputs: usize) -> Mat<f64> {
        let inputs = self.point.ncols();
        Mat::from_fn(outputs * inputs, self.depth.ncols(), |r, c| {
            let (o, i) = (r / inputs, r % inputs);
            (0..self.paths).map(|k| self.point[(k * outputs + o, i)] * self.depth[(k * outputs + o, c)]).sum()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_paths_reproduce_the_kernel_and_one_does_for_a_separable_one() {
        let any = Mat::from_fn(3 * 4, 6, |r, c| ((r * r * 31 + c * c * 7 + r * c) as f64).sin());
        let full = decouple(&any, 3, Keep::Energy(1.0)).unwrap();
        assert_eq!((full.paths, full.point.nrows(), full.depth.nrows()), (4, 12, 12));
        assert!((full.filters(3) - &any).norm_max() < 1e-12);
        let separable = Mat::from_fn(3 * 4, 6, |r, c| (r + 1) as f64 * (c as f64 - 0.5 * (r / 4) as f64));
        let found = truncate_filters(&separable, 3, Keep::Energy(0.999)).unwrap();
        assert_eq!(found.rank, 1);
        assert!((&found.matrix - &separable).norm_max() < 1e-11);
        // Of a matrix of rank 1 the sub-gradient is the matrix over its norm.
        let norm = separable.subrows(0, 4).norm_l2();
        assert!(
            (found.subgradient.subrows(0, 4) - separable.subrows(0, 4) * faer::Scale(1.0 / norm)).norm_max() < 1e-11
        );
    }

    #[test]
    fn the_most_demanding_filter_decides_the_paths() {
        // The first filter is of rank 1, the second the identity.
        let filters = Mat::from_fn(4, 2, |r, c| if r < 2 { 1.0 } else { f64::from(u8::from(r - 2 == c)) });
        assert_eq!(decouple(&filters, 2, Keep::Energy(0.85)).unwrap().paths, 2);
    }
}
