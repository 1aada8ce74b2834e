//! Plain tables for terminals.

/// Prints rows under a header, columns aligned: the first to the left, numbers to the right.
pub fn print(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|title| title.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let right = |column: usize| {
        column > 0
            && rows
                .iter()
                .filter_map(|row| row.get(column))
                .all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    };
    let rights: Vec<bool> = (0..header.len()).map(right).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).zip(&rights).map(|((cell, width), right)| {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            if *right { format!("{gap}{cell}") } else { format!("{cell}{gap}") }
        });
        println!("  {}", padded.collect::<Vec<_>>().join("   ").trim_end());
    };
    line(&header.iter().map(|title| (*title).to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}
