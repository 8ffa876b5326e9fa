//! The baseline: every weight trained in full by AdamW.

use schemars::JsonSchema;
use sepia_engine::stage::Check;
use serde::{Deserialize, Serialize};

use super::{Matrix, MatrixCost, MethodParams, MethodSetup};
use crate::train::{FullAdamW, Method};

/// Every weight, by AdamW. There is nothing to set: AdamW's constants belong to the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FullParams {}

impl MethodParams for FullParams {
    const STAGE: &'static str = "pretrain";
    const SOURCE: &'static str = "Kingma and Ba 2015 (Adam); Loshchilov and Hutter 2019 (AdamW), arXiv 1711.05101";

    fn check(&self, _: &str, _: &mut Check<'_>) {}

    fn build(&self, setup: &MethodSetup) -> Box<dyn Method> {
        Box::new(FullAdamW::new(setup.hyper, setup.state.dtype()))
    }

    fn cost(&self, matrix: Matrix) -> Option<MatrixCost> {
        Some(matrix.dense(2 * matrix.numbers() * matrix.float))
    }
}
