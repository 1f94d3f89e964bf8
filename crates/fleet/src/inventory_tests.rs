//! Names taken, raced for, given back and cleared away, without any VM.

use std::os::fd::AsFd;
use std::sync::Barrier;

use super::*;

fn name(text: &str) -> VmName {
    VmName::new(text).unwrap()
}

fn end() -> VmEnd {
    VmEnd {
        kind: EndKind::PoweredOff,
        message: "the guest powered off".to_owned(),
        exit_status: 0,
        ..died()
    }
}

fn states(inventory: &Inventory) -> String {
    let vms = inventory.list().unwrap();
    vms.iter()
        .map(|vm| format!("{} {}", vm.name, vm.state.as_str()))
        .collect::<Vec<_>>()
        .join(", ")
}

#[test]
fn one_of_many_gets_a_name_and_the_others_hear_so() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = Inventory::at(folder.path());
    let barrier = Barrier::new(8);
    let claims: Vec<_> = thread::scope(|scope| {
        let race = || {
            barrier.wait();
            inventory.claim(Some(name("web"))).unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(race)).collect();
        // Somebody who looks all the time takes no name away from anybody.
        for _ in 0..100 {
            inventory.is_running(&name("web")).unwrap();
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1);
    let words = claims
        .iter()
        .filter_map(|claim| claim.as_ref().err())
        .next()
        .unwrap()
        .to_string();
    assert_eq!(words, "a VM with the name \"web\" is running");
}

#[test]
fn a_name_is_free_again_whichever_way_its_vm_ended() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = Inventory::at(folder.path());
    let claim = || inventory.claim(Some(name("web"))).unwrap().unwrap();
    let taken = claim();
    assert_eq!(states(&inventory), "web starting");
    assert!(matches!(
        inventory.remove(&name("web")),
        Err(InventoryError::Running(_))
    ));
    drop(taken);
    assert_eq!(
        states(&inventory),
        "",
        "it never started, so nothing is left"
    );
    claim().finish(&end(), false).unwrap();
    assert_eq!(states(&inventory), "", "nothing is to be kept");
    claim().finish(&end(), true).unwrap();
    assert_eq!(states(&inventory), "web ended");
    assert_eq!(inventory.find(&name("web")).unwrap().end, Some(end()));
    let mut started = claim();
    started.started();
    drop(started);
    assert_eq!(
        inventory.find(&name("web")).unwrap().end.unwrap().kind,
        EndKind::Failed
    );
    // A process that vanishes drops nothing: only its lock goes.
    let vanished = claim();
    fs::remove_file(vanished.record().alive()).unwrap();
    std::mem::forget(vanished);
    fs::write(inventory.record(&name("web")).alive(), "").unwrap();
    assert_eq!(states(&inventory), "web died");
    inventory.remove(&name("web")).unwrap();
    assert!(matches!(
        inventory.remove(&name("web")),
        Err(InventoryError::NoSuchVm(_))
    ));
    assert!(matches!(
        inventory.find(&name("web")),
        Err(InventoryError::NoSuchVm(_))
    ));
}

#[test]
fn vms_without_a_name_get_the_first_that_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = Inventory::at(folder.path());
    let claim = || inventory.claim(None).unwrap().unwrap();
    let first = claim();
    let second = claim();
    assert_eq!(
        (first.name().as_str(), second.name().as_str()),
        ("guest", "guest-2")
    );
    first.finish(&end(), true).unwrap();
    assert_eq!(
        claim().name().as_str(),
        "guest-3",
        "a report is not thrown away while there are other names"
    );
    second.finish(&end(), false).unwrap();
    assert_eq!(claim().name().as_str(), "guest-2");
    let kept: Vec<Claim> = (0..USUAL_NAMES - 1).map(|_| claim()).collect();
    assert_eq!(
        claim().name().as_str(),
        "guest",
        "reports of VMs without a name have a greatest number"
    );
    drop(kept);
}

#[test]
fn a_folder_with_a_strange_name_is_no_vm() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = Inventory::at(folder.path());
    fs::create_dir(folder.path().join("-rf")).unwrap();
    fs::create_dir(folder.path().join("a\nb")).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    assert_eq!(states(&inventory), "");
}

fn origin(of: &str) -> VmOrigin {
    let spec = api::VmSpec {
        name: Some(name(of)),
        ..api::VmSpec::default()
    };
    VmOrigin {
        words: vec!["mother".to_owned(), "run".to_owned()],
        folder: "/".into(),
        asked: spec.clone(),
        given: spec,
        boot: None,
    }
}

/// An inventory in which `web` has ended.
fn with_ended_web(folder: &Path) -> Inventory {
    let inventory = Inventory::at(folder);
    let mut claim = inventory.claim(Some(name("web"))).unwrap().unwrap();
    claim.remember(&origin("web")).unwrap();
    claim.started();
    claim.finish(&end(), true).unwrap();
    inventory
}

#[test]
fn an_ended_vm_gets_another_name_and_a_running_one_keeps_its() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = with_ended_web(folder.path());
    inventory.rename(&name("web"), &name("db")).unwrap();
    assert_eq!(states(&inventory), "db ended");
    let db = inventory.find(&name("db")).unwrap();
    assert_eq!(db.origin, Some(origin("db")));
    let running = inventory.claim(Some(name("web"))).unwrap().unwrap();
    let refused = |old, new| {
        let refused = inventory.rename(&name(old), &name(new)).unwrap_err();
        refused.to_string()
    };
    assert_eq!(refused("db", "web"), "there is a VM \"web\" already");
    assert_eq!(refused("web", "other"), "VM \"web\" is running");
    assert_eq!(refused("none", "other"), "there is no VM \"none\"");
    drop(running);
}

#[test]
fn what_a_failed_start_took_along_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = with_ended_web(folder.path());
    let before = inventory.find(&name("web")).unwrap();
    // A start takes the name, and leaves nothing when it comes to nothing.
    drop(inventory.claim(Some(name("web"))).unwrap().unwrap());
    assert_eq!(states(&inventory), "");
    inventory.put_back(&before).unwrap();
    assert_eq!(inventory.find(&name("web")).unwrap(), before);
    inventory.put_back(&before).unwrap();
    let changed = origin("other");
    inventory.note_origin(&name("web"), &changed).unwrap();
    let found = inventory.find(&name("web")).unwrap();
    assert_eq!(found.origin, Some(changed));
}

#[test]
fn a_name_that_is_given_back_is_free_whoever_still_holds_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = Inventory::at(folder.path());
    let web = name("web");
    let check = |give_back: fn(Claim), expected: &str| {
        let mut claim = inventory.claim(Some(web.clone())).unwrap().unwrap();
        // As another process of the VM has it.
        let held = claim.as_fd().try_clone_to_owned().unwrap();
        claim.started();
        assert!(inventory.is_running(&web).unwrap());
        give_back(claim);
        assert!(!inventory.is_running(&web).unwrap(), "{expected}");
        assert_eq!(states(&inventory), expected);
        drop(held);
    };
    check(drop, "web ended");
    check(|claim| claim.finish(&end(), true).unwrap(), "web ended");
    check(|claim| claim.finish(&died(), true).unwrap(), "web died");
    check(|claim| claim.finish(&end(), false).unwrap(), "");
}
