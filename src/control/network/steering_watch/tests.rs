//! Answers to reloads, requests and messages, without a kernel.

use super::*;
use crate::config;
use std::path::Path;
use std::sync::mpsc;

fn expected(settings: &str) -> ExpectedNetwork {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("egret.toml");
    let text = format!(
        "[steering]\ninterfaces = [\"ens6\"]\n{settings}\n\
         [[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n"
    );
    std::fs::write(&main, text).unwrap();
    ExpectedNetwork::of(&config::load(&main).unwrap().config, 15001)
}

fn watch(settings: &str) -> SteeringWatch {
    SteeringWatch::new(expected(settings), Readiness::new())
}

fn lost() -> SteeringLook {
    let lost = Lost { part: Part::PacketRules, what: "gone".to_owned(), remedy: Remedy::Renew };
    SteeringLook { lost: vec![lost], ..SteeringLook::default() }
}

#[test]
fn log_tells_only_requests_that_were_made() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request");
    let said = |watch: &mut SteeringWatch, now| {
        let asked = watch.request(now);
        watch.next_repair(asked, now)
    };
    let (mut watch, now) = (watch(""), crate::clock::now());
    watch.look = lost();
    watch.repairs = RepairRequests::new(Some(request.clone()));
    assert_eq!(said(&mut watch, now), "a repair is requested; ");
    let later = now + Duration::from_secs(4);
    assert_eq!(said(&mut watch, later), "the next repair is requested in 8 s; ", "nobody has taken it");
    watch.repairs = RepairRequests::new(Some(folder.path().join("no/such/folder")));
    assert_eq!(said(&mut watch, now), "the next repair is requested in 4 s; ");
    watch.repairs = RepairRequests::new(None);
    assert_eq!(said(&mut watch, now), "");
}

#[test]
fn waiting_reload_is_answered_without_a_look() {
    let mut watch = watch("watch = false");
    let (reply, answer) = mpsc::sync_channel(1);
    let deadline = crate::clock::now();
    watch.renewing = Some(PendingRenewal { reply, deadline });
    assert_eq!(watch.look(deadline), None);
    assert_eq!(answer.try_recv(), Ok(SteeringRenewal::Pending));
    assert_eq!(watch.due(), None);
}

#[test]
fn blind_watch_does_not_look_for_repairs() {
    let folder = tempfile::tempdir().unwrap();
    let (mut watch, now) = (watch(""), crate::clock::now());
    watch.repairs = RepairRequests::new(Some(folder.path().join("request")));
    watch.look = lost();
    assert!(watch.request(now) && watch.due().is_some());
    assert_eq!(watch.is_failing(), Some(false));
    watch.blind = Some("cannot read rules".to_owned());
    assert_eq!((watch.due(), watch.is_failing()), (None, Some(true)));
    watch.watched = None;
    assert_eq!((watch.look(now), watch.is_failing()), (None, None));
    assert_eq!(watch.notes(), Vec::<String>::new());
}

/// A watch that asks for repair by this file.
fn watch_of(request: &Path) -> SteeringWatch {
    let mut watch = watch("");
    watch.repairs = RepairRequests::new(Some(request.to_owned()));
    watch
}

fn obstacle() -> Lost {
    let what = "a rule at priority 103 lies among them".to_owned();
    Lost { part: Part::PortRules, what, remedy: Remedy::ClearPlace }
}

#[test]
fn obstacle_leaves_a_reload_to_operators() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request");
    for (latent, is_needed, answer) in [
        (vec![], false, Some(SteeringRenewal::Unneeded)),
        (vec![obstacle()], false, Some(SteeringRenewal::Unneeded)),
        (vec![obstacle()], true, Some(SteeringRenewal::ByHand)),
        (vec![], true, None),
    ] {
        let mut watch = watch_of(&request);
        watch.look.latent = latent;
        let (reply, received) = mpsc::sync_channel(1);
        watch.renew(is_needed, reply, crate::clock::now());
        assert_eq!(received.try_recv().ok(), answer);
        assert_eq!(request.exists(), answer.is_none());
    }
}

#[test]
fn obstacle_is_named_first_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    let mut watch = watch_of(&folder.path().join("request"));
    watch.look.lost = lost().lost;
    assert_eq!(watch.told(), Some(("gone".to_owned(), Remedy::Renew)));
    watch.look.latent = vec![obstacle()];
    let told = "a rule at priority 103 lies among them; gone".to_owned();
    assert_eq!(watch.told(), Some((told, Remedy::ClearPlace)));
    let route = Lost { part: Part::SteeringTable, what: "a route".to_owned(), remedy: Remedy::DeleteRoute };
    watch.look.lost.push(route);
    assert_eq!(watch.told(), Some(("a route; gone".to_owned(), Remedy::DeleteRoute)));
}

/// A reload waits for its steering until the deadline, without a fault being told.
#[test]
fn renewal_is_answered_in_place_or_late() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request");
    let start = crate::clock::now();
    let deadline = start + Duration::from_secs(5);
    let waits = Err(mpsc::TryRecvError::Empty);
    for (is_taken, is_lost, now, answer) in [
        (true, false, start, Ok(SteeringRenewal::Renewed)),
        (false, false, start, waits),
        (true, true, start, waits),
        (true, true, deadline, Ok(SteeringRenewal::Pending)),
        (false, false, deadline, Ok(SteeringRenewal::Pending)),
    ] {
        let mut watch = watch_of(&request);
        watch.repairs.ask_now(start);
        if is_taken {
            std::fs::remove_file(&request).unwrap();
        }
        let (reply, received) = mpsc::sync_channel(1);
        watch.renewing = Some(PendingRenewal { reply, deadline });
        watch.look = if is_lost { lost() } else { SteeringLook::default() };
        watch.end_renewal(now);
        assert_eq!((received.try_recv(), watch.renewing.is_some()), (answer, answer.is_err()));
    }
}
