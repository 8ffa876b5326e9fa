//! Figures that stay on the device until somebody asks for them.
//!
//! To read a number from a GPU is to wait until it has done all that it was given. So the loss and the gradient's norm of
//! an update are left there, and those of many updates are read together when one of them is logged.

use burn::tensor::Tensor;
use sepia_engine::stage::StageError;

use super::guard::Guard;

/// Figures are read at the latest when there are of so many updates.
const MOST: usize = 256;

/// What an update leaves on the device, `[1]` each.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    /// Mean loss.
    pub(super) loss: Tensor<1>,
    /// Norm of the gradient before clipping.
    pub(super) norm: Tensor<1>,
    /// 1 where the norm is not finite because the loss was scaled too far, which is no fault; `None` without a scale.
    pub(super) excused: Option<Tensor<1>>,
}

/// Loss and norm of updates that nobody has looked at.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Updates that were done after each, and its figures.
    updates: Vec<(u64, Figures)>,
}

impl Unread {
    /// Adds those of an update; `step` counts from 1.
    pub(super) fn push(&mut self, step: u64, figures: Figures) {
        self.updates.push((step, figures));
    }

    /// Whether it is time to read.
    pub(super) fn full(&self) -> bool {
        self.updates.len() >= MOST
    }

    /// Reads all, in one transfer, tells the guard of those that are not finite, and returns the last.
    ///
    /// # Errors
    /// When the device cannot be read, or the guard has enough.
    pub(super) fn read(&mut self, guard: &mut Guard) -> Result<Option<(f64, f64)>, StageError> {
        let updates = std::mem::take(&mut self.updates);
        if updates.is_empty() {
            return Ok(None);
        }
        let steps: Vec<u64> = updates.iter().map(|(step, ..)| *step).collect();
        let figures = updates.into_iter().flat_map(|(_, Figures { loss, norm, excused })| {
            let excused = excused.unwrap_or_else(|| loss.zeros_like());
            [loss, norm, excused]
        });
        let figures = figures.collect();
        let values = Tensor::cat(figures, 0)
            .try_into_vec_as::<f64>()
            .map_err(|error| StageError::new(format!("the device cannot be read: {error}")))?;
        let mut last = None;
        for (step, figures) in steps.into_iter().zip(values.as_chunks::<3>().0) {
            let [loss, norm, excused] = *figures;
            if !(loss.is_finite() && norm.is_finite()) && excused == 0.0 {
                guard.skip(step, if loss.is_finite() { "a gradient" } else { "the loss" })?;
            }
            last = Some((loss, norm));
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::testing::test_device;

    fn of(loss: f32, norm: f32) -> Figures {
        let one = |value: f32| Tensor::from_floats([value], &test_device());
        Figures { loss: one(loss), norm: one(norm), excused: None }
    }

    #[test]
    fn the_last_is_told_and_the_guard_hears_of_all() {
        let (mut unread, mut guard) = (Unread::default(), Guard::default());
        assert_eq!(unread.read(&mut guard).unwrap(), None);
        unread.push(1, of(3.0, f32::NAN));
        unread.push(2, of(2.0, 0.5));
        assert_eq!(unread.read(&mut guard).unwrap(), Some((2.0, 0.5)));
        assert_eq!((guard.skipped, unread.read(&mut guard).unwrap()), (1, None));
        unread.push(3, of(f32::INFINITY, 0.5));
        unread.push(4, of(1.0, 0.5));
        let excused = Some(Tensor::from_floats([1.0], &test_device()));
        unread.push(4, Figures { excused, ..of(1.0, f32::INFINITY) });
        let error = unread.read(&mut guard).unwrap_err();
        assert!(error.to_string().contains("the last at step 3 in the loss"), "{error}");
    }
}
