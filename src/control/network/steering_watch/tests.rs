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
    watch.repairs = RepairRequests::new(Some(request));
    let (reply, _answer) = mpsc::sync_channel(1);
    watch.renewing = Some(PendingRenewal { reply, deadline: now, rules: BTreeSet::new(), lost: true });
    assert_eq!(said(&mut watch, now), "a renewal is requested; ");
}

#[test]
fn waiting_reload_is_answered_without_a_look() {
    let mut watch = watch("watch = false");
    let (reply, answer) = mpsc::sync_channel(1);
    let deadline = crate::clock::now();
    watch.renewing = Some(PendingRenewal { reply, deadline, rules: BTreeSet::new(), lost: true });
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

const RULES: [u64; 2] = [1, 2];

/// A watch that has seen these rules, and asks for repair by this file.
fn watch_of(request: &Path) -> SteeringWatch {
    let mut watch = watch("");
    watch.repairs = RepairRequests::new(Some(request.to_owned()));
    watch.look = SteeringLook { rules: RULES.into(), tells_renewal: true, ..SteeringLook::default() };
    watch
}

fn obstacle() -> Lost {
    let what = "a rule at priority 103 lies among them".to_owned();
    Lost { part: Part::PortRules, what, remedy: Remedy::ClearPlace }
}

/// The answer to a reload, if it comes at once.
fn reload(watch: &mut SteeringWatch, settings: &str) -> Option<SteeringRenewal> {
    let (reply, answer) = mpsc::sync_channel(1);
    watch.expect(expected(settings), reply, crate::clock::now());
    answer.try_recv().ok()
}

#[test]
fn obstacle_leaves_a_reload_to_operators() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request");
    for (lost, latent, settings, answer) in [
        (vec![], vec![], "", Some(SteeringRenewal::Unneeded)),
        (vec![], vec![obstacle()], "", Some(SteeringRenewal::Unneeded)),
        (vec![], vec![obstacle()], "ports = [7000]", Some(SteeringRenewal::ByHand)),
        (lost().lost, vec![obstacle()], "", Some(SteeringRenewal::ByHand)),
        (lost().lost, vec![], "", None),
        (vec![], vec![], "ports = [7000]", None),
    ] {
        let mut watch = watch_of(&request);
        (watch.look.lost, watch.look.latent) = (lost, latent);
        assert_eq!(reload(&mut watch, settings), answer, "{settings}");
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

#[test]
fn exemption_is_no_renewal() {
    let folder = tempfile::tempdir().unwrap();
    for (rules, answer) in [
        (vec![1, 2, 3], Err(mpsc::TryRecvError::Empty)),
        (vec![1], Err(mpsc::TryRecvError::Empty)),
        (vec![3, 4], Ok(SteeringRenewal::Renewed)),
    ] {
        let mut watch = watch_of(&folder.path().join("request"));
        let (reply, received) = mpsc::sync_channel(1);
        let now = crate::clock::now();
        let deadline = now + Duration::from_secs(5);
        watch.renewing = Some(PendingRenewal { reply, deadline, rules: RULES.into(), lost: false });
        watch.look.rules = rules.iter().copied().collect();
        watch.end_renewal(now);
        assert_eq!(received.try_recv(), answer, "{rules:?}");
        watch.renewing = None;
        watch.outdated = Some(FormerRules { rules: RULES.into(), script: String::new() });
        watch.end_renewal(now);
        watch.look_for_outdated();
        assert_eq!(watch.look.lost.is_empty(), answer.is_ok(), "{rules:?}");
    }
}

/// An obstacle keeps parts lost, and does not make a renewal of what the reload asked for.
#[test]
fn lost_parts_beside_an_obstacle_are_not_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let mut watch = watch_of(&folder.path().join("request"));
    let (reply, received) = mpsc::sync_channel(1);
    let deadline = crate::clock::now();
    watch.renewing = Some(PendingRenewal { reply, deadline, rules: RULES.into(), lost: false });
    watch.look = SteeringLook { latent: vec![obstacle()], rules: [3].into(), ..lost() };
    watch.end_renewal(deadline);
    assert_eq!(received.try_recv(), Ok(SteeringRenewal::Pending));
}

#[test]
fn renewal_given_up_is_lost_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("request");
    let mut watch = watch_of(&request);
    let (reply, received) = mpsc::sync_channel(1);
    let deadline = crate::clock::now();
    watch.repairs.ask_now(deadline);
    watch.renewing = Some(PendingRenewal { reply, deadline, rules: RULES.into(), lost: false });
    watch.outdated = Some(FormerRules { rules: RULES.into(), script: String::new() });
    watch.end_renewal(deadline);
    watch.look_for_outdated();
    assert_eq!(received.try_recv(), Ok(SteeringRenewal::Pending));
    assert_eq!(watch.look.lost.len(), 1, "{:?}", watch.look.lost);
    watch.request(deadline);
    assert!(request.exists(), "the request is not withdrawn");
}
