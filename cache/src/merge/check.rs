//! What a record from elsewhere must be like.

use crate::layout::check_name;
use crate::record::{Record, RecordId};

/// The longest name of a node, port, kind or metric.
const LONGEST_NAME: usize = 4096;
/// The longest value of a row, in bytes. Whoever took a longer one could not be merged with any more.
pub(super) const LONGEST_VALUE: i32 = 64 << 20;

/// The canonical text of a record if it is what its id says and its names are harmless; else what is wrong.
pub(super) fn check(id: &RecordId, record: &Record) -> Result<String, String> {
    check_name("run id", &record.run).map_err(|error| error.to_string())?;
    let ports = record.inputs.iter().map(|input| &input.port).chain(record.outputs.iter().map(|output| &output.port));
    for name in [&record.node, &record.kind].into_iter().chain(ports).map(String::as_str).chain(metric_names(record)) {
        check_text(name)?;
    }
    if record.error.as_ref().is_some_and(|error| error.len() > 1 << 20) {
        return Err("an error message is longer than 1 MiB".to_owned());
    }
    let canonical = record.canonical().map_err(|error| error.to_string())?;
    // What is short as a whole has no long value in it; what is long may have many measurements, which are rows of their own.
    if check_length(canonical.len()).is_err() {
        let values = [serde_json::to_vec(&record.key_inputs), serde_json::to_vec(&record.params)];
        let values = values.into_iter().chain([serde_json::to_vec(&record.provenance)]);
        values.flatten().try_for_each(|value| check_length(value.len()))?;
    }
    if RecordId::of(&canonical) == *id {
        Ok(canonical)
    } else {
        Err(format!("record {} is not what its id says", id.0.short()))
    }
}

fn metric_names(record: &Record) -> impl Iterator<Item = &str> {
    record.metrics.iter().map(|(name, _)| name)
}

/// Refuses what is too long for a value of a row.
pub(crate) fn check_length(bytes: usize) -> Result<(), String> {
    match i32::try_from(bytes) {
        Ok(bytes) if bytes <= LONGEST_VALUE => Ok(()),
        _ => Err(format!("it has a value of more than {} MiB", LONGEST_VALUE >> 20)),
    }
}

/// Refuses names that could do something to a terminal, or are no names.
pub(super) fn check_text(name: &str) -> Result<(), String> {
    if name.len() > LONGEST_NAME {
        return Err(format!("a name of {} bytes", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("a name with control characters: {}", name.escape_debug().take(80).collect::<String>()));
    }
    Ok(())
}
