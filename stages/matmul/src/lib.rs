//! Products of f32 matrices on the CPU, with the kernels of the crate [`gemm`].
//!
//! burn's CPU backend calls the same kernels, but clears every result before it is written, and then moves it to memory
//! of another alignment: in the training of a small transformer that is a twentieth of all time. Here a result is written
//! once, to where it stays. The threads are those of the rayon pool that the caller is in, and are used as burn's backend
//! uses them, so that the results are the same to the last bit.
//!
//! This is a crate of its own because the kernel takes pointers: all unsafe code that runs on the CPU is in [`product`].

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

/// Multiplications from which on one product is spread over threads.
const SPREAD_ONE: usize = 192 * 192 * 192;
/// The same for many products together.
const SPREAD_MANY: usize = 128 * 128 * 128;

/// Some matrices of one size, anywhere in a slice.
#[derive(Debug, Clone)]
pub struct Matrices<'a> {
    data: &'a [f32],
    /// Extent and stride of the dimensions before the last two.
    batch: Vec<(usize, usize)>,
    rows: (usize, usize),
    columns: (usize, usize),
}

impl<'a> Matrices<'a> {
    /// A tensor in `data`, whose first element is its first: extents and strides (in elements) of at least two
    /// dimensions, of which the last two are rows and columns. `None` if it would reach beyond `data`.
    #[must_use]
    pub fn new(data: &'a [f32], shape: &[usize], strides: &[usize]) -> Option<Self> {
        if shape.len() != strides.len() {
            return None;
        }
        let mut dimensions: Vec<(usize, usize)> = shape.iter().copied().zip(strides.iter().copied()).collect();
        if !shape.contains(&0) {
            let step = |last: usize, &(extent, stride): &(usize, usize)| {
                (extent - 1).checked_mul(stride).and_then(|step| last.checked_add(step))
            };
            let last = dimensions.iter().try_fold(0, step)?;
            if last >= data.len() || isize::try_from(last).is_err() {
                return None;
            }
        }
        let (columns, rows) = (dimensions.pop()?, dimensions.pop()?);
        Some(Self { data, batch: dimensions, rows, columns })
    }

    /// How many.
    fn count(&self) -> Option<usize> {
        self.batch.iter().try_fold(1usize, |count, (extent, _)| count.checked_mul(*extent))
    }

    /// Where a matrix begins.
    fn offset(&self, mut index: usize) -> usize {
        let mut offset = 0;
        for (extent, stride) in self.batch.iter().rev() {
            offset += index % extent * stride;
            index /= extent;
        }
        offset
    }

    fn is_as_many_as(&self, other: &Self) -> bool {
        let extents = |of: &Self| of.batch.iter().map(|(extent, _)| *extent).collect::<Vec<_>>();
        extents(self) == extents(other)
    }
}

