//! Sizes, numbers and times as people read them.

use chrono::{DateTime, Local, Utc};

/// `1.19 GB`: three significant digits, decimal units, as disks and networks count.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `480,213`.
pub(crate) fn count(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `3 members`, `1 member`.
pub(crate) fn plural(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(number as i128), if number == 1 { "" } else { "s" })
}

/// `2 of 3 members`, `1 of 1 member`.
pub(crate) fn of(part: usize, all: usize, noun: &str) -> String {
    format!("{} of {}", count(part as i128), plural(all, noun))
}

/// `2026-11-21 05:00:12` in UTC.
pub(crate) fn time_utc(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// The time in UTC, and in the local zone where that is another.
pub(crate) fn time_both(time: DateTime<Utc>) -> String {
    let utc = format!("{} UTC", time_utc(time));
    match time.with_timezone(&Local).offset().local_minus_utc() {
        0 => utc,
        _ => format!("{utc} ({} here)", time_local(time)),
    }
}

/// The same time in the local zone, with its offset.
fn time_local(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S %:z").to_string()
}

/// `2 min`, `3 h`, `5 d`: the age in the largest unit that is not zero.
pub(crate) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - then).num_seconds();
    match seconds {
        ..0 => "in the future".to_owned(),
        0..=89 => format!("{seconds} s"),
        90..=5399 => format!("{} min", (seconds + 30) / 60),
        5400..=172_799 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `41 ms`, `1.9 s`, `3 min 20 s`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        let seconds = seconds.round() as u64;
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

/// Foreign text for a terminal: control characters shown, never sent.
pub(crate) fn printable(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    // What turns the direction of writing around is no better.
    crate::operation::vocabulary::printable(&escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_190_000_000), "1.19 GB");
        assert_eq!(size(999_999_999), "1.00 GB");
        assert_eq!(size(25_200_000), "25.2 MB");
        assert_eq!(count(480_213), "480,213");
        assert_eq!(count(-1), "-1");
        assert_eq!(count(1_000_000_000), "1,000,000,000");
    }

    #[test]
    fn durations() {
        let shown = |seconds| duration(std::time::Duration::from_secs_f64(seconds));
        assert_eq!(shown(0.0414), "41 ms");
        assert_eq!(shown(0.9996), "1.0 s");
        assert_eq!(shown(59.96), "1 min 0 s");
        assert_eq!(shown(119.7), "2 min 0 s");
        assert_eq!(shown(200.0), "3 min 20 s");
    }

    #[test]
    fn terminals_get_no_control_characters() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
