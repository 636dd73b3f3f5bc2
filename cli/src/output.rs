//! The one module that prints. Text is for people and grep, JSON for programs; both come from one value.
//!
//! Marks and colour appear on a terminal only, colour not with `NO_COLOR`. A reader that has gone away (`| head`) is no error.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Table, presets};
use serde::Serialize;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// Text in columns
    #[default]
    Table,
    /// One JSON document, shapes in docs/cli.md
    Json,
}

/// Where and how a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    terminal: bool,
    colour: bool,
}

/// What a table says about one thing, at a glance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mark {
    Good,
    Bad,
    /// Neither: refused as it should be, or not in the mesh.
    Aside,
}

impl Output {
    /// To stdout, as the terminal and `NO_COLOR` (no-color.org: set and not empty) allow.
    pub fn to_stdout(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { format, terminal, colour: terminal && !no_colour }
    }

    /// Prints `value` as JSON, or as the text that `text` makes of it.
    pub fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        match self.format {
            Format::Table => self.text(&text(value)),
            Format::Json => self.print(&(serde_json::to_string_pretty(value)? + "\n")),
        }
    }

    /// Prints lines for people; a newline is added where none ends them.
    pub fn text(self, text: &str) -> io::Result<()> {
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        self.print(&(self.paint(&printable(text)) + newline))
    }

    /// Prints `text` as it is: PEM, completion scripts.
    pub fn print(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            end => end,
        }
    }

    /// A sign on a terminal, a word for everything else.
    pub fn mark(self, mark: Mark) -> &'static str {
        match (mark, self.terminal) {
            (Mark::Good, true) => GOOD,
            (Mark::Bad, true) => BAD,
            (Mark::Aside, true) => ASIDE,
            (Mark::Good, false) => "ok",
            (Mark::Bad, false) => "FAIL",
            (Mark::Aside, false) => "-",
        }
    }

    /// A word that says it all, with its sign in front on a terminal.
    pub fn marked(self, mark: Mark, word: &str) -> String {
        if self.terminal { format!("{} {word}", self.mark(mark)) } else { word.to_owned() }
    }

    /// Colours the marks after the columns are laid out, so that escapes do not count as width.
    fn paint(self, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let mut text = text.to_owned();
        for (mark, colour) in [(GOOD, "32"), (BAD, "31"), (ASIDE, "33")] {
            text = text.replace(mark, &format!("\x1b[{colour}m{mark}\x1b[0m"));
        }
        text
    }
}

/// A line for the person who waits or must know, on stderr: progress, errors. A closed stderr is no error.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// Columns without borders, two blanks apart, header in capitals: what grep and awk like.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell).replace('\n', " ")));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// What may reach a terminal: names and messages of others must not move its cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

const GOOD: &str = "✓";
const BAD: &str = "✗";
const ASIDE: &str = "∘";

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: Output = Output { format: Format::Table, terminal: false, colour: false };
    const TERMINAL: Output = Output { format: Format::Table, terminal: true, colour: true };

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        let text =
            table(["NAME", "WHY"], [["web".into(), "a\nb".into()], ["api-long".into(), String::new()]]);
        assert_eq!(text, "NAME      WHY\nweb       a b\napi-long\n");
    }

    #[test]
    fn marks_and_colour_are_for_terminals_only() {
        assert_eq!((PIPE.mark(Mark::Good), PIPE.mark(Mark::Bad)), ("ok", "FAIL"));
        assert_eq!(PIPE.paint("✓ fine"), "✓ fine");
        assert_eq!(TERMINAL.paint("✓ fine"), "\x1b[32m✓\x1b[0m fine");
    }

    #[test]
    fn the_words_of_others_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\u{9b}1m\nc"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}1m\nc");
    }
}
