//! Other programs: a failure says which command failed and what it said.

use std::{
    io,
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail};

/// Runs to the end; what it prints on stderr is part of the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    finished(command).map(drop)
}

/// Standard output, without the last newline.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let bytes = finished(command)?.stdout;
    let text = String::from_utf8(bytes).with_context(|| format!("{command:?} printed no UTF-8"))?;
    Ok(text.trim_end().to_owned())
}

fn finished(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(output),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            let mut last: Vec<&str> = said.lines().rev().take(LAST_LINES).collect();
            last.reverse();
            bail!("{command:?}: {}\n{}", output.status, last.join("\n"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("{program} is not installed"),
        Err(error) => Err(error).with_context(|| program),
    }
}

const LAST_LINES: usize = 40; // a compiler's first errors, not a whole log
