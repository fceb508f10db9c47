//! Plain aligned columns: no boxes, nothing that a pipe would stumble over.

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings. The columns to give up first on a narrow terminal are
/// named with their rank: the highest goes first, rank 0 always stays.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align, u8)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align, u8)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The table as lines, at most `width` columns wide where that can be had by
    /// dropping columns.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().map(|row| row[i].chars().count());
                cells.chain([self.columns[i].0.len()]).max().unwrap_or(0)
            })
            .collect();
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        while let Some(limit) = width {
            let total: usize =
                shown.iter().map(|&i| widths[i] + 2).sum::<usize>().saturating_sub(2);
            let victim = shown
                .iter()
                .copied()
                .filter(|&i| self.columns[i].2 > 0)
                .max_by_key(|&i| self.columns[i].2);
            match victim {
                Some(victim) if total > limit => shown.retain(|&i| i != victim),
                _ => break,
            }
        }
        let mut text = String::new();
        let heading: Vec<String> = self.columns.iter().map(|c| c.0.to_owned()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for &i in &shown {
                if !line.is_empty() || i != shown[0] {
                    line.push_str("  ");
                }
                let pad = widths[i] - row[i].chars().count();
                match self.columns[i].1 {
                    Align::Left => {
                        line.push_str(&row[i]);
                        line.extend(std::iter::repeat_n(' ', pad));
                    }
                    Align::Right => {
                        line.extend(std::iter::repeat_n(' ', pad));
                        line.push_str(&row[i]);
                    }
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_dropped_by_rank() {
        let mut table = Table::new(&[
            ("NAME", Align::Left, 0),
            ("SIZE", Align::Right, 0),
            ("TERM", Align::Right, 2),
            ("INDEX", Align::Right, 1),
        ]);
        table.row(vec!["k1".into(), "1.19 GB".into(), "4".into(), "612,114".into()]);
        assert_eq!(
            table.render(None),
            "NAME     SIZE  TERM    INDEX\nk1    1.19 GB     4  612,114\n"
        );
        assert_eq!(table.render(Some(24)), "NAME     SIZE    INDEX\nk1    1.19 GB  612,114\n");
        assert_eq!(table.render(Some(5)), "NAME     SIZE\nk1    1.19 GB\n");
    }
}
