//! Where products are queued, in order with everything else that the GPU is asked for.
//!
//! cuBLAS needs a stream, and CubeCL does not hand out its own. Products are queued in one of ours: it waits for all that was
//! queued in the context before, and the context waits for it. Both are a word to the GPU; neither this thread nor any other
//! waits.

use std::{
    ffi::{c_int, c_void},
    path::Path,
    ptr::null_mut,
};

use crate::{
    bindings::{
        AS_IT_LIES, Cublas, Driver, F32, IN_F32, ITS_CHOICE, NO_TIMING, NON_BLOCKING, Opaque, SUMS_IN_FULL, TRANSPOSED,
        cublas_said,
    },
    layout::Layout,
};

/// What numbers are and are computed in, as cuBLAS numbers it (`cudaDataType_t`, `cublasComputeType_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) operands: c_int,
    pub(crate) result: c_int,
    pub(crate) computed: c_int,
}

/// Where a tensor's first element is, and how the others follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) address: u64,
    pub(crate) layout: Layout,
}

/// `C = A B`: `[m, k]` times `[k, n]`, as often as `C` has matrices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub(crate) a: Place,
    pub(crate) b: Place,
    pub(crate) c: Place,
    /// m, n and k.
    pub(crate) sides: [c_int; 3],
    pub(crate) numbers: Numbers,
}

/// cuBLAS on one GPU. For the thread that CubeCL launches from, whose context it belongs to.
#[derive(Debug)]
pub(crate) struct Queue {
    cublas: Cublas,
    driver: Driver,
    handle: Opaque,
    context: Opaque,
    stream: Opaque,
    /// What was asked for before a product, and the product.
    before: Opaque,
    done: Opaque,
}

impl Queue {
    /// In the context of this thread.
    ///
    /// # Errors
    /// What is not there, or failed.
    pub(crate) fn new(library: &Path) -> Result<Self, String> {
        let driver = Driver::load(Path::new("libcuda.so.1"))
            .map_err(|error| format!("a driver of CUDA 12.5 or newer: {error}"))?;
        let cublas = Cublas::load(library)?;
        let made = |make: &dyn Fn(*mut Opaque) -> c_int, what: &str| {
            let mut found = null_mut();
            match make(&raw mut found) {
                0 if !found.is_null() => Ok(found),
                status => Err(format!("{what} failed with status {status}")),
            }
        };
        // SAFETY: it writes a pointer to where it is told, which is there.
        let context = made(&|out| unsafe { (driver.current_context)(out) }, "cuCtxGetCurrent")?;
        // SAFETY: as above.
        let stream = made(&|out| unsafe { (driver.create_stream)(out, NON_BLOCKING) }, "cuStreamCreate")?;
        // SAFETY: as above.
        let event = || made(&|out| unsafe { (driver.create_event)(out, NO_TIMING) }, "cuEventCreate");
        let (before, done) = (event()?, event()?);
        let mut handle = null_mut();
        // SAFETY: as above.
        said(unsafe { (cublas.create)(&raw mut handle) })?;
        // SAFETY: both were just made.
        said(unsafe { (cublas.set_stream)(handle, stream) })?;
        // SAFETY: it was just made.
        said(unsafe { (cublas.set_math_mode)(handle, SUMS_IN_FULL) })?;
        let queue = Self { cublas, driver, handle, context, stream, before, done };
        queue.try_out()?;
        Ok(queue)
    }

    /// Multiplies once and waits for it: a driver or a GPU that this is not for shows here, where others can still multiply.
    fn try_out(&self) -> Result<(), String> {
        const ELEMENTS: u64 = 4;
        let mut memory = 0;
        // SAFETY: there is room for an address.
        driver_said(unsafe { (self.driver.allocate)(&raw mut memory, 12 * ELEMENTS as usize) }, "cuMemAlloc")?;
        let layout = Layout { turned: false, leading: 2, step: 0, count: 1 };
        let place = |number: u64| Place { address: memory + 4 * ELEMENTS * number, layout };
        let numbers = Numbers { operands: F32, result: F32, computed: IN_F32 };
        let product = Product { a: place(0), b: place(1), c: place(2), sides: [2, 2, 2], numbers };
        // SAFETY: there is room for three matrices of four f32, which nobody else knows of.
        let queued = unsafe { self.multiply(&product) };
        // SAFETY: the stream is of this context.
        let done = driver_said(unsafe { (self.driver.synchronize)(self.stream) }, "cuStreamSynchronize");
        // SAFETY: it was allocated here, and nothing is at work with it any more.
        let freed = driver_said(unsafe { (self.driver.free)(memory) }, "cuMemFree");
        queued.and(done).and(freed)
    }

