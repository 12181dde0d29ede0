//! Columns of text.

/// Lays cells out in columns with two spaces between. What is not known is `-`.
pub(crate) fn table<const N: usize>(rows: &[[Option<String>; N]]) -> String {
    Columns::new().lines(rows)
}

/// Columns that keep their widths from one batch of rows to the next.
#[derive(Debug)]
pub(crate) struct Columns<const N: usize>([usize; N]);

impl<const N: usize> Columns<N> {
    /// Columns without a width yet.
    pub(crate) fn new() -> Self {
        Self([0; N])
    }

    /// The lines of some rows; a column grows with its widest cell.
    pub(crate) fn lines(&mut self, rows: &[[Option<String>; N]]) -> String {
        let text = |cell: &Option<String>| cell.as_deref().filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
        let cells: Vec<[String; N]> = rows.iter().map(|row| std::array::from_fn(|at| text(&row[at]))).collect();
        for row in &cells {
            for (width, cell) in self.0.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &[String; N]| {
            let padded = row.iter().zip(self.0).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        cells.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_in_letters() {
        let cell = |text: &str| Some(text.to_owned());
        let rows = [[cell("DEVICE"), cell("POOL")], [cell("é"), None], [cell("a-long-name"), cell("x y")]];
        assert_eq!(table(&rows), "DEVICE       POOL\né            -\na-long-name  x y\n");
    }

    #[test]
    fn later_rows_keep_the_widths_of_earlier_ones() {
        let row = |text: &str| [[Some(text.to_owned()), Some("x".into())]];
        let mut columns = Columns::new();
        assert_eq!(columns.lines(&row("abc")), "abc  x\n");
        assert_eq!(columns.lines(&row("a")), "a    x\n");
        assert_eq!(columns.lines(&row("abcd")), "abcd  x\n");
    }
}