/// The product of each matrix with its counterpart: `[.., m, k]` times `[.., k, n]` is `[.., m, n]`, contiguous. `None` if
/// sizes or numbers do not fit.
#[must_use]
pub fn product(lhs: &Matrices<'_>, rhs: &Matrices<'_>) -> Option<Vec<f32>> {
    let ((m, lhs_rows), (k, lhs_columns)) = (lhs.rows, lhs.columns);
    let ((inner, rhs_rows), (n, rhs_columns)) = (rhs.rows, rhs.columns);
    if k != inner || !lhs.is_as_many_as(rhs) {
        return None;
    }
    let (count, size) = (lhs.count()?, m.checked_mul(n)?);
    let total = size.checked_mul(count)?;
    if total == 0 || k == 0 {
        return Some(vec![0.0; total]);
    }
    let multiply = |out: &mut [MaybeUninit<f32>], index: usize, parallelism: Parallelism| {
        let (lhs, rhs) = (&lhs.data[lhs.offset(index)..], &rhs.data[rhs.offset(index)..]);
        assert_eq!(out.len(), size, "a place for one product");
        // SAFETY: `Matrices::new` has checked that the last element of the last matrix is inside `data`, and every other
        // element of every matrix comes before it; no extent is zero here. `out` has room for m x n elements, row after
        // row, is ours alone, and is not read (`read_dst` is false).
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr().cast::<f32>(),
                1,
                n as isize,
                false,
                lhs.as_ptr(),
                lhs_columns as isize,
                lhs_rows as isize,
                rhs.as_ptr(),
                rhs_columns as isize,
                rhs_rows as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    };
    let mut out = Vec::with_capacity(total);
    let work = m.saturating_mul(n).saturating_mul(k);
    let together = work.saturating_mul(count);
    let places = &mut out.spare_capacity_mut()[..total];
    if work >= SPREAD_ONE && (count < 4 || together < SPREAD_MANY) {
        places.chunks_exact_mut(size).enumerate().for_each(|(at, out)| multiply(out, at, Parallelism::Rayon(0)));
    } else if count > 1 && together >= SPREAD_MANY {
        places.par_chunks_exact_mut(size).enumerate().for_each(|(at, out)| multiply(out, at, Parallelism::None));
    } else {
        places.chunks_exact_mut(size).enumerate().for_each(|(at, out)| multiply(out, at, Parallelism::None));
    }
    // SAFETY: the chunks cover `total` elements, and each was written: the kernel writes all of its destination.
    unsafe { out.set_len(total) };
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(count: usize, factor: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * factor) % 23) as f32 - 11.0).collect()
    }

    /// Strides of a contiguous tensor.
    fn contiguous(shape: [usize; 3]) -> [usize; 3] {
        [shape[1] * shape[2], shape[2], 1]
    }

    fn plain(
        lhs: impl Fn(usize, usize, usize) -> f32,
        rhs: impl Fn(usize, usize, usize) -> f32,
        [b, m, n, k]: [usize; 4],
    ) -> Vec<f32> {
        let mut out = Vec::new();
        for b in 0..b {
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                // Small whole numbers: every order of the sum gives the same.
                out.push((0..k).map(|x| lhs(b, i, x) * rhs(b, x, j)).sum());
            }
        }
        out
    }

    proptest! {
        #[test]
        fn products_are_right_however_the_operands_lie(
            b in 1usize..6, m in 1usize..40, n in 1usize..40, k in 0usize..40, turned in any::<[bool; 2]>()
        ) {
            let (left, right) = (numbers(b * m * k + 1, 7), numbers(b * k * n + 1, 5));
            let turn = |[b, r, c]: [usize; 3], turned: bool| {
                if turned { ([b, r, c], [r * c, 1, r]) } else { ([b, r, c], contiguous([b, r, c])) }
            };
            let ((shape, l), (other, r)) = (turn([b, m, k], turned[0]), turn([b, k, n], turned[1]));
            let found = product(
                &Matrices::new(&left, &shape, &l).unwrap(),
                &Matrices::new(&right, &other, &r).unwrap(),
            );
            let at = |data: &'static [f32], s: [usize; 3]| move |b, i, j| data[b * s[0] + i * s[1] + j * s[2]];
            let (left, right): (&'static [f32], &'static [f32]) = (left.leak(), right.leak());
            prop_assert_eq!(found.unwrap(), plain(at(left, l), at(right, r), [b, m, n, k]));
        }
    }

    #[test]
    fn many_threads_give_what_one_gives() {
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for [b, m, n, k] in [[1, 300, 200, 250], [2, 256, 256, 256], [40, 64, 64, 48]] {
            let (left, right) = (numbers(b * m * k, 7), numbers(b * k * n, 5));
            let left = Matrices::new(&left, &[b, m, k], &contiguous([b, m, k])).unwrap();
            let right = Matrices::new(&right, &[b, k, n], &contiguous([b, k, n])).unwrap();
            let one = pool(1).install(|| product(&left, &right)).unwrap();
            assert_eq!(pool(3).install(|| product(&left, &right)).unwrap(), one, "{b} {m} {n} {k}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = numbers(24, 3);
        assert!(Matrices::new(&data, &[2, 3, 4], &[12, 4, 1]).is_some());
        assert!(Matrices::new(&data, &[2, 3, 4], &[13, 4, 1]).is_none(), "the last element is beyond the data");
        assert!(Matrices::new(&data, &[2, 3, 4], &[usize::MAX, 4, 1]).is_none());
        assert!(Matrices::new(&data, &[4], &[1]).is_none());
        assert!(Matrices::new(&data, &[2, 4], &[1]).is_none());
        assert!(Matrices::new(&[], &[0, 4], &[4, 1]).is_some());
        let of = |shape: &[usize], strides: &[usize]| Matrices::new(&data, shape, strides).unwrap();
        assert!(product(&of(&[3, 4], &[4, 1]), &of(&[3, 4], &[4, 1])).is_none(), "4 columns, 3 rows");
        assert!(product(&of(&[2, 3, 4], &[12, 4, 1]), &of(&[1, 4, 3], &[12, 3, 1])).is_none(), "2 and 1");
        assert_eq!(product(&of(&[2, 0], &[1, 1]), &of(&[0, 3], &[1, 1])), Some(vec![0.0; 6]));
    }
}
