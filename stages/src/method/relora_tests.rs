//! ReLoRA against its vectors, and the mechanism: merges, restarts, and what they leave alone.

use burn::tensor::DType;

use super::*;
use crate::{
    model::{Adapter, AdapterOptions},
    testing::test_device,
    vectors::{assert_close, assert_near, flat, tensor, vector},
};

#[test]
fn vector_relora_merge_steps() {
    let vector = vector("relora_merge_steps");
    let of = |name: &str| vector.input::<u64>(name);
    let (start, total) = (of("scheduler_start_step"), of("num_training_steps"));
    for every in [of("relora"), of("cycle_length")] {
        let fires = (start + 1..=total).filter(|u| merges_after(u - start, every) > merges_after(u - start - 1, every));
        assert_eq!(fires.collect::<Vec<u64>>(), vector.expected::<Vec<u64>>("merge_after_update"));
    }
}

#[test]
fn vector_relora_merge() {
    let vector = vector("relora_merge");
    let of = |name: &str| tensor(&vector.input(name), DType::F64);
    let rank: usize = vector.input("r");
    let adapter = Adapter {
        lora_a: Param::from_tensor(of("A")),
        lora_b: Param::from_tensor(of("B")),
        lora_scale: None,
        merged: None,
        options: AdapterOptions {
            heads: 1,
            scale: LoraScaling::Lora.factor(vector.input("alpha"), rank),
            replaces: false,
            dropout: None,
        },
    };
    assert_close(&of("W").add(adapter.delta()), &vector.expected("W_merged"), vector.tol());
    let drawn = flat(&adapters::kaiming_uniform([200, 3], 1, &of("W")));
    let largest = drawn.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    let bound: f64 = vector.expected("A_bound");
    assert!(largest <= bound + 1e-7 && largest > 0.98 * bound, "{largest} of {bound}");
}

#[test]
fn merges_come_after_the_first_update_of_each_cycle_whatever_its_length() {
    let fires =
        |every| (1..=9_u64).filter(|u| merges_after(*u, every) > merges_after(u - 1, every)).collect::<Vec<u64>>();
    assert_eq!(fires(3), [4, 7]);
    assert_eq!(fires(1), [2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(fires(100), [0; 0]);
}

#[test]
fn the_rank_of_a_merged_update_is_counted_above_round_off() {
    let w = tensor(&vec![vec![1.0, 2.0, 3.0], vec![2.0, 4.0, 6.0], vec![0.0, 1.0, 0.0]], DType::F32);
    let (rank, stable_rank) = ranks_of("w", &w).unwrap();
    assert_eq!(rank, 2.0);
    assert!(stable_rank > 1.0 && stable_rank < 1.1);
    assert_near(ranks_of("w", &Tensor::zeros([2, 2], &test_device())).unwrap().0, 0.0, 0.0);
}
