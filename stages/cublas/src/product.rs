//! From CubeCL's tensors to cuBLAS and back.

use std::{
    any::TypeId,
    cell::RefCell,
    collections::HashMap,
    ffi::c_int,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use burn::tensor::{DType, Shape};
use burn_cubecl::{
    kernel::into_contiguous,
    ops::numeric::{empty_device_contiguous_dtype, empty_device_dtype},
    tensor::CubeTensor,
};
use cubecl::{
    client::Client,
    cuda::{CudaDevice, CudaRuntime},
    device::DeviceId,
    device_handle::DeviceHandle,
    server::{BufferBinding, ServerError},
};
use cubecl_environment::{backtrace::BackTrace, stream::StreamId};
use cubecl_server::{
    runtime::Runtime as _,
    server::ServerStorage,
    storage::{ComputeStorage, ManagedResource},
    stream::ExecuteScope,
};

use crate::{
    bindings::{BF16, F16, F32, IN_F32, IN_TF32},
    layout::Layout,
    queue::{Numbers, Place, Product, Queue},
};

type Server = <CudaRuntime as cubecl_server::runtime::Runtime>::Server;

/// cuBLAS, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As `12.9.3`.
    pub version: String,
    library: PathBuf,
}

/// What this process uses, once it is known.
static OPENED: OnceLock<Result<Found, String>> = OnceLock::new();

thread_local! {
    /// On the thread that a GPU's work is launched from.
    static QUEUE: RefCell<Option<Queue>> = const { RefCell::new(None) };
    /// The way to those threads.
    static LAUNCHERS: RefCell<HashMap<DeviceId, DeviceHandle<Server>>> = RefCell::default();
}

/// Starts cuBLAS on the GPU of this number: the first of these libraries that can be used. The first answer holds for the
/// process.
///
/// # Errors
/// For a sentence, what came of each. Products are left to others then.
pub fn open(index: usize, libraries: &[PathBuf]) -> &'static Result<Found, String> {
    OPENED.get_or_init(|| {
        let launcher = launcher(&CudaRuntime::client(&CudaDevice::new(index)));
        let mut tried = Vec::new();
        for library in libraries {
            let started = launcher.submit_blocking(|_| {
                let queue = Queue::new(library)?;
                let version = queue.version()?;
                QUEUE.set(Some(queue));
                Ok(version)
            });
            match started.unwrap_or_else(|error| Err(format!("{error:?}"))) {
                Ok(version) => return Ok(Found { version, library: library.clone() }),
                Err(error) => tried.push(format!("{}: {error}", library.display())),
            }
        }
        Err(if tried.is_empty() { "cuBLAS was found nowhere".to_owned() } else { tried.join("; ") })
    })
}

/// What [`open`] found, if it was asked.
#[must_use]
pub fn opened() -> Option<&'static Result<Found, String>> {
    OPENED.get()
}

/// Whether products can be left to it.
#[must_use]
pub fn is_open() -> bool {
    matches!(opened(), Some(Ok(_)))
}

/// How exact products of f32 are. Those of 16-bit numbers are summed up in f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exactness {
    /// As f32 is.
    Exact,
    /// Operands may be rounded to TF32, 11 significant bits, which tensor cores multiply.
    Fast,
}

/// `A B` of matrices or of stacks of equally many, in numbers of `dtype`. `None` where cuBLAS is not [open](is_open), the tensors
/// are not on an NVIDIA GPU, or numbers or sizes are not for it.
#[must_use]
pub fn product(a: &CubeTensor, b: &CubeTensor, exactness: Exactness, dtype: DType) -> Option<CubeTensor> {
    let found = OPENED.get()?.as_ref().ok()?;
    if a.client.service_id().service != TypeId::of::<Server>() || a.client.service_id() != b.client.service_id() {
        return None;
    }
    let numbers = numbers([a.dtype, b.dtype, dtype], exactness)?;
    let (shape, sides) = sizes(a.meta.shape(), b.meta.shape())?;
    let out = empty(a, shape, dtype);
    let ((a, a_layout), (b, b_layout)) = (readable(a)?, readable(b)?);
    let c_layout = layout(&out)?;
    let [from_a, from_b, into] = [&a, &b, &out].map(|tensor| tensor.handle.clone().binding());
    let stream = StreamId::current();
    launcher(&a.client).submit(move |server| {
        let place = |of: &ManagedResource<Resource>, layout| Place { address: of.resource().ptr, layout };
        // What an operand was not written with shows where the result is read.
        let resources = resources(server, [from_a, from_b, into.clone()], stream);
        let queued = ExecuteScope::over(server, stream, vec![into]).execute(|_| {
            let [a, b, c] = resources?;
            let product =
                Product { a: place(&a, a_layout), b: place(&b, b_layout), c: place(&c, c_layout), sides, numbers };
            // SAFETY: CubeCL has allocated all three for tensors of these shapes and strides, keeps them while `a`, `b` and `c`
            // live, and gives their memory to nothing but what is queued in this context after this.
            with_queue(&found.library, |queue| unsafe { queue.multiply(&product) })
                .map_err(|reason| ServerError::Generic { reason, backtrace: BackTrace::capture() })
        });
        // A failure is kept with the result, and told to who reads it.
        drop(queued);
    });
    Some(out)
}

