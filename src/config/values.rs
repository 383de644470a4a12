//! Values as people write them. Durations and sizes: `500ms`, `2s`, `1h30m`, `7d`; `65536`, `512KiB`, `8MiB`.

use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::domain::JobId;

/// The longest: no sum with a point in time overflows.
const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);
const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];
const LEAST_MESSAGE: usize = 64 << 10;
const SIZE_UNITS: [(&str, u64); 5] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Numbers with units, the larger ones first or not: `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is a number with ms, s, m, h or d, such as 500ms, 2s or 1h30m".to_owned();
    let (mut rest, mut millis) = (text.trim(), 0_u64);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, behind) = split_number(rest).ok_or_else(wrong)?;
        let unit = behind.find(|c: char| c.is_ascii_digit()).map_or(behind, |end| &behind[..end]);
        let each = factor(&DURATION_UNITS, unit).ok_or_else(wrong)?;
        millis = number.checked_mul(each).and_then(|part| millis.checked_add(part)).unwrap_or(u64::MAX);
        rest = &behind[unit.len()..];
    }
    let duration = Duration::from_millis(millis);
    if duration > LONGEST { Err("the longest duration is ten years".to_owned()) } else { Ok(duration) }
}

/// A duration that is not zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}

/// A number of bytes, at least one, at most what a message can have (2 GiB).
pub fn size(text: &str) -> Result<usize, String> {
    let wrong = || "a size is a number of bytes, or a number with KiB, MiB or GiB, such as 8MiB".to_owned();
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    let bytes = factor(&SIZE_UNITS, unit.trim()).ok_or_else(wrong)?.saturating_mul(number);
    match i32::try_from(bytes) {
        Ok(1..) => usize::try_from(bytes).map_err(|error| error.to_string()),
        _ => Err("must be from 1 byte to 2GiB".to_owned()),
    }
}

/// The largest message, not so small that an answer or a usual report does not fit.
pub fn message_size(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    if bytes < LEAST_MESSAGE { Err("must be at least 64KiB".to_owned()) } else { Ok(bytes) }
}

/// The key of a label.
pub fn label(text: &str) -> Result<String, String> {
    text.parse::<JobId>().map(|key| key.to_string()).map_err(|_| "a label's key is like a job id".to_owned())
}

/// What is logged. Directives that are wrong are refused; by itself the filter would drop them.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())
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
    fn durations_are_numbers_with_units() {
        let millis = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis(" 2s "), Ok(2000));
        assert_eq!(millis("1h30m"), Ok(90 * 60_000));
        assert_eq!(millis("7d"), Ok(7 * 24 * 3_600_000));
        assert_eq!(millis("0s"), Ok(0));
        for wrong in ["", "5", "s", "5 s", "-1s", "1.5s", "2w", "1h30", "99999999999999999999s", "20000d"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert!(positive_duration("0ms").is_err());
        assert!(std::time::Instant::now().checked_add(LONGEST).is_some());
    }

    #[test]
    fn sizes_are_bytes_unless_they_say_more() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("1 GiB"), Ok(1 << 30));
        for wrong in ["", "0", "MiB", "8MB", "2GiB", "-1", "18446744073709551615GiB"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(message_size("64KiB"), Ok(65_536));
        assert!(message_size("65535").is_err());
    }
}
