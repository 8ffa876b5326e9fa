//! What all kernels share: shapes of launches, and sums over the units of a cube.

use burn::{
    backend::cubecl::dtype_to_elem_type,
    tensor::{DType, Shape},
};
use burn_cubecl::{
    kernel::into_contiguous,
    ops::numeric::{empty_device_contiguous_dtype, empty_device_dtype},
    tensor::CubeTensor,
};
use cubecl::prelude::*;

/// Units of a cube at most.
pub(crate) const MOST_UNITS: usize = 256;

/// How rows are read: some numbers at once by each unit, all units of a cube along one row.
pub(crate) struct Rows {
    /// Numbers that a unit reads at once, up to 16 bytes of the narrowest type.
    pub(crate) vector: usize,
    /// Vectors in a row.
    pub(crate) vectors: usize,
    pub(crate) units: CubeDim,
    /// Planes of a cube.
    pub(crate) planes: usize,
}

impl Rows {
    /// For rows of `width` numbers of these types.
    pub(crate) fn new(like: &CubeTensor, width: usize, dtypes: &[DType]) -> Self {
        let vector = widest_vector(width, dtypes);
        let vectors = width / vector;
        let plane = plane_size(like);
        let units = vectors.next_multiple_of(plane).clamp(plane, MOST_UNITS);
        Self { vector, vectors, units: CubeDim::new_1d(units as u32), planes: units / plane }
    }
}

/// Units of a plane.
fn plane_size(like: &CubeTensor) -> usize {
    like.client.properties().hardware.plane_size_max as usize
}

/// Planes of a cube that has as many units as it may.
pub(crate) fn most_planes(like: &CubeTensor) -> usize {
    MOST_UNITS / plane_size(like)
}

/// How many of so many numbers in a row a unit reads at once.
pub(crate) fn widest_vector(count: usize, dtypes: &[DType]) -> usize {
    let narrowest = dtypes.iter().map(|dtype| dtype.size()).min().unwrap_or(4);
    [8, 4, 2].into_iter().find(|n| n * narrowest <= 16 && count.is_multiple_of(*n)).unwrap_or(1)
}

/// The type of a tensor's numbers, for a kernel.
pub(crate) fn elem(tensor: &CubeTensor) -> ElemType {
    dtype_to_elem_type(tensor.dtype)
}

/// A cube for each of so many pieces of work.
pub(crate) fn cubes(count: usize) -> CubeCount {
    CubeCount::Static(count as u32, 1, 1)
}

/// The narrowest type that can count through all of them.
pub(crate) fn address(tensors: &[&CubeTensor]) -> AddressType {
    tensors.iter().map(|tensor| tensor.required_address_type()).max().unwrap_or_default()
}

pub(crate) fn contiguous<const N: usize>(tensors: [CubeTensor; N]) -> [CubeTensor; N] {
    tensors.map(into_contiguous)
}

/// A tensor that nothing was written to yet, where another is.
pub(crate) fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::new(shape), dtype)
}

/// The same with rows as far apart as the device likes them.
pub(crate) fn empty_pitched(like: &CubeTensor, shape: [usize; 2], dtype: DType) -> CubeTensor {
    empty_device_dtype(like.client.clone(), like.device.clone(), Shape::new(shape), dtype)
}

/// Matrices of one shape and type whose rows may lie apart.
pub(crate) struct Pitched<const N: usize> {
    pub(crate) tensors: [CubeTensor; N],
    /// Vectors from one row to the next, of each.
    pub(crate) pitches: [usize; N],
    pub(crate) rows: usize,
    /// Vectors of a row, the last of which may reach into what lies between rows.
    pub(crate) vectors: usize,
    /// Numbers in a vector.
    pub(crate) vector: usize,
}

impl<const N: usize> Pitched<N> {
    pub(crate) fn new(tensors: [CubeTensor; N]) -> Self {
        let tensors =
            tensors.map(|tensor| if tensor.meta.strides()[1] == 1 { tensor } else { into_contiguous(tensor) });
        let ([rows, width], size) = (sides(&tensors[0]), tensors[0].dtype.size());
        let pitches = tensors.each_ref().map(|tensor| tensor.meta.strides()[0]);
        let fits = |n: &usize| {
            let room = |pitch: &usize| pitch.is_multiple_of(*n) && *pitch >= width.next_multiple_of(*n);
            n * size <= 16 && pitches.iter().all(room)
        };
        let vector = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        let pitches = pitches.map(|pitch| pitch / vector);
        Self { tensors, pitches, rows, vectors: width.div_ceil(vector), vector }
    }
}

/// Rows and columns.
pub(crate) fn sides(matrix: &CubeTensor) -> [usize; 2] {
    let shape = matrix.meta.shape();
    [shape[0], shape[1]]
}

/// The sum of a value of each unit of a plane. Operations of planes are among the units that happen to be there: those that
/// had less to do before must be waited for.
#[cube]
pub(crate) fn whole_plane_sum(value: f32) -> f32 {
    sync_plane();
    plane_sum(value)
}

/// The largest of a value of each unit of a plane.
#[cube]
pub(crate) fn whole_plane_max(value: f32) -> f32 {
    sync_plane();
    plane_max(value)
}

/// The sum of a value of each unit, for all units. The planes are added up in their order.
#[cube]
pub(crate) fn cube_sum(value: f32, #[comptime] planes: usize) -> f32 {
    let of_plane = whole_plane_sum(value);
    if comptime!(planes == 1) {
        of_plane
    } else {
        let mut shared = Shared::<[f32]>::new_slice(planes);
        if UNIT_POS_PLANE == 0 {
            shared[PLANE_POS as usize] = of_plane;
        }
        sync_cube();
        let mut sum = 0.0f32;
        #[unroll]
        for plane in 0..planes {
            sum += shared[plane];
        }
        sync_cube();
        sum
    }
}

/// The largest of a value of each unit, for all units.
#[cube]
pub(crate) fn cube_max(value: f32, #[comptime] planes: usize) -> f32 {
    let of_plane = whole_plane_max(value);
    if comptime!(planes == 1) {
        of_plane
    } else {
        let mut shared = Shared::<[f32]>::new_slice(planes);
        if UNIT_POS_PLANE == 0 {
            shared[PLANE_POS as usize] = of_plane;
        }
        sync_cube();
        let mut most = of_plane;
        #[unroll]
        for plane in 0..planes {
            most = most.max(shared[plane]);
        }
        sync_cube();
        most
    }
}
