//! docs/commands.md, from the help of the commands.

use super::Cli;
use clap::{Command, CommandFactory};
use std::fmt::Write as _;

/// Begins the paragraph of exit codes in the help of a command.
const EXIT_CODES: &str = "Exit code ";

/// Returns docs/commands.md.
pub fn reference() -> String {
    let mut text = "# Commands\n\n\
        `egret COMMAND --help` and `man egret-COMMAND` describe each command and its options; this table is generated from them. \
        Exit code 0 is yes or done, 1 is no, and 2\nis for what could not be done, a mistake on the command line included. \
        Scripts may rely on them.\n\n\
        Commands that only ask the running gateway or read its logs also answer while the configuration has errors: they say so in one \
        line on standard\nerror, and go by the last good configuration, which the gateway keeps in `/var/lib/egret`. If `egret run` has another `--state FOLDER`, set\n\
        `STATE_DIRECTORY=FOLDER` for them.\n\n\
        | command | does | 0 | 1 | 2 |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut root = Cli::command();
    root.build();
    root.get_subcommands().for_each(|command| write_rows(&mut text, "egret", command));
    text
}

/// One row for each command that can be run by itself.
fn write_rows(text: &mut String, parent: &str, command: &Command) {
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    if let Some(codes) = exit_codes(command) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let [done, no, failed] = ["0", "1", "2"].map(|code| meaning(&codes, code));
        // writing to a String cannot fail
        let _ = writeln!(text, "| `{name}` | {about} | {done} | {no} | {failed} |");
    }
    command.get_subcommands().for_each(|command| write_rows(text, &name, command));
}

fn exit_codes(command: &Command) -> Option<String> {
    let help = command.get_long_about()?.to_string();
    help.split("\n\n").find_map(|paragraph| Some(paragraph.strip_prefix(EXIT_CODES)?.to_owned()))
}

/// The meaning of a code in a list such as `0: yes; 1: no`; empty if it is not in there.
fn meaning(codes: &str, code: &str) -> String {
    let meanings = codes.trim_end_matches('.').split("; ").filter_map(|one| one.split_once(": "));
    meanings.filter(|(known, _)| *known == code).map(|(_, meaning)| meaning.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands_without_codes(parent: &str, command: &Command) -> Vec<String> {
        let name = format!("{parent} {}", command.get_name());
        let runs = !command.is_subcommand_required_set() && command.get_name() != "help";
        let codes = exit_codes(command).unwrap_or_default();
        let silent = runs && (meaning(&codes, "0").is_empty() || meaning(&codes, "2").is_empty());
        let below = command.get_subcommands().flat_map(|command| commands_without_codes(&name, command));
        silent.then(|| name.clone()).into_iter().chain(below).collect()
    }

    #[test]
    fn commands_tell_where_the_last_good_is() {
        let mut root = Cli::command();
        root.build();
        let all = root
            .get_subcommands()
            .flat_map(|command| std::iter::once(command).chain(command.get_subcommands()));
        let said = all.filter_map(|command| Some(command.get_long_about()?.to_string()));
        let said: Vec<_> =
            said.filter(|about| about.contains("goes by the last good configuration")).collect();
        assert!(said.len() >= 6 && said.iter().all(|about| about.contains("STATE_DIRECTORY")), "{said:#?}");
    }

    #[test]
    fn every_command_states_its_exit_codes() {
        let mut root = Cli::command();
        root.build();
        let silent = root.get_subcommands().flat_map(|command| commands_without_codes("egret", command));
        let silent: Vec<_> = silent.filter(|name| !name.contains(" help")).collect();
        assert_eq!(silent, Vec::<String>::new());
    }
}