fn with_queue(library: &Path, work: impl FnOnce(&Queue) -> Result<(), String>) -> Result<(), String> {
    QUEUE.with_borrow_mut(|queue| match queue {
        Some(queue) => work(queue),
        None => work(queue.insert(Queue::new(library)?)),
    })
}

fn launcher(client: &Client) -> DeviceHandle<Server> {
    let device = client.service_id().device;
    LAUNCHERS.with_borrow_mut(|known| known.entry(device).or_insert_with(|| DeviceHandle::new(device)).clone())
}

type Resource = <<Server as ServerStorage>::Storage as ComputeStorage>::Resource;

fn resources(
    server: &mut Server,
    [a, b, c]: [BufferBinding; 3],
    stream: StreamId,
) -> Result<[ManagedResource<Resource>; 3], ServerError> {
    let mut of = |binding| server.get_resource(binding, stream);
    Ok([of(a)?, of(b)?, of(c)?])
}

/// cuBLAS's numbers for these types.
fn numbers([a, b, c]: [DType; 3], exactness: Exactness) -> Option<Numbers> {
    let number = |dtype| match dtype {
        DType::F32 => Some(F32),
        DType::F16 => Some(F16),
        DType::BF16 => Some(BF16),
        _ => None,
    };
    let computed = if a == DType::F32 && exactness == Exactness::Fast { IN_TF32 } else { IN_F32 };
    let fit = a == b && (c == a || c == DType::F32);
    fit.then_some(Numbers { operands: number(a)?, result: number(c)?, computed })
}

/// The shape of the result, and its m, n and k.
fn sizes(a: &Shape, b: &Shape) -> Option<(Shape, [c_int; 3])> {
    let (a, b) = (a.as_slice(), b.as_slice());
    let ([outer @ .., m, k], [others @ .., inner, n]) = (a, b) else { return None };
    if outer != others || k != inner || a.contains(&0) || b.contains(&0) {
        return None;
    }
    let mut shape = a.to_vec();
    *shape.last_mut()? = *n;
    let side = |side: usize| c_int::try_from(side).ok();
    Some((Shape::from(shape), [side(*m)?, side(*n)?, side(*k)?]))
}

/// Bytes that tensor cores load and store at once: rows that begin at multiples of them are multiplied fastest.
const ALIGNED: usize = 16;

/// A place for the result. Its rows lie apart where they would not be aligned otherwise, and only there: who takes the tensor
/// as one row of numbers would have to copy it.
fn empty(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let row = shape.as_slice().last().map_or(0, |width| width * dtype.size());
    let make = if row.is_multiple_of(ALIGNED) { empty_device_contiguous_dtype } else { empty_device_dtype };
    make(like.client.clone(), like.device.clone(), shape, dtype)
}

fn layout(tensor: &CubeTensor) -> Option<Layout> {
    Layout::of(tensor.meta.shape().as_slice(), tensor.meta.strides())
}

/// The tensor where it lies, or a copy that cuBLAS can read.
fn readable(tensor: &CubeTensor) -> Option<(CubeTensor, Layout)> {
    if let Some(found) = layout(tensor) {
        return Some((tensor.clone(), found));
    }
    let copy = into_contiguous(tensor.clone());
    let found = layout(&copy)?;
    Some((copy, found))
}
