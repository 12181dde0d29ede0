//! The table for people.

use crate::row::Row;

const TITLES: [&str; 11] = [
    "measure",
    "unit",
    "runs",
    "min",
    "median",
    "p99",
    "floor",
    "ratio",
    "budget",
    "",
    "peers (quoted, not measured here)",
];

/// Formats rows under a title line, columns aligned.
pub(crate) fn format(rows: &[Row]) -> String {
    let lines: Vec<[String; 11]> = std::iter::once(TITLES.map(str::to_owned)).chain(rows.iter().map(cells)).collect();
    let mut widths = [0; 11];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (at, (cell, width)) in line.iter().zip(widths).enumerate() {
            let gap = " ".repeat(width - cell.chars().count());
            // words begin at the left, numbers end at the right
            let is_number = matches!(at, 2..=5 | 7);
            row += &if is_number { format!("{gap}{cell}  ") } else { format!("{cell}{gap}  ") };
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

/// The same as a table of a document.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let line = |cells: [String; 11]| format!("| {} |\n", cells.join(" | "));
    let titles = [line(TITLES.map(str::to_owned)), line(TITLES.map(|_| "---".to_owned()))];
    titles.into_iter().chain(rows.iter().map(|row| line(cells(row)))).collect()
}

fn cells(row: &Row) -> [String; 11] {
    let many = row.runs > 1;
    [
        row.measure.clone(),
        row.unit.clone(),
        row.runs.to_string(),
        if many { number(row.min) } else { String::new() },
        number(row.median),
        if many { number(row.p99) } else { String::new() },
        row.floor.as_ref().map_or_else(String::new, |floor| format!("{} {}", floor.name, number(floor.median))),
        row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
        row.budget.as_ref().map_or_else(String::new, ToString::to_string),
        match row.is_met {
            None => "",
            Some(true) => "ok",
            Some(false) => "MISSED",
        }
        .to_owned(),
        row.quoted.clone().unwrap_or_default(),
    ]
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 && value.fract() != 0.0 => format!("{value:.2}"),
        middle if middle < 100.0 && value.fract() != 0.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{:.0}", value.abs());
            let mut grouped = String::from(if value < 0.0 { "-" } else { "" });
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let texts = [0.034, 1.0, 9.876, 45.67, 999.5, 1_234_567.0, -151.2, -1_234.0].map(number);
        assert_eq!(texts, ["0.03", "1", "9.88", "45.7", "1,000", "1,234,567", "-151", "-1,234"]);
    }
}
