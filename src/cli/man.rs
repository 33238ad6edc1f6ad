//! `egret man`

use super::output::print;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Prints the manual page, or writes one for each subcommand.
pub(super) fn run(command: clap::Command, folder: Option<&Path>) -> ExitCode {
    let result = match folder {
        None => page(command),
        Some(folder) => fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(command, folder))
            .map(|()| String::new()),
    };
    match result {
        Ok(page) => print(&page, 0),
        Err(error) => {
            eprintln!("egret man: {error}");
            ExitCode::from(2)
        }
    }
}

fn page(command: clap::Command) -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
