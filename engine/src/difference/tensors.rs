//! Two safetensors files: which tensors differ, and by how much at most.

use std::collections::BTreeSet;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// `None` if one of them is no safetensors file, or all tensors are the same and only other data differ.
pub(super) fn difference(before: &[u8], after: &[u8]) -> Option<String> {
    let (before, after) = (SafeTensors::deserialize(before).ok()?, SafeTensors::deserialize(after).ok()?);
    let names: BTreeSet<&str> = before.names().into_iter().chain(after.names()).collect();
    let mut differing = 0;
    // The first tensor that is not of the same form, and the one with the largest difference.
    let mut other_form = None;
    let mut largest: Option<(f64, &str)> = None;
    for name in &names {
        match (before.tensor(name), after.tensor(name)) {
            (Ok(a), Ok(b)) if (a.dtype(), a.shape(), a.data()) == (b.dtype(), b.shape(), b.data()) => continue,
            (Ok(a), Ok(b)) if (a.dtype(), a.shape()) == (b.dtype(), b.shape()) => {
                let found = largest_difference(&a, &b);
                if found.is_some_and(|found| largest.is_none_or(|(known, _)| found > known)) {
                    largest = found.map(|found| (found, *name));
                }
                if found.is_none() {
                    other_form.get_or_insert(format!("{name} differs"));
                }
            }
            (Ok(a), Ok(b)) => {
                other_form.get_or_insert(format!("{name} was {} and is {} now", form(&a), form(&b)));
            }
            (Ok(_), Err(_)) => {
                other_form.get_or_insert(format!("{name} is missing now"));
            }
            (Err(_), _) => {
                other_form.get_or_insert(format!("{name} was not there before"));
            }
        }
        differing += 1;
    }
    if differing == 0 {
        return None;
    }
    let mut what = format!("{differing} of {} tensors differ", names.len());
    if let Some(form) = other_form {
        what.push_str(&format!("; {form}"));
    }
    if let Some((by, name)) = largest {
        what.push_str(&format!("; by at most {by:.3e}, in {name}"));
    }
    Some(what)
}

fn form(tensor: &TensorView<'_>) -> String {
    format!("{:?}{:?}", tensor.dtype(), tensor.shape()).to_lowercase()
}

/// The largest absolute difference of two tensors of one form; infinite where only one of them is NaN or infinite.
/// `None` for types that hold no floating-point numbers.
fn largest_difference(before: &TensorView<'_>, after: &TensorView<'_>) -> Option<f64> {
    fn each<const N: usize>(a: &[u8], b: &[u8], read: impl Fn([u8; N]) -> f64) -> f64 {
        let pairs = a.as_chunks::<N>().0.iter().zip(b.as_chunks::<N>().0);
        pairs.filter(|(a, b)| a != b).fold(0.0, |largest: f64, (a, b)| {
            let difference = (read(*a) - read(*b)).abs();
            largest.max(if difference.is_nan() { f64::INFINITY } else { difference })
        })
    }
    let (a, b) = (before.data(), after.data());
    Some(match before.dtype() {
        Dtype::F64 => each(a, b, f64::from_le_bytes),
        Dtype::F32 => each(a, b, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Dtype::F16 => each(a, b, |bytes| f16::from_le_bytes(bytes).to_f64()),
        Dtype::BF16 => each(a, b, |bytes| bf16::from_le_bytes(bytes).to_f64()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Dtype, &[u8])]) -> Vec<u8> {
        let view = |(name, dtype, data): &(&str, Dtype, &'static [u8])| {
            (name.to_string(), TensorView::new(*dtype, vec![data.len() / (dtype.bitsize() / 8)], data).unwrap())
        };
        let leaked: Vec<(&str, Dtype, &'static [u8])> =
            tensors.iter().map(|(name, dtype, data)| (*name, *dtype, &*data.to_vec().leak())).collect();
        safetensors::serialize(leaked.iter().map(view), None).unwrap()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn the_largest_difference_is_named() {
        let half = |value: f32| f16::from_f32(value).to_le_bytes();
        let before = file(&[
            ("a", Dtype::F32, &floats(&[1.0, 2.0])),
            ("b", Dtype::F16, &half(1.0)),
            ("c", Dtype::F32, &floats(&[5.0])),
            ("n", Dtype::I64, &[0; 8]),
        ]);
        let after = file(&[
            ("a", Dtype::F32, &floats(&[1.0, 2.25])),
            ("b", Dtype::F16, &half(1.5)),
            ("c", Dtype::F32, &floats(&[5.0])),
            ("n", Dtype::I64, &[0; 8]),
        ]);
        assert_eq!(difference(&before, &after).unwrap(), "2 of 4 tensors differ; by at most 5.000e-1, in b");
        assert_eq!(difference(&before, &before), None);
        assert_eq!(difference(b"hello", &before), None);
        let nan = file(&[("a", Dtype::F32, &floats(&[f32::NAN, 2.0])), ("c", Dtype::F64, &[0; 8])]);
        assert_eq!(difference(&before, &nan).unwrap(), "4 of 4 tensors differ; b is missing now; by at most inf, in a");
        let other = file(&[("c", Dtype::F32, &floats(&[5.0, 6.0]))]);
        let found = difference(&file(&[("c", Dtype::F32, &floats(&[5.0]))]), &other).unwrap();
        assert_eq!(found, "1 of 1 tensors differ; c was f32[1] and is f32[2] now");
    }
}
