//! For each invariant a small history that violates it and one near miss that does not.

mod attach;
mod claims;
mod history;
mod liveness;
mod mounts;
mod node_calls;
mod order;
mod rest;

use history::History;

/// A pair of histories for an invariant.
struct Pair {
    invariant: &'static str,
    /// What happens, with the incident's number where the specification has one.
    what: &'static str,
    bad: fn(&mut History),
    near: fn(&mut History),
}

/// Plays both histories with nothing but their invariant watched.
fn hold(pairs: &[Pair]) {
    for Pair { invariant, what, bad, near } in pairs {
        let found = |play: fn(&mut History)| {
            let mut history = History::new(Some(&[(*invariant).to_owned()]));
            play(&mut history);
            history.end()
        };
        assert_ne!(found(*bad), [""; 0], "{invariant}: {what}");
        assert_eq!(found(*near), [""; 0], "{invariant}: the near miss of {what}");
    }
}

#[test]
fn every_invariant_that_can_be_seen_has_a_pair() {
    let pairs = [attach::PAIRS, claims::PAIRS, liveness::PAIRS, mounts::PAIRS, order::PAIRS, rest::PAIRS];
    for row in crate::invariants::all() {
        let has = pairs.iter().any(|pairs| pairs.iter().any(|pair| pair.invariant == row.name));
        let nowhere = matches!(row.reach, crate::invariants::Reach::Nowhere(_));
        assert_ne!(has, nowhere, "{}", row.name);
    }
}

#[test]
fn a_whole_life_breaks_nothing() {
    let mut history = History::new(None);
    history::life(&mut history);
    assert_eq!(history.end(), [""; 0]);
}
