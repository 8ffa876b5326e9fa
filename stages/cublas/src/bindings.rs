//! The functions that are called: a few of cuBLAS, and of CUDA's driver what orders streams.

use std::{
    ffi::{c_int, c_longlong, c_uint, c_void},
    path::Path,
};

use libloading::Library;

/// Any of the pointers that both libraries hand out.
pub(crate) type Opaque = *mut c_void;

/// A library's functions by their names, with the types that NVIDIA documents. What is returned is 0, or says what failed.
macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $symbol:literal: ($($argument:ty),*);)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl $name {
            /// From a library that is never unloaded again.
            ///
            /// # Errors
            /// The loader's words: no such file, or none of these functions in it.
            pub(crate) fn load(path: &Path) -> Result<Self, String> {
                // SAFETY: the file is NVIDIA's, or what the user says is: running what it does when it is loaded is the aim.
                let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
                let library: &'static Library = Box::leak(Box::new(library));
                Ok(Self {
                    $(
                        // SAFETY: the type is the documented one of the function of this name.
                        $field: *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }.map_err(|error| error.to_string())?,
                    )*
                })
            }
        }
    };
}

functions! {
    /// cuBLAS 12 and 13 (cuBLAS documentation, "cuBLAS API").
    Cublas {
        create = "cublasCreate_v2": (*mut Opaque);
        version = "cublasGetVersion_v2": (Opaque, *mut c_int);
        set_stream = "cublasSetStream_v2": (Opaque, Opaque);
        set_math_mode = "cublasSetMathMode": (Opaque, c_int);
        // Handle; whether each operand is transposed; m, n, k; alpha; A: elements, type, leading dimension; B; beta; C; what to
        // compute in; algorithm.
        multiply = "cublasGemmEx": (
            Opaque, c_int, c_int, c_int, c_int, c_int, *const c_void,
            u64, c_int, c_int, u64, c_int, c_int, *const c_void,
            u64, c_int, c_int, c_int, c_int
        );
        // The same of stacks: each has a stride, too, and before what to compute in stands how many.
        multiply_stacks = "cublasGemmStridedBatchedEx": (
            Opaque, c_int, c_int, c_int, c_int, c_int, *const c_void,
            u64, c_int, c_int, c_longlong, u64, c_int, c_int, c_longlong, *const c_void,
            u64, c_int, c_int, c_longlong, c_int, c_int, c_int
        );
    }
}

functions! {
    /// CUDA's driver, from 12.5 on (CUDA driver API, "Context Management", "Event Management").
    Driver {
        current_context = "cuCtxGetCurrent": (*mut Opaque);
        record_context = "cuCtxRecordEvent": (Opaque, Opaque);
        context_waits = "cuCtxWaitEvent": (Opaque, Opaque);
        create_stream = "cuStreamCreate": (*mut Opaque, c_uint);
        stream_waits = "cuStreamWaitEvent": (Opaque, Opaque, c_uint);
        create_event = "cuEventCreate": (*mut Opaque, c_uint);
        record = "cuEventRecord": (Opaque, Opaque);
        synchronize = "cuStreamSynchronize": (Opaque);
        allocate = "cuMemAlloc_v2": (*mut u64, usize);
        free = "cuMemFree_v2": (u64);
    }
}

/// `CUBLAS_OP_N` and `CUBLAS_OP_T`.
pub(crate) const AS_IT_LIES: c_int = 0;
pub(crate) const TRANSPOSED: c_int = 1;
/// `CUDA_R_32F`, `CUDA_R_16F` and `CUDA_R_16BF` (`cudaDataType_t`).
pub(crate) const F32: c_int = 0;
pub(crate) const F16: c_int = 2;
pub(crate) const BF16: c_int = 14;
/// `CUBLAS_COMPUTE_32F` and `CUBLAS_COMPUTE_32F_FAST_TF32` (`cublasComputeType_t`).
pub(crate) const IN_F32: c_int = 68;
pub(crate) const IN_TF32: c_int = 77;
/// `CUBLAS_GEMM_DEFAULT`: cuBLAS chooses, by shapes and the GPU alone.
pub(crate) const ITS_CHOICE: c_int = -1;
/// `CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION`: partial sums of a product stay in what it is computed in.
pub(crate) const SUMS_IN_FULL: c_int = 16;
/// `CU_STREAM_NON_BLOCKING`: nothing waits for the default stream.
pub(crate) const NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub(crate) const NO_TIMING: c_uint = 2;

/// What cuBLAS names these numbers (`cublasStatus_t`).
pub(crate) fn cublas_said(status: c_int) -> String {
    let name = match status {
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        other => return format!("cuBLAS failed with status {other}"),
    };
    name.to_owned()
}
