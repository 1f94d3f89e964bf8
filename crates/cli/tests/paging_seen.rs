//! What one sees of a guest that is given less memory than it believes to have.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::common::Terminal;
use crate::common::limited::Limited;
use crate::common::nobody::Who;
use serde_json::Value;

as_oneself_and_as_nobody!(what_a_limited_guest_has_and_what_it_believes_stand_side_by_side);

/// What a guest says of itself, what its kernel has in its books and what it was given, in all three views.
fn what_a_limited_guest_has_and_what_it_believes_stand_side_by_side(who: Who) {
    let Some(guest) = Limited::new("less", who) else {
        return;
    };
    guest.start(&["--resident-limit", "40M"]);
    guest.type_line(include_str!("paging_seen.sh"));
    guest.until("a full guest", || guest.log().contains("filled"));
    let ps = guest.ps();
    assert_eq!(ps["memory_given_bytes"], 160 << 20);
    let resident = ps["memory_resident_bytes"].as_u64().unwrap();
    assert!(resident <= (40 << 20) * 102 / 100, "{ps}");

    let truth: Value =
        serde_json::from_str(&guest.call(&["truth", "--json", "less"]).stdout).unwrap();
    let row = |rule: &str| {
        truth["rows"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["rule"] == rule)
            .unwrap()
    };
    let paged = row("free-while-paged-out");
    assert_eq!(paged["verdict"], "costs", "{truth:#}");
    assert!(
        paged["kernel"].as_str().unwrap().ends_with("free"),
        "{paged:#}"
    );
    assert!(
        paged["truth"].as_str().unwrap().ends_with("paged out"),
        "{paged:#}"
    );
    let used = row("dead-memory");
    assert!(
        used["truth"].as_str().unwrap().ends_with("held"),
        "{used:#}"
    );
    let table = guest.call(&["truth", "less"]).stdout;
    assert!(
        table.contains("nothing that the guest still wants"),
        "{table}"
    );
    assert!(
        table.contains("\ngiven    40M at a time of the 160M that it believes to have; "),
        "{table}"
    );
    assert!(
        table.contains(" compressed") && table.contains("\nuses     "),
        "{table}"
    );
    let memory = &truth["memory"];
    let number = |name: &str| memory[name].as_u64().unwrap();
    let away: u64 = memory["paged_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|place| place["value"].as_u64().unwrap())
        .sum();
    assert_eq!(
        number("given_bytes"),
        number("resident_bytes") + number("given_back_bytes") + away
    );
    assert!(
        away > 40 << 20 && number("resident_bytes") <= (40 << 20) * 102 / 100,
        "{memory:#}"
    );

    let mut top = Terminal::new(&guest.mother, "stty rows 30 cols 100; $MOTHER top");
    // Only what changes is drawn, so words and not sentences.
    top.expect("160M");
    top.expect("costs");
    top.send("t");
    top.expect("believes");
    top.expect("compressed");
    top.expect("paged-out");
    top.send("qq");
    top.finish();

    // What was given stays given when the limit is lifted, and nothing is away any more but zeros.
    let given = || guest.client().books().unwrap().memory.given_bytes;
    let before = given();
    assert_eq!(
        guest.call(&["limit", "less", "--resident", "none"]).status,
        Some(0)
    );
    let away = || guest.client().books().unwrap().memory.paged_out;
    guest.until("everything coming back", || {
        away().iter().all(|place| place.name == "zeros")
    });
    assert!(given() >= before, "{} after {before}", given());
}
