//! `egret man`

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Prints the manual page, or writes one for each subcommand.
pub(super) fn run(command: clap::Command, folder: Option<&Path>) -> ExitCode {
    let result = match folder {
        None => print(command),
        Some(folder) => fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("egret man: {error}");
            ExitCode::from(2)
        }
    }
}

fn print(command: clap::Command) -> io::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    io::stdout().write_all(&page)
}
