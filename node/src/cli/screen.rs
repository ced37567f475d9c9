//! Text on its way to a terminal. Labels, reasons, file names, what another node says: all of it may be somebody else's,
//! and a terminal obeys what it is sent. So every line that is shown goes through here, and nothing else has to think of it.

use std::io::{self, Write};

use checkpoint::epoch::{escape_char, is_unshown};

/// Cursor to the upper left corner, and everything below it cleared.
const REDRAW: &str = "\x1b[H\x1b[J";

/// Text that may have lines and tabs; everything else that is not shown as itself comes as `\xNN`.
pub fn lines(text: &str) -> String {
    shown(text, |c| matches!(c, '\n' | '\t'))
}

/// One line, or a cell of a table.
pub fn cell(text: &str) -> String {
    shown(text, |_| false)
}

fn shown(text: &str, passes: impl Fn(char) -> bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match is_unshown(c) && !passes(c) {
            true => escape_char(c, &mut safe),
            false => safe.push(c),
        }
    }
    safe
}

/// JSON in which such characters come as `\uNNNN`, which means the same to who reads it. Outside of strings it has none.
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match is_unshown(c) {
            // All of them are in the first plane.
            true => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => safe.push(c),
        }
    }
    safe
}

/// Rows with columns as wide as their widest cell, two spaces apart; the last column is not padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < row.len() {
                let pad = widths[column] + 2 - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

/// Writes a line to stdout, over the screen as it is when `redraw` is set.
pub fn write(line: &str, redraw: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}{line}", if redraw { REDRAW } else { "" })?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Colours, a title, the cursor, a bell, a line that was never said, and text that reads backwards.
    const HOSTILE: &str = "a\x1b[31mred\x1b]0;title\x07\rb\u{9b}2J\u{202e}cba\u{2066}\u{7f}\nerror: faked";

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for safe in [lines(HOSTILE), cell(HOSTILE), table(&[vec![HOSTILE.into(), "x".into()]])] {
            assert!(safe.chars().all(|c| matches!(c, '\n' | '\t') || !is_unshown(c)), "{safe:?}");
            assert!(safe.contains("\\x1b[31mred") && safe.contains("\\xe2\\x80\\xaecba"), "{safe:?}");
        }
        assert_eq!(lines("a\nb"), "a\nb");
        assert_eq!(cell("a\nb\tc"), "a\\x0ab\\x09c");
        assert_eq!(cell("schön 漢字 👩‍💻"), "schön 漢字 👩‍💻");
        assert_eq!(table(&[vec!["a\nb".into()], vec!["c".into()]]), "a\\x0ab\nc");
    }

    #[test]
    fn json_means_the_same_and_holds_nothing_that_a_terminal_obeys() {
        let value = serde_json::json!({ "label": HOSTILE });
        let text = json(&value.to_string());
        assert!(!text.chars().any(is_unshown), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        insta::assert_snapshot!(table(&[row(["EPOCH", "AGE", "ROOT"]), row(["42", "3s", "9f31c2d0"])]), @r"
        EPOCH  AGE  ROOT
        42     3s   9f31c2d0
        ");
    }
}
