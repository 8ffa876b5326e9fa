//! Power iterations that stay on a GPU: matrices of one shape are stacked and every step is taken for all of them, and nothing
//! is read before the end.
//!
//! Where the host would factor, there are products: columns are made orthonormal by Newton-Schulz iterations toward the polar
//! factor (Higham 2008, chapter 8), which has the same span and stays nearest to the columns there were. The rotation to
//! singular vectors is found by Jacobi rotations in a kernel. A matrix whose basis does not come out orthonormal, one of low
//! rank, is left to the host.

use burn::tensor::{Int, Tensor};

use super::{
    super::svd::{LinalgError, Vectors},
    Dominant, Wanted, is_usable,
    lockstep::{fix_signs, random},
};
use crate::ops::product;

/// Of products of two rows and columns of a basis with itself, how far they may be from 0 and 1.
const ORTHONORMAL: f64 = 1e-4;
/// Bytes of the matrices that are stacked, beside which several of the same size are needed.
const STACKED: usize = 256 << 20;

/// The subspaces of those for which that works, in their order.
///
/// # Errors
/// When the device cannot be read.
pub(super) fn find(wanted: &[&Wanted<'_>]) -> Result<Vec<Option<Dominant>>, LinalgError> {
    let mut bases: Vec<Option<Tensor<2>>> = wanted.iter().map(|_| None).collect();
    // Of each: energy, how far from orthonormal, captured energy, and agreement with the basis before.
    let mut figures: Vec<Tensor<2>> = Vec::new();
    let mut order = Vec::new();
    for group in groups(wanted) {
        let members: Vec<&Wanted<'_>> = group.iter().map(|k| wanted[*k]).collect();
        let found = of_stack(&members);
        let [count, dim, rank] = found.bases.dims();
        for (place, index) in group.iter().enumerate() {
            bases[*index] = Some(found.bases.clone().narrow(0, place, 1).reshape([dim, rank]));
        }
        figures.push(found.figures.reshape([count, 4]));
        order.extend(group);
    }
    if figures.is_empty() {
        return Ok(Vec::new());
    }
    let figures = Tensor::cat(figures, 0).try_to_vec_as::<f64>();
    let figures = figures.map_err(|error| LinalgError::Unreadable(error.to_string()))?;
    let mut found: Vec<Option<Dominant>> = wanted.iter().map(|_| None).collect();
    for (index, figures) in order.into_iter().zip(figures.chunks_exact(4)) {
        let [energy, apart, captured, overlap] = [figures[0], figures[1], figures[2], figures[3]];
        let good = is_usable(energy) && apart < ORTHONORMAL && captured.is_finite();
        if let (true, Some(basis)) = (good, bases[index].take()) {
            let overlap = wanted[index].previous.is_some().then_some(overlap);
            found[index] = Some(Dominant { basis, captured: captured.clamp(0.0, 1.0), overlap });
        }
    }
    Ok(found)
}

/// What must be equal for matrices to be stacked.
fn kind(wanted: &Wanted<'_>) -> ([usize; 2], bool, usize, usize, Option<usize>) {
    let previous = wanted.previous.map(|previous| previous.dims()[1]);
    (wanted.matrix.dims(), wanted.side == Vectors::Left, wanted.rank(), passes(wanted), previous)
}

fn passes(wanted: &Wanted<'_>) -> usize {
    wanted.config.iterations + usize::from(wanted.previous.is_none())
}

/// Indices of matrices that are stacked.
fn groups(wanted: &[&Wanted<'_>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, one) in wanted.iter().enumerate() {
        let size = one.matrix.shape().num_elements() * size_of::<f32>();
        let fits = |group: &&mut Vec<usize>| {
            kind(wanted[group[0]]) == kind(one)
                && wanted[group[0]].config == one.config
                && (group.len() + 1) * size <= STACKED
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

struct Stack {
    /// `[count, dim, rank]`.
    bases: Tensor<3>,
    /// `[count, 4]`, see [`find`].
    figures: Tensor<2>,
}

fn of_stack(members: &[&Wanted<'_>]) -> Stack {
    let count = members.len();
    let (rank, width) = (members[0].rank(), members[0].rank() + members[0].config.oversample);
    let g = stacked(members.iter().map(|one| one.matrix.clone()));
    let energy = g.clone().square().sum_dim(2).sum_dim(1); // [count, 1, 1]
    // A gradient of any size: its Gram matrices square its entries.
    let g = g / energy.clone().sqrt();
    // The transpose is a view.
    let g = if members[0].side == Vectors::Left { g } else { g.swap_dims(1, 2) };
    let previous = members.iter().map(|one| one.previous.cloned()).collect::<Option<Vec<_>>>();
    let mut basis = stacked(members.iter().map(|one| {
        let known = one.previous.map_or(0, |basis| basis.dims()[1].min(width));
        let fresh = random(g.dims()[1], width - known, one.seed, one.matrix);
        match one.previous {
            Some(previous) => Tensor::cat(vec![previous.clone().narrow(1, 0, known), fresh], 1),
            None => fresh,
        }
    }));
    for _ in 0..passes(members[0]) {
        // Orthonormal half way, too: columns lean toward the largest singular vectors as much as these are larger than the
        // others, and in `G G^T B` that would be squared.
        let across = orthonormal(product(g.clone().swap_dims(1, 2), basis)); // [count, n, width]
        basis = orthonormal(product(g.clone(), across));
    }
    let inner = product(basis.clone().swap_dims(1, 2), g); // [count, width, n]
    let (values, rotation) = eigen(product(inner.clone(), inner.swap_dims(1, 2)));
    let (values, chosen) = largest(values, rank);
    // Eigenvectors are rows: the chosen ones become columns.
    let rotation = product(rotation.swap_dims(1, 2), chosen.swap_dims(1, 2));
    // Many rotations were multiplied: what their rounding has added up to is taken out again.
    let bases = fix_signs(settled(product(basis, rotation)));
    let captured = values.sum_dim(1); // [count, 1]
    let apart = apart(&bases).reshape([count, 1]);
    let overlap = match previous {
        Some(previous) => {
            let both = product(stacked(previous.into_iter()).swap_dims(1, 2), bases.clone());
            let [_, before, _] = both.dims();
            both.square().sum_dim(2).sum_dim(1).div_scalar(before as f64).reshape([count, 1])
        }
        None => captured.zeros_like(),
    };
    Stack { bases, figures: Tensor::cat(vec![energy.reshape([count, 1]), apart, captured, overlap], 1) }
}

/// `[count, rows, columns]`.
fn stacked(matrices: impl Iterator<Item = Tensor<2>>) -> Tensor<3> {
    Tensor::stack(matrices.collect(), 0)
}

/// Iterations of the kind that raises the small singular values: from 1e-5 to a half and more.
const RAISING: usize = 9;
/// Iterations of the kind that brings what is near 1 to 1.
const SETTLING: usize = 5;

/// The nearest orthonormal columns, `[count, rows, columns]`; not quite orthonormal where columns are nearly dependent.
///
/// First the polynomial of fifth degree of Jordan et al. 2024 ("Muon"), whose slope at 0 is 3.44 and which keeps what is large
/// between 0.68 and 1.27, then Newton and Schulz's of third degree, which halves the number of wrong digits each time.
fn orthonormal(columns: Tensor<3>) -> Tensor<3> {
    let width = columns.dims()[2];
    let lengths = columns.clone().square().sum_dim(1).add_scalar(f64::from(f32::MIN_POSITIVE)).sqrt();
    // Of columns of unit length no combination of unit length is longer than the root of their number.
    let mut x = columns / lengths.mul_scalar((width as f64).sqrt());
    for _ in 0..RAISING {
        let gram = product(x.clone().swap_dims(1, 2), x.clone());
        let higher = gram.clone().mul_scalar(-4.7750) + product(gram.clone(), gram).mul_scalar(2.0315);
        x = x.clone().mul_scalar(3.4445) + product(x, higher);
    }
    for _ in 0..SETTLING {
        x = settled(x);
    }
    x
}

/// Columns that are nearly orthonormal, more so.
fn settled(x: Tensor<3>) -> Tensor<3> {
    let gram = product(x.clone().swap_dims(1, 2), x.clone());
    x.clone().mul_scalar(1.5) - product(x, gram).mul_scalar(0.5)
}

/// How far products of columns are from 0 and 1 at most, `[count, 1, 1]`.
fn apart(columns: &Tensor<3>) -> Tensor<3> {
    let [_, _, width] = columns.dims();
    let gram = product(columns.clone().swap_dims(1, 2), columns.clone());
    let one = Tensor::<2>::eye(width, &gram.device()).reshape([1, width, width]);
    (gram - one).abs().max_dim(2).max_dim(1)
}

/// Eigenvalues `[count, n]` and eigenvectors as rows `[count, n, n]`, in no order.
fn eigen(matrices: Tensor<3>) -> (Tensor<2>, Tensor<3>) {
    #[cfg(feature = "cuda")]
    if crate::ops::on_gpu(&matrices) {
        return sepia_kernels::eigenvectors(matrices);
    }
    on_host::eigen(matrices)
}

/// The largest `rank` of values `[count, n]`, in falling order, and matrices `[count, rank, n]` that choose them: one 1 in each
/// row.
fn largest(values: Tensor<2>, rank: usize) -> (Tensor<2>, Tensor<3>) {
    let [count, n] = values.dims();
    let device = values.device();
    let places = Tensor::<1, Int>::arange(0..n as i64, &device);
    let (own, other) = (values.clone().reshape([count, n, 1]), values.clone().reshape([count, 1, n]));
    // How many come before each: larger ones, and of equals those at a lower place.
    let lower = places.clone().reshape([1, 1, n]).lower(places.reshape([1, n, 1]));
    let before = other.clone().greater(own.clone()).bool_or(other.equal(own).bool_and(lower.expand([count, n, n])));
    let before = before.int().sum_dim(2).reshape([count, 1, n]);
    let wanted = Tensor::<1, Int>::arange(0..rank as i64, &device).reshape([1, rank, 1]);
    let chosen = before.equal(wanted).float().cast(values.dtype());
    let sorted = (chosen.clone() * values.reshape([count, 1, n])).sum_dim(2).reshape([count, rank]);
    (sorted, chosen)
}

/// The host's part where there is no GPU: what is tested without one.
mod on_host {
    use burn::tensor::{Tensor, TensorData};

    use super::super::{super::host::to_host, lockstep};

    pub(super) fn eigen(matrices: Tensor<3>) -> (Tensor<2>, Tensor<3>) {
        let [count, n, _] = matrices.dims();
        let (mut values, mut vectors) = (Vec::new(), Vec::new());
        for k in 0..count {
            let one = matrices.clone().narrow(0, k, 1).reshape([n, n]);
            let found = to_host(&one).and_then(|one| lockstep::eigen(&one));
            let (of_one, columns) = found.unwrap_or_else(|_| (vec![f64::NAN; n], faer::Mat::zeros(n, n)));
            values.extend(of_one.into_iter().map(|value| value as f32));
            vectors.extend((0..n).flat_map(|j| (0..n).map(move |i| (i, j))).map(|at| columns[at] as f32));
        }
        let device = matrices.device();
        let vectors = Tensor::from_data(TensorData::new(vectors, [count, n, n]), &device);
        (Tensor::from_data(TensorData::new(values, [count, n]), &device), vectors)
    }
}
