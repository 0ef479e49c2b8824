//! What a lake's settings may be, as far as that can be said without its store and its records.

use millstream_protocol::frame::control::{LakeColumns, LakeConfig};
use millstream_protocol::limits::{
    LAKE_LAYOUT_BYTES_MAX, LAKE_OPEN_FILES, LAKE_ROLL_AGE_MS, LAKE_ROLL_BYTES, LAKE_ROLL_ROWS, LAKE_SCHEMA_BYTES_MAX,
    LAKE_URL_BYTES_MAX,
};
use millstream_protocol::names::check_name;

use super::state::range;
use crate::error::BrokerError;

/// Checks name, ranges and lengths, and that the format can be compressed so.
pub(super) fn check_lake(config: &LakeConfig) -> Result<(), BrokerError> {
    check_name(&config.name)?;
    range("the length of url", config.url.len() as u64, 1..=LAKE_URL_BYTES_MAX as u64)?;
    range("the length of layout", config.layout.len() as u64, 0..=LAKE_LAYOUT_BYTES_MAX as u64)?;
    if let LakeColumns::Declared(schema) = &config.columns {
        range("the length of schema", schema.len() as u64, 1..=LAKE_SCHEMA_BYTES_MAX as u64)?;
    }
    range("roll_bytes", config.roll_bytes, LAKE_ROLL_BYTES)?;
    range("roll_rows", config.roll_rows, LAKE_ROLL_ROWS)?;
    range("roll_age_ms", config.roll_age_ms, LAKE_ROLL_AGE_MS)?;
    range("max_age_ms", config.max_age_ms, config.roll_age_ms..=*LAKE_ROLL_AGE_MS.end())?;
    range("open_files", u64::from(config.open_files), LAKE_OPEN_FILES)?;
    let legal = config.format.compressions();
    if legal.contains(&config.compression) {
        return Ok(());
    }
    let names: Vec<&str> = legal.iter().map(|compression| compression.name()).collect();
    let legal = format!("{} for {}", names.join(", "), config.format.name());
    Err(BrokerError::IllegalSetting { setting: "compression", value: config.compression.name().to_owned(), legal })
}
