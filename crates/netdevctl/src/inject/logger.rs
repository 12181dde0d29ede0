//! Logs of `if-inject`: a JSON object on each line of standard error, with the keys of the program that it replaces.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

/// Writes what has a level of at most this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Logger(pub(crate) u8);

impl Logger {
    /// Something that was done; level 1 for the steps, 2 for how, 4 for all.
    pub(crate) fn info(self, level: u8, message: &str, fields: Value) {
        if level <= self.0 {
            write("info", message, fields);
        }
    }

    /// Something that the user should know although the command succeeded.
    #[expect(clippy::unused_self, reason = "as the others are called")]
    pub(crate) fn warn(self, message: &str, fields: Value) {
        write("warn", message, fields);
    }

    /// Why the command failed.
    #[expect(clippy::unused_self, reason = "as the others are called")]
    pub(crate) fn error(self, message: &str) {
        write("error", message, Value::Null);
    }
}

fn write(level: &str, message: &str, fields: Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = Map::from_iter([
        ("level".to_owned(), Value::from(level)),
        ("time".to_owned(), time(now.as_secs(), now.subsec_millis()).into()),
        ("msg".to_owned(), message.into()),
    ]);
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    // nobody may read it
    let _ = writeln!(std::io::stderr().lock(), "{}", Value::Object(line));
}

/// ISO 8601 in UTC. The date is computed as in "chrono-Compatible Low-Level Date Algorithms" by Howard Hinnant.
fn time(seconds: u64, milliseconds: u32) -> String {
    let (days, second) = (seconds / 86400, seconds % 86400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(super::time(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::time(951_827_696, 7), "2000-02-29T12:34:56.007Z");
        assert_eq!(super::time(1_795_910_400, 999), "2026-11-29T00:00:00.999Z");
    }
}
