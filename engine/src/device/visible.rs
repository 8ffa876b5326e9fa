//! `CUDA_VISIBLE_DEVICES`: which GPUs a process sees, and in which order.

use super::Gpu;

/// What the setting leaves of all GPUs, numbered anew.
///
/// As the CUDA Programming Guide has it: numbers or (the beginnings of) UUIDs, separated by commas; the list ends before the
/// first word that names no GPU. Without a setting all are seen.
pub(super) fn visible(all: Vec<Gpu>, setting: Option<&str>) -> Vec<Gpu> {
    let chosen: Vec<Gpu> = match setting {
        None => all,
        Some(setting) => setting.split(',').map_while(|word| find(&all, word.trim()).cloned()).collect(),
    };
    chosen.into_iter().enumerate().map(|(number, gpu)| Gpu { number, ..gpu }).collect()
}

fn find<'a>(all: &'a [Gpu], word: &str) -> Option<&'a Gpu> {
    match word.parse::<usize>() {
        Ok(number) => all.get(number),
        Err(_) if word.starts_with("GPU-") => all.iter().find(|gpu| gpu.uuid.starts_with(word)),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(setting: Option<&str>) -> String {
        let gpu = |number, uuid: &str| Gpu {
            number,
            name: String::new(),
            uuid: uuid.to_owned(),
            memory_bytes: 0,
            compute_capability: (9, 0),
        };
        let all = vec![gpu(0, "GPU-aa11"), gpu(1, "GPU-bb22"), gpu(2, "GPU-cc33")];
        visible(all, setting).iter().map(|gpu| format!("{}:{} ", gpu.number, gpu.uuid)).collect()
    }

    #[test]
    fn without_a_setting_all_are_seen() {
        assert_eq!(seen(None), "0:GPU-aa11 1:GPU-bb22 2:GPU-cc33 ");
    }

    #[test]
    fn numbers_and_uuids_choose_and_order() {
        assert_eq!(seen(Some("2,0")), "0:GPU-cc33 1:GPU-aa11 ");
        assert_eq!(seen(Some(" GPU-bb , 0")), "0:GPU-bb22 1:GPU-aa11 ");
    }

    #[test]
    fn the_list_ends_before_what_names_no_gpu() {
        assert_eq!(seen(Some("1,7,0")), "0:GPU-bb22 ");
        assert_eq!(seen(Some("-1")), "");
        assert_eq!(seen(Some("")), "");
    }
}
