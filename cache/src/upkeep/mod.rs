//! Looking after a store: how large it is, whether it is sound, and what it can give up.

mod contents;
mod gc;
#[cfg(test)]
mod tests;
mod usage;
mod verify;

pub use contents::Leftover;
pub use gc::{GcPolicy, GcReport};
pub use usage::{Usage, UsageOf};
pub use verify::{Damaged, Verification, VerifyProgress};
