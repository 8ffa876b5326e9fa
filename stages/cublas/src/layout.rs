//! How cuBLAS is told where a tensor's matrices lie.
//!
//! cuBLAS counts down columns. A matrix stored row by row is to it the transposed one, so for `C = A B` it is asked for
//! `C' = B' A'`: the operands change places, and nothing is moved.

/// A stack of matrices as cuBLAS can read it where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Whether it lies column by column.
    pub(crate) turned: bool,
    /// Elements from one row to the next, or from one column to the next where it is turned.
    pub(crate) leading: i32,
    /// Elements from one matrix to the next.
    pub(crate) step: i64,
    /// How many matrices.
    pub(crate) count: i32,
}

impl Layout {
    /// Of a tensor of at least two dimensions, the last two of which are rows and columns. `None` where it has to be copied
    /// first: neither rows nor columns are without gaps, or the matrices do not follow each other evenly.
    pub(crate) fn of(shape: &[usize], strides: &[usize]) -> Option<Self> {
        let split = shape.len().checked_sub(2)?;
        let (&[rows, columns], &[down, right]) = (shape.get(split..)?, strides.get(split..)?) else { return None };
        // A side of one element is stepped over by nobody: whatever its stride is, it is right.
        let by_rows = (right == 1 || columns == 1).then_some(if rows == 1 { columns } else { down });
        let by_columns = (down == 1 || rows == 1).then_some(if columns == 1 { rows } else { right });
        let (turned, leading) = match (by_rows, by_columns) {
            (Some(leading), _) if leading >= columns => (false, leading),
            (_, Some(leading)) if leading >= rows => (true, leading),
            _ => return None,
        };
        let (mut count, mut step) = (1usize, 0usize);
        for (&extent, &stride) in shape.iter().zip(strides).take(split).rev().filter(|(extent, _)| **extent != 1) {
            match count {
                1 => step = stride,
                _ if stride == count * step => {}
                _ => return None,
            }
            count *= extent;
        }
        Some(Self {
            turned,
            leading: i32::try_from(leading.max(1)).ok()?,
            step: i64::try_from(step).ok()?,
            count: i32::try_from(count).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_columns_and_gaps() {
        let of = |shape: &[usize], strides: &[usize]| {
            Layout::of(shape, strides).map(|found| (found.turned, found.leading, found.step, found.count))
        };
        assert_eq!(of(&[3, 5], &[5, 1]), Some((false, 5, 0, 1)));
        assert_eq!(of(&[3, 5], &[8, 1]), Some((false, 8, 0, 1)), "rows that lie apart");
        assert_eq!(of(&[3, 5], &[1, 3]), Some((true, 3, 0, 1)));
        assert_eq!(of(&[3, 5], &[2, 10]), None, "every other row of a larger one");
        assert_eq!(of(&[3, 5], &[0, 1]), None, "one row, three times");
        assert_eq!(of(&[1, 5], &[77, 1]), Some((false, 5, 0, 1)));
        assert_eq!(of(&[3, 1], &[1, 77]), Some((false, 1, 0, 1)));
        assert_eq!(of(&[2, 4, 3, 5], &[60, 15, 5, 1]), Some((false, 5, 15, 8)));
        assert_eq!(of(&[2, 4, 3, 5], &[120, 15, 5, 1]), None, "stacks with a gap between");
        assert_eq!(of(&[1, 4, 3, 5], &[7, 15, 1, 3]), Some((true, 3, 15, 4)));
        assert_eq!(of(&[2, 1, 3, 5], &[15, 9, 5, 1]), Some((false, 5, 15, 2)));
        assert_eq!(of(&[5], &[1]), None);
    }

    proptest! {
        /// Whatever is read through a layout is what the strides say.
        #[test]
        fn a_layout_reads_the_same_elements(
            extents in prop::array::uniform4(1usize..4),
            gap in 0usize..3,
            order in Just([0usize, 1, 2, 3]).prop_shuffle(),
        ) {
            let mut strides = [0; 4];
            let mut stride = 1;
            for (place, &dimension) in order.iter().enumerate() {
                strides[dimension] = stride;
                stride *= extents[dimension];
                if place == 0 {
                    stride += gap;
                }
            }
            let Some(found) = Layout::of(&extents, &strides) else { return Ok(()) };
            let [batch, heads, rows, columns] = extents;
            for at in 0..batch * heads * rows * columns {
                let (b, h, r, c) = (at / (heads * rows * columns), at / (rows * columns) % heads, at / columns % rows, at % columns);
                let said = b * strides[0] + h * strides[1] + r * strides[2] + c * strides[3];
                let (along, across) = if found.turned { (c, r) } else { (r, c) };
                let read = (b * heads + h) * found.step as usize + along * found.leading as usize + across;
                prop_assert_eq!(said, read);
            }
        }
    }
}
