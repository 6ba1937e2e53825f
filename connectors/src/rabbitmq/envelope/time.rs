//! RFC 3339 and the whole seconds of an AMQP timestamp, both ways.
//!
//! The timestamp is a courtesy to people who look at the queue; the exact `time` travels as an attribute.

const DAY_SECONDS: i64 = 86_400;

/// The seconds since 1970 of an RFC 3339 time; fractions are dropped. None for what is no such time, or is before 1970.
pub(super) fn seconds_of(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, allowed: &str| text.get(at..at + 1).is_some_and(|c| allowed.contains(c));
    if !(is(4, "-") && is(7, "-") && is(10, "Tt ") && is(13, ":") && is(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !in_range {
        return None;
    }
    let zone = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let zone_seconds = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let start = text.len() - 5;
            let seconds = number(start, start + 2)? * 3_600 + number(start + 3, start + 5)? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = days_of(year, month, day) * DAY_SECONDS + hour * 3_600 + minute * 60 + second;
    u64::try_from(seconds - zone_seconds).ok()
}

/// The RFC 3339 time of seconds since 1970. None beyond the year 9999.
pub(super) fn text_of(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    let (year, month, day) = date_of(seconds / DAY_SECONDS)?;
    let rest = seconds % DAY_SECONDS;
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Days since 1970 of a date of the Gregorian calendar, counted in years that begin in March so that the leap day is last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The date of a day since 1970: the inverse of [`days_of`].
fn date_of(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(719_468)?;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year <= 9_999).then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_fractions_and_zones_are_read() {
        assert_eq!(seconds_of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds_of("2026-11-21T19:31:14.123456Z"), Some(1_795_289_474));
        assert_eq!(seconds_of("2026-11-21T21:31:14+02:00"), Some(1_795_289_474));
        assert_eq!(seconds_of("2024-02-29T12:00:00Z"), Some(1_709_208_000));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "now",
            "2026-13-01T00:00:00Z",
            "2026-11-21",
            "2026-11-21T19:31:14",
            "1969-12-31T23:59:59Z",
            "2026-11-21T19:31:14+äö:00",
        ] {
            assert_eq!(seconds_of(text), None, "{text}");
        }
        assert_eq!(text_of(u64::MAX), None);
    }

    #[test]
    fn seconds_and_text_are_each_others_inverse() {
        for day in (0..40_000_u64).step_by(37) {
            let seconds = day * 86_400 + day % 86_400;
            let text = text_of(seconds).expect("a near date");
            assert_eq!(seconds_of(&text), Some(seconds), "{text}");
        }
    }
}