    /// As `12.9.3`.
    ///
    /// # Errors
    /// When cuBLAS does not know.
    pub(crate) fn version(&self) -> Result<String, String> {
        let mut version = 0;
        // SAFETY: the handle is cuBLAS's, and there is room for a number.
        said(unsafe { (self.cublas.version)(self.handle, &raw mut version) })?;
        Ok(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
    }

    /// Queues a product.
    ///
    /// # Safety
    /// All places are allocated as far as their layouts reach, and what is there does not change hands but by work that is
    /// queued in this context later.
    ///
    /// # Errors
    /// When one of the libraries refuses, and nothing is written.
    pub(crate) unsafe fn multiply(&self, product: &Product) -> Result<(), String> {
        let [m, n, k] = product.sides;
        // SAFETY: context, stream and events are of this context.
        driver_said(unsafe { (self.driver.record_context)(self.context, self.before) }, "cuCtxRecordEvent")?;
        // SAFETY: as above.
        driver_said(unsafe { (self.driver.stream_waits)(self.stream, self.before, 0) }, "cuStreamWaitEvent")?;
        // SAFETY: the caller answers for the places.
        said(unsafe { self.call(product) })
            .map_err(|status| format!("[{m}, {k}] times [{k}, {n}], {} times: {status}", product.c.layout.count))?;
        // SAFETY: as above.
        driver_said(unsafe { (self.driver.record)(self.done, self.stream) }, "cuEventRecord")?;
        // SAFETY: as above.
        driver_said(unsafe { (self.driver.context_waits)(self.context, self.done) }, "cuCtxWaitEvent")
    }

    /// For one product the function that PyTorch calls, too.
    ///
    /// # Safety
    /// As [`Queue::multiply`].
    unsafe fn call(&self, product: &Product) -> c_int {
        // The operands change places: see `layout`.
        let Product { a: right, b: left, c, sides: [m, n, k], numbers } = *product;
        let side = |layout: Layout| if layout.turned { TRANSPOSED } else { AS_IT_LIES };
        let (turn_left, turn_right) = (side(left.layout), side(right.layout));
        let (one, zero) = (1.0f32, 0.0f32);
        let factor = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
        if c.layout.count == 1 {
            // SAFETY: the caller answers for the places; factors are f32, which is what all is computed in.
            return unsafe {
                (self.cublas.multiply)(
                    self.handle,
                    turn_left,
                    turn_right,
                    n,
                    m,
                    k,
                    factor(&one),
                    left.address,
                    numbers.operands,
                    left.layout.leading,
                    right.address,
                    numbers.operands,
                    right.layout.leading,
                    factor(&zero),
                    c.address,
                    numbers.result,
                    c.layout.leading,
                    numbers.computed,
                    ITS_CHOICE,
                )
            };
        }
        // SAFETY: as above.
        unsafe {
            (self.cublas.multiply_stacks)(
                self.handle,
                turn_left,
                turn_right,
                n,
                m,
                k,
                factor(&one),
                left.address,
                numbers.operands,
                left.layout.leading,
                left.layout.step,
                right.address,
                numbers.operands,
                right.layout.leading,
                right.layout.step,
                factor(&zero),
                c.address,
                numbers.result,
                c.layout.leading,
                c.layout.step,
                c.layout.count,
                numbers.computed,
                ITS_CHOICE,
            )
        }
    }
}

fn driver_said(status: c_int, what: &str) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{what} failed (CUDA_ERROR_{status})")) }
}

fn said(status: c_int) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(cublas_said(status)) }
}
