//! `egret reload`: reloads the running gateway's configuration and prints the result.

use super::ask::{GatewayArgs, order};
use super::journal;
use super::output::{json_line, print};
use crate::admin::ReloadAnswer;
use std::path::Path;
use std::process::ExitCode;

const REFUSED: u8 = 1;

/// Arguments of `egret reload`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReloadOptions {
    /// Print the gateway's answer, one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// Orders the reload and prints the answer; findings on files go to standard error, as in `egret check`.
pub(super) fn run(options: &ReloadOptions) -> ExitCode {
    let reload = |socket: &Path| Ok(tell(&order(socket, "/v1/reload", "")?, options.json));
    options.gateway.asked(reload)
}

fn tell(answer: &ReloadAnswer, json: bool) -> ExitCode {
    let text = if json {
        json_line(answer)
    } else {
        for finding in &answer.findings {
            journal::error(finding);
        }
        said("reloaded", answer)
    };
    print(&text, if answer.reloaded { 0 } else { REFUSED })
}

/// Describes the result of replacing the configuration; `done` names the action.
pub(super) fn said(done: &str, answer: &ReloadAnswer) -> String {
    let ReloadAnswer { config, difference, revoked, unproved, steering, .. } = answer;
    let Some(difference) = difference else {
        return format!("refused: configuration {config} stays in force\n");
    };
    let revoked = match revoked {
        0 => String::new(),
        1 => "; one live flow that is not allowed any more was reset".to_owned(),
        more => format!("; {more} live flows that are not allowed any more were reset"),
    };
    let unproved = match unproved {
        0 => String::new(),
        1 => "; one live flow goes on if what the rules now ask of its address or server is found".to_owned(),
        more => {
            format!(
                "; {more} live flows go on if what the rules now ask of their addresses or servers is found"
            )
        }
    };
    let steering = steering.as_ref().map(|said| format!("{said}\n")).unwrap_or_default();
    format!("{done}: {difference}{revoked}{unproved}\n{steering}configuration {config} is in force\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{ConfigDifference, ItemCounts};

    #[test]
    fn reload_result_is_described() {
        let names = ItemCounts { added: 2, removed: 0 };
        let mut answer = ReloadAnswer {
            reloaded: true,
            config: "00c0ffee00c0ffee".into(),
            difference: Some(ConfigDifference { names, ..ConfigDifference::default() }),
            revoked: 0,
            unproved: 0,
            steering: None,
            findings: Vec::new(),
        };
        assert_eq!(
            said("reloaded", &answer),
            "reloaded: names +2 -0\nconfiguration 00c0ffee00c0ffee is in force\n"
        );
        answer.revoked = 3;
        assert!(
            said("reloaded", &answer)
                .contains("names +2 -0; 3 live flows that are not allowed any more were reset\n")
        );
        answer.unproved = 1;
        assert!(
            said("reloaded", &answer).contains("were reset; one live flow goes on if what"),
            "{}",
            said("reloaded", &answer)
        );
        answer.steering = Some("steering was renewed for it".into());
        assert!(said("reloaded", &answer).contains("\nsteering was renewed for it\nconfiguration "));
        (answer.reloaded, answer.difference) = (false, None);
        assert_eq!(said("reloaded", &answer), "refused: configuration 00c0ffee00c0ffee stays in force\n");
    }
}
