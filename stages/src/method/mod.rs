//! Low-rank training methods: each file is the complete mathematics of one, on plain tensors in torch layout.
