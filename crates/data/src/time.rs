//! Dates and times as text: ISO 8601 as Python's `str` writes it, `2020-01-31 12:00:00.250000+02:00`, which
//! is what a template sees of such a column in the `datasets` library.

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use polars::prelude::TimeUnit;

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// `days` since 1970-01-01. Every number is a date: years outside 0 to 9999 have a sign.
pub(crate) fn date(days: i64) -> String {
    let (year, month, day) = civil(days);
    match year {
        0..=9999 => format!("{year:04}-{month:02}-{day:02}"),
        _ => format!("{year:+05}-{month:02}-{day:02}"),
    }
}

/// `value` in `unit` since 1970-01-01T00:00:00, of the zone (in UTC) or of none.
///
/// # Errors
/// A zone that this machine does not know, or a time outside the years that it has rules for.
pub(crate) fn date_time(value: i64, unit: TimeUnit, zone: Option<&str>) -> Result<String, String> {
    let (per_second, digits) = match unit {
        TimeUnit::Milliseconds => (1_000, 3),
        TimeUnit::Microseconds => (1_000_000, 6),
        TimeUnit::Nanoseconds => (1_000_000_000, 9),
    };
    let seconds = value.div_euclid(per_second);
    let nanoseconds = value.rem_euclid(per_second) * 10_i64.pow(9 - digits);
    let offset_seconds = zone.map(|zone| offset(zone, seconds)).transpose()?;
    let local = seconds + offset_seconds.unwrap_or(0);
    let of_day = local.rem_euclid(DAY_SECONDS);
    let mut text = format!(
        "{} {:02}:{:02}:{:02}",
        date(local.div_euclid(DAY_SECONDS)),
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    match nanoseconds {
        0 => {}
        n if n % 1000 == 0 => text += &format!(".{:06}", n / 1000),
        n => text += &format!(".{n:09}"),
    }
    if let Some(offset) = offset_seconds {
        let (sign, size) = (if offset < 0 { '-' } else { '+' }, offset.abs());
        text += &format!("{sign}{:02}:{:02}", size / 3600, size / 60 % 60);
        if size % 60 != 0 {
            text += &format!(":{:02}", size % 60);
        }
    }
    Ok(text)
}

/// Seconds east of Greenwich in `zone` (`UTC`, `+02:00`, `Europe/Berlin`) at a time.
fn offset(zone: &str, seconds: i64) -> Result<i64, String> {
    if matches!(zone, "UTC" | "Etc/UTC" | "Z" | "GMT") {
        return Ok(0);
    }
    if let Some(fixed) = fixed_offset(zone) {
        return Ok(i64::from(fixed.seconds()));
    }
    let zone = TimeZone::get(zone).map_err(|_| format!("the time zone `{zone}` is not known here"))?;
    let time = Timestamp::from_duration(SignedDuration::from_secs(seconds))
        .map_err(|_| format!("{seconds} seconds from 1970 are too far for a time with a zone"))?;
    Ok(i64::from(zone.to_offset(time).seconds()))
}

/// `+02:00` or `+0200`, as Arrow writes zones without a name.
fn fixed_offset(zone: &str) -> Option<Offset> {
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes): (i32, i32) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar: `civil_from_days` of
/// Hinnant, <https://howardhinnant.github.io/date_algorithms.html>. (jiff ends at the year 9999, columns of
/// dates do not.)
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (18_262, "2020-01-01"),
            (11_016, "2000-02-29"),
            (-719_528, "0000-01-01"),
            (-719_529, "-0001-12-31"),
            (2_932_896, "9999-12-31"),
            (i64::from(i32::MAX), "+5881580-07-11"),
        ] {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn times_read_as_python_writes_them() {
        use TimeUnit::{Microseconds as Us, Milliseconds as Ms, Nanoseconds as Ns};
        let new_year = 1_577_836_800;
        for (value, unit, zone, text) in [
            (new_year * 1_000_000, Us, None, "2020-01-01 00:00:00"),
            (new_year * 1_000 + 250, Ms, None, "2020-01-01 00:00:00.250000"),
            (new_year * 1_000_000_000 + 1, Ns, None, "2020-01-01 00:00:00.000000001"),
            (-1, Us, None, "1969-12-31 23:59:59.999999"),
            (new_year * 1_000_000, Us, Some("UTC"), "2020-01-01 00:00:00+00:00"),
            (1, Us, Some("+02:00"), "1970-01-01 02:00:00.000001+02:00"),
            (0, Ms, Some("-0330"), "1969-12-31 20:30:00-03:30"),
        ] {
            assert_eq!(date_time(value, unit, zone).unwrap(), text);
        }
        for value in [i64::MIN, i64::MAX] {
            assert!(date_time(value, Ms, Some("UTC")).is_ok());
            assert!(date_time(value, Ms, None).is_ok());
        }
        let unknown = date_time(0, Us, Some("Nowhere/City")).unwrap_err();
        assert!(unknown.contains("Nowhere/City"), "{unknown}");
        assert!(date_time(0, Us, Some("+é1")).is_err());
    }
}
