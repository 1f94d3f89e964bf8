//! Circles in a graph of a few dozen nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A shortest circle out of every knot, which is a set of nodes that all lead to each other. A circle is told from
/// its smallest node on and does not repeat it at the end.
pub fn circles<N: Ord>(edges: &BTreeSet<(N, N)>) -> Vec<Vec<&N>> {
    let nodes: BTreeSet<&N> = edges.iter().map(|(from, _)| from).collect();
    let mut told = BTreeSet::new();
    let mut circles = Vec::new();
    for &node in &nodes {
        if told.contains(node) || way(edges, node, node).is_none() {
            continue;
        }
        let leads_back =
            |&&other: &&&N| way(edges, node, other).is_some() && way(edges, other, node).is_some();
        let knot: Vec<&N> = nodes.iter().filter(leads_back).copied().collect();
        let shortest = knot.iter().filter_map(|&member| way(edges, member, member));
        circles.extend(shortest.min_by_key(Vec::len));
        told.extend(knot);
    }
    circles
}

/// The nodes on a shortest way from `from` to `to`, without `to`.
fn way<'e, N: Ord>(edges: &'e BTreeSet<(N, N)>, from: &'e N, to: &N) -> Option<Vec<&'e N>> {
    let mut came_from: BTreeMap<&N, &N> = BTreeMap::new();
    let mut waiting = VecDeque::from([from]);
    while let Some(here) = waiting.pop_front() {
        for (_, next) in edges.iter().filter(|(from, _)| from == here) {
            if next == to {
                let mut way = vec![here];
                while *way.last()? != from {
                    way.push(came_from.get(way.last()?)?);
                }
                way.reverse();
                return Some(way);
            }
            if next != from && !came_from.contains_key(next) {
                came_from.insert(next, here);
                waiting.push_back(next);
            }
        }
    }
    None
}
