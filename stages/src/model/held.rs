//! Models whose parameters are held in 16 bits.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor},
};

use super::Llama;
use crate::ops;

impl Llama {
    /// The same model with every parameter in `dtype`, rounded to the nearest, ties to even.
    #[must_use]
    pub fn held_in(self, dtype: DType) -> Self {
        struct Hold(DType);

        impl ModuleMapper for Hold {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|tensor| {
                    if tensor.dtype() == self.0 {
                        return tensor;
                    }
                    let trained = tensor.is_require_grad();
                    if tensor.is_autodiff() {
                        Tensor::from_inner(ops::cast(tensor.inner(), self.0)).set_require_grad(trained)
                    } else {
                        ops::cast(tensor, self.0)
                    }
                })
            }
        }

        self.map(&mut Hold(dtype))
    }

    /// What its parameters are held in: one type for all.
    #[must_use]
    pub fn held(&self) -> DType {
        self.lm_head.weight.dtype()
    }
}
