//! Durations and sizes as people write them: `5s`, `64KiB`.

use std::time::Duration;

/// Reason why a string is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotADuration {
    /// No leading digits, a fraction, a sign, or a unit that is not supported (or none).
    #[error("not a duration; write a whole number and ms, s, m, h or d, as in \"500ms\", \"5s\" or \"1h\"")]
    Form,
    /// More than `u64::MAX` milliseconds.
    #[error("the duration is too long to be counted")]
    TooLong,
}

/// Reason why a string is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASize {
    /// No leading digits, a fraction, a sign, or a unit that is not supported.
    #[error("not a size; write whole bytes or a number and KiB, MiB, GiB, KB, MB or GB, as in \"64KiB\"")]
    Form,
    /// More than `u64::MAX` bytes.
    #[error("the size is too large to be counted")]
    TooLarge,
}

/// Largest first, so that printing finds the largest that divides.
const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Binary units before the decimal ones, as printing prefers them.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("", 1),
];

/// Parses `500ms`, `5s`, `2m`, `1h`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, NotADuration> {
    let (digits, unit) = split(text);
    let scale = scale_of(&DURATIONS, unit).filter(|_| !digits.is_empty()).ok_or(NotADuration::Form)?;
    let number: u64 = digits.parse().map_err(|_| NotADuration::TooLong)?;
    number.checked_mul(scale).map(Duration::from_millis).ok_or(NotADuration::TooLong)
}

/// Parses `64KiB`, `1MB`, `4096`, in bytes.
pub fn parse_size(text: &str) -> Result<u64, NotASize> {
    let (digits, unit) = split(text);
    let scale = scale_of(&SIZES, unit).filter(|_| !digits.is_empty()).ok_or(NotASize::Form)?;
    let number: u64 = digits.parse().map_err(|_| NotASize::TooLarge)?;
    number.checked_mul(scale).ok_or(NotASize::TooLarge)
}

/// Formats a duration as [`parse_duration`] reads it, in the largest exact unit; to the millisecond.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    format_in(&DURATIONS, millis)
}

/// Formats a size as [`parse_size`] reads it, in the largest exact unit.
pub fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0".to_owned();
    }
    format_in(&SIZES, bytes)
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn scale_of(units: &[(&str, u64)], wanted: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| *unit == wanted).map(|(_, scale)| *scale)
}

fn format_in(units: &[(&str, u64)], amount: u64) -> String {
    let found = units.iter().find(|(_, scale)| amount.is_multiple_of(*scale));
    let (unit, scale) = found.copied().unwrap_or(("", 1));
    format!("{}{unit}", amount / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("5s", 5000), ("2m", 120_000), ("1h", 3_600_000), ("1d", 86_400_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "1.5s", "-1s", "+1s", "5S", "5sec", "1h30m", "５s", "5µs"] {
            assert_eq!(parse_duration(text), Err(NotADuration::Form), "{text}");
        }
        for text in ["18446744073709551616ms", "18446744073709551615s"] {
            assert_eq!(parse_duration(text), Err(NotADuration::TooLong), "{text}");
        }
    }

    #[test]
    fn sizes_need_number_and_optional_unit() {
        for (text, bytes) in
            [("4096", 4096), ("64KiB", 65536), ("1MB", 1_000_000), ("2GiB", 2 << 30), ("0", 0)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64 KiB", "64kib", "1.5MiB", "-1", "64K", "64B"] {
            assert_eq!(parse_size(text), Err(NotASize::Form), "{text}");
        }
        assert_eq!(parse_size("99999999999999999999"), Err(NotASize::TooLarge));
        assert_eq!(parse_size("18446744073709551615KiB"), Err(NotASize::TooLarge));
    }

    #[test]
    fn quantities_print_in_their_largest_whole_unit() {
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_duration(Duration::from_secs(2 * 3600)), "2h");
        assert_eq!(format_duration(Duration::ZERO), "0s");
        assert_eq!(format_size(65536), "64KiB");
        assert_eq!(format_size(1_000_000), "1MB");
        assert_eq!(format_size(1001), "1001");
    }

    proptest! {
        #[test]
        fn printed_units_round_trip(millis: u64, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn unit_parsing_never_panics(text in ".{0,40}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
