//! From a spanned value to a typed one, through serde.

use serde::de::DeserializeOwned;

use super::{Value, ValueError};

pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, ValueError> {
    let _ = value;
    todo!()
}
