//! `egret candidate`: a second policy, evaluated on the running gateway's flows beside the one in force.

mod promote;
mod table;

use super::ask::{AskError, GatewayArgs, ask, order};
use super::output::{json_line, print};
use super::reload;
use crate::admin::{
    CandidateReport, DropAnswer, LoadAnswer, LoadOrder, PromoteOrder, PromotionFiles, ReloadAnswer,
    RollbackReport, ShareAnswer, ShareOrder,
};
use crate::clock;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

const REFUSED: u8 = 1;

/// Arguments of `egret candidate`.
#[derive(Debug, Clone, clap::Args)]
pub struct CandidateOptions {
    #[command(subcommand)]
    action: CandidateAction,
    #[command(flatten)]
    gateway: GatewayArgs,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum CandidateAction {
    /// Have a configuration's tenants and rules judged on every flow, without effect; in place of an earlier candidate
    ///
    /// The gateway reads the file itself: put it where its user may read it, /etc/egret say. The service sees neither /home nor /tmp.
    /// policy.d/*.toml beside the file belongs to it. What only a restart can change, and pools and limits, mean nothing until it is promoted.
    ///
    /// Exit code 0: loaded; 1: refused; 2: the gateway could not be asked.
    Load {
        /// A whole configuration
        file: PathBuf,
        /// Enforce it for this share of clients, in percent, always the same ones
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: Option<u8>,
        /// Enforce it no more when it alone denies more than this share of these clients' flows within 5 minutes, in percent
        #[arg(long, value_name = "PERCENT", default_value_t = ShareOrder::MAX_DENIALS, value_parser = percentage, requires = "percent")]
        max_denials: f64,
        /// Print the gateway's answer, one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Enforce the loaded candidate for another share of the clients; the counts so far are kept
    ///
    /// A candidate that has fallen back is enforced again. What counts against it counts anew.
    ///
    /// Exit code 0: done; 1: no candidate is loaded; 2: the gateway could not be asked.
    Share {
        /// Of the clients, in percent; 0: it is judged on every flow, and enforced for nobody
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
        /// As with `load`; without it, what was said last, or 1
        #[arg(long, value_name = "PERCENT", value_parser = percentage)]
        max_denials: Option<f64>,
    },
    /// Tell what the candidate would change, by tenant and rule, with examples
    ///
    /// Exit code 0: told; 1: no candidate is loaded, or it has fallen back; 2: the gateway could not be asked.
    Status {
        /// Print the gateway's answer, one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write the candidate's files over those of the running configuration, and put them in force
    ///
    /// Run it as a user who may write there. What is replaced is kept in the folder `replaced` beside the main file.
    /// Nothing is written if a file has changed since it was loaded, or if the candidate has fallen back. Says how many live flows
    /// it resets; if it resets any, it asks first where standard input is a terminal, and goes on without asking elsewhere.
    ///
    /// Exit code 0: in force; 1: refused, and the files are as they were; 2: the gateway could not be asked.
    Promote {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Promote even a candidate that has fallen back
        #[arg(long)]
        force: bool,
    },
    /// Judge the candidate no longer, and enforce it for nobody
    ///
    /// Exit code 0: dropped; 1: no candidate was loaded; 2: the gateway could not be asked.
    Drop,
}

fn percentage(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (0.0..=100.0).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err("write a number from 0 to 100".to_owned()),
    }
}

/// Carries out the action and prints the answer; findings on files go to standard error, as in `egret check`.
pub(super) fn run(options: &CandidateOptions) -> ExitCode {
    options.gateway.asked(|socket| match act(socket, &options.action) {
        Err(AskError::Unknown(why)) => {
            eprintln!("egret: {why}");
            Ok(ExitCode::from(REFUSED))
        }
        done => done,
    })
}

fn act(socket: &Path, action: &CandidateAction) -> Result<ExitCode, AskError> {
    match action {
        CandidateAction::Load { file, percent, max_denials, json } => {
            load(socket, file, *percent, *max_denials, *json)
        }
        CandidateAction::Share { percent, max_denials } => share(socket, *percent, *max_denials),
        CandidateAction::Status { json } => status(socket, *json),
        CandidateAction::Promote { yes, force } => promote(socket, *yes, *force),
        CandidateAction::Drop => drop_it(socket),
    }
}

fn load(
    socket: &Path,
    file: &Path,
    percent: Option<u8>,
    max_denials: f64,
    json: bool,
) -> Result<ExitCode, AskError> {
    let file = absolute(file).unwrap_or_else(|_| file.to_owned());
    let body = LoadOrder { file: file.clone(), percent, max_denials };
    let answer: LoadAnswer = order(socket, "/v1/candidate/load", &json_line(&body))?;
    let code = u8::from(!answer.loaded);
    if json {
        return Ok(print(&json_line(&answer), code));
    }
    for finding in &answer.findings {
        eprintln!("{finding}");
    }
    let LoadAnswer { loaded: true, version, difference: Some(difference), revoked, .. } = answer else {
        let hint = if file.exists() { "" } else { ": there is no such file" };
        return Ok(print(&format!("refused{hint}; what was loaded before, if anything, stays\n"), REFUSED));
    };
    let (effect, reset) = (effect(percent.unwrap_or(0)), reset(revoked));
    Ok(print(
        &format!("loaded {version}: {effect}{reset}\nto the configuration in force: {difference}\n"),
        code,
    ))
}

fn share(socket: &Path, percent: u8, max_denials: Option<f64>) -> Result<ExitCode, AskError> {
    let body = ShareOrder { percent, max_denials };
    let ShareAnswer { version, percent, max_denials, revoked } =
        order(socket, "/v1/candidate/share", &json_line(&body))?;
    let (effect, reset) = (effect(percent), reset(revoked));
    let bound = match percent {
        0 => String::new(),
        _ => format!(", as long as it alone denies at most {max_denials} % of their flows"),
    };
    Ok(print(&format!("candidate {version}: {effect}{bound}{reset}\n"), 0))
}

fn effect(percent: u8) -> String {
    match percent {
        0 => "it is judged on every flow from now on, without effect".to_owned(),
        _ => format!("it is judged on every flow, and enforced for {percent} % of the clients"),
    }
}

/// Remark on live flows that were reset, if any.
fn reset(revoked: u64) -> String {
    match revoked {
        0 => String::new(),
        1 => "; one live flow that nobody allows any more was reset".to_owned(),
        more => format!("; {more} live flows that nobody allows any more were reset"),
    }
}

fn status(socket: &Path, json: bool) -> Result<ExitCode, AskError> {
    let report: CandidateReport = ask(socket, "GET", "/v1/candidate", "")?;
    let works = report.candidate.as_ref().is_some_and(|candidate| candidate.state != "fell_back");
    let text = if json { json_line(&report) } else { table::render(&report) };
    Ok(print(&text, u8::from(!works)))
}

fn promote(socket: &Path, yes: bool, force: bool) -> Result<ExitCode, AskError> {
    let PromotionFiles { candidate, running, revokes, asks, fell_back } =
        ask(socket, "GET", "/v1/candidate/files", "")?;
    if let Some(RollbackReport { time, denied, flows, .. }) = fell_back.filter(|_| !force) {
        eprintln!(
            "egret: not promoted: the candidate fell back at {time:.0}, when it alone denied {denied} of the {flows} flows of \
             its clients; `egret candidate status` says which; --force promotes it all the same"
        );
        return Ok(ExitCode::from(REFUSED));
    }
    if revokes + asks > 0 {
        eprintln!("{}", cost(revokes, asks));
        if !yes && io::stdin().is_terminal() && !is_confirmed() {
            eprintln!("egret: not promoted");
            return Ok(ExitCode::from(REFUSED));
        }
    }
    let written = match promote::write(&running, &candidate, clock::timestamp()) {
        Ok(written) => written,
        Err(why) => {
            eprintln!("egret: not promoted: {why}");
            return Ok(ExitCode::from(REFUSED));
        }
    };
    let answer: ReloadAnswer =
        match order(socket, "/v1/candidate/promote", &json_line(&PromoteOrder { force })) {
            Ok(answer) => answer,
            Err(error) => {
                // It may still come into force, so the files are not restored.
                eprint!(
                    "the files are written, and nobody knows whether they are in force:\n{}",
                    written.told()
                );
                return Err(error);
            }
        };
    if !answer.reloaded {
        eprintln!("egret: not promoted:\n{}", answer.findings.join("\n"));
        match written.take_back() {
            Ok(()) => eprintln!("the files are as they were"),
            Err(error) => eprint!("the files could not be changed back: {error}\n{}", written.told()),
        }
        return Ok(ExitCode::from(REFUSED));
    }
    for finding in &answer.findings {
        eprintln!("{finding}");
    }
    Ok(print(&(written.told() + &reload::said("promoted", &answer)), 0))
}

/// Describes the effect of a promotion on live flows.
fn cost(revokes: u64, asks: u64) -> String {
    let flows = |n: u64| if n == 1 { "1 live flow".to_owned() } else { format!("{n} live flows") };
    match (revokes, asks) {
        (revokes, 0) => format!("this resets {}, which the candidate does not allow", flows(revokes)),
        (0, asks) => format!("this resets those of {} whose name cannot be verified", flows(asks)),
        (revokes, asks) => format!(
            "this resets {}, which the candidate does not allow, and those of {} whose name cannot be verified",
            flows(revokes),
            flows(asks)
        ),
    }
}

fn is_confirmed() -> bool {
    eprint!("promote? [y/N] ");
    let mut answer = String::new();
    // The end of the input counts as no.
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn drop_it(socket: &Path) -> Result<ExitCode, AskError> {
    let DropAnswer { version, revoked } = ask(socket, "POST", "/v1/candidate/drop", "")?;
    Ok(print(&format!("dropped {version}{}\n", reset(revoked)), 0))
}
