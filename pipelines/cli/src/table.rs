//! Aligned text tables.

use std::fmt;

/// A table for the screen: a header and rows, columns as wide as they must be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    header: Vec<String>,
    /// Whether a column holds numbers, which stand at the right.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

/// Characters of one cell that are shown at most.
const MAX_CELL: usize = 60;

impl Table {
    /// A table with these columns; a name that begins with `>` is a column of numbers.
    pub(crate) fn new(columns: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let columns: Vec<String> = columns.into_iter().map(|column| column.as_ref().to_owned()).collect();
        Self {
            right: columns.iter().map(|column| column.starts_with('>')).collect(),
            header: columns.into_iter().map(|column| column.trim_start_matches('>').to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        self.rows.push(cells.into_iter().map(|cell| cut(&cell.to_string())).collect());
    }

    /// Whether there is no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn widths(&self) -> Vec<usize> {
        let cells = |column: usize| {
            std::iter::once(&self.header)
                .chain(&self.rows)
                .map(move |row| row.get(column).map_or(0, |cell| cell.chars().count()))
        };
        (0..self.header.len()).map(|column| cells(column).max().unwrap_or(0)).collect()
    }
}

/// Control characters would move the cursor, and long texts the columns.
fn cut(cell: &str) -> String {
    let plain: String = cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match plain.char_indices().nth(MAX_CELL) {
        Some(_) => plain.chars().take(MAX_CELL - 1).chain(['…']).collect(),
        None => plain,
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let line = |f: &mut fmt::Formatter<'_>, row: &[String]| {
            let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, width), right)| {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if *right { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
            });
            write!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        line(f, &self.header)?;
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        write!(f, "\n{}", rule.join("  "))?;
        for row in &self.rows {
            writeln!(f)?;
            line(f, row)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_harmless() {
        let mut table = Table::new(["name", ">rows"]);
        table.row(["a", "10"]);
        table.row(["bé\u{1b}[2J", "7"]);
        assert_eq!(table.to_string(), "name    rows\n──────  ────\na         10\nbé [2J     7");
        let mut table = Table::new(["x"]);
        table.row(["y".repeat(100)]);
        assert!(table.to_string().lines().all(|line| line.chars().count() <= MAX_CELL));
    }
}
