//! Parsers for the values of settings: durations (`500ms`, `2s`, `1h30m`, `7d`), sizes (`65536`, `512KiB`, `8MiB`),
//! label keys and log filters.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::domain::JobId;

/// Maximum duration. Adding it to a point in time never overflows.
const MAX_DURATION: Duration = Duration::from_hours(10 * 366 * 24);
const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];
/// The maximum length of a prefix of keys, in bytes.
const MAX_PREFIX_BYTES: usize = 64;
/// Smallest value that the maximum message size can have, in bytes.
const MIN_MESSAGE_SIZE: usize = 64 << 10;
/// Smallest memory that a gateway can have, in bytes. Calls get a quarter of it, which must hold a large report.
pub const MIN_MEMORY: usize = 64 << 20;
const SIZE_UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Parses a duration: one or more numbers with units, in any order, such as `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let invalid =
        || "a duration must be numbers with the units ms, s, m, h or d, such as 500ms, 2s or 1h30m".to_owned();
    let (mut rest, mut millis) = (text.trim(), 0_u64);
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(invalid)?;
        let unit = after.find(|c: char| c.is_ascii_digit()).map_or(after, |end| &after[..end]);
        let each = factor(&DURATION_UNITS, unit).ok_or_else(invalid)?;
        millis = number.checked_mul(each).and_then(|part| millis.checked_add(part)).unwrap_or(u64::MAX);
        rest = &after[unit.len()..];
    }
    let duration = Duration::from_millis(millis);
    if duration > MAX_DURATION { Err("a duration must be at most ten years".to_owned()) } else { Ok(duration) }
}

/// Parses a duration that must not be zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(duration) }
}

/// Parses a size in bytes, which must be at least 1 byte and less than 2 GiB.
pub fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = split_number(text.trim()).ok_or_else(invalid_size)?;
    let bytes = factor(&SIZE_UNITS, unit.trim()).ok_or_else(invalid_size)?.saturating_mul(number);
    match i32::try_from(bytes) {
        Ok(1..) => usize::try_from(bytes).map_err(|error| error.to_string()),
        _ => Err("a size must be at least 1 byte and less than 2GiB".to_owned()),
    }
}

/// Parses a count that must not be zero.
pub fn positive_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "must be a number above zero".to_owned())
}

/// Parses the memory of a gateway, which must be at least 64 MiB.
pub fn memory(text: &str) -> Result<usize, String> {
    let (number, unit) = split_number(text.trim()).ok_or_else(invalid_size)?;
    let bytes = factor(&SIZE_UNITS, unit.trim()).ok_or_else(invalid_size)?.saturating_mul(number);
    match usize::try_from(bytes) {
        Ok(bytes) if bytes >= MIN_MEMORY => Ok(bytes),
        _ => Err("must be at least 64MiB".to_owned()),
    }
}

/// Parses a maximum message size, which must be at least 64 KiB so that usual reports fit.
pub fn message_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    if bytes < MIN_MESSAGE_SIZE { Err("must be at least 64KiB".to_owned()) } else { Ok(bytes) }
}

/// Parses the key of a label, which has the syntax of a job ID.
pub fn label(text: &str) -> Result<String, String> {
    text.parse::<JobId>().map(|key| key.to_string()).map_err(|error| format!("the key of a label {error}"))
}

/// Parses the prefix of the keys in Redis. Braces would change the hash tags of the keys.
pub fn redis_prefix(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    if (1..=MAX_PREFIX_BYTES).contains(&text.len()) && text.chars().all(is_allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("a prefix has 1 to {MAX_PREFIX_BYTES} letters, digits or the characters . _ : -"))
}

/// Parses a log filter. Rejects an invalid directive, which `EnvFilter::new` would ignore.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

fn invalid_size() -> String {
    "a size must be a number of bytes, or a number with KiB, MiB or GiB, such as 8MiB".to_owned()
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units() {
        let millis = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis(" 2s "), Ok(2000));
        assert_eq!(millis("1h30m"), Ok(90 * 60_000));
        assert_eq!(millis("7d"), Ok(7 * 24 * 3_600_000));
        assert_eq!(millis("0s"), Ok(0));
        for invalid in ["", "5", "s", "5 s", "-1s", "1.5s", "2w", "1h30", "99999999999999999999s", "20000d"] {
            assert!(duration(invalid).is_err(), "{invalid:?}");
        }
        assert!(positive_duration("0ms").is_err());
        assert!(std::time::Instant::now().checked_add(MAX_DURATION).is_some());
    }

    #[test]
    fn prefixes_have_no_braces_and_a_bounded_length() {
        assert_eq!(redis_prefix("hw:blue-1"), Ok("hw:blue-1".to_owned()));
        for invalid in ["", "a b", "{a}", "ä", &"x".repeat(65)] {
            assert!(redis_prefix(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn sizes_without_unit_are_bytes() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        for invalid in ["", "0", "MiB", "8MB", "2GiB", "-1", "18446744073709551615GiB"] {
            assert!(size(invalid).is_err(), "{invalid:?}");
        }
        assert_eq!(message_size("64KiB"), Ok(65_536));
        assert!(message_size("65535").is_err());
        assert_eq!(memory("64MiB"), Ok(64 << 20));
        assert_eq!(memory("16GiB"), Ok(16 << 30));
        assert!(memory("63MiB").is_err() && memory("").is_err());
    }
}
