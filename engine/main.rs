//! The program `sepia`: the engine's command line over the stages of this build.

/// Training allocates and frees tensors all the time, and a plan of thousands of nodes small values: both gain.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sepia_engine::cli::main(sepia_stages::REGISTRY)
}
