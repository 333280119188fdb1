//! Disjoint sets, and an order of a graph's strongly connected parts.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Disjoint sets of the numbers below a count.
pub(super) struct Sets {
    parent: Vec<usize>,
}

impl Sets {
    pub(super) fn new(count: usize) -> Self {
        Self { parent: (0..count).collect() }
    }

    pub(super) fn find(&mut self, mut of: usize) -> usize {
        while self.parent[of] != of {
            self.parent[of] = self.parent[self.parent[of]];
            of = self.parent[of];
        }
        of
    }

    pub(super) fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        self.parent[one.max(other)] = one.min(other);
    }
}

/// Vertices that depend on each other in a circle, or a single one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Step {
    /// The vertices, ascending.
    pub(super) members: Vec<usize>,
    /// Tells whether one of them, or one that comes before them, is blocked.
    pub(super) blocked: bool,
}

/// Orders the vertices so that for every edge (first, then) `first` comes before `then`; circles become one
/// step. Among those that could come next, the lowest `rank` does.
pub(super) fn order(
    count: usize,
    edges: &BTreeSet<(usize, usize)>,
    blocked: &[bool],
    rank: &[u64],
) -> Vec<Step> {
    let mut after = vec![Vec::new(); count];
    edges.iter().for_each(|(first, then)| after[*first].push(*then));
    let (part_of, part_count) = strong_parts(&after);
    let mut parts = vec![Step::default(); part_count];
    let mut part_rank = vec![u64::MAX; part_count];
    for (vertex, part) in part_of.iter().enumerate() {
        parts[*part].members.push(vertex);
        parts[*part].blocked |= blocked[vertex];
        part_rank[*part] = part_rank[*part].min(rank[vertex]);
    }
    let part_edges: BTreeSet<(usize, usize)> = edges
        .iter()
        .map(|(first, then)| (part_of[*first], part_of[*then]))
        .filter(|(first, then)| first != then)
        .collect();
    let mut part_after = vec![Vec::new(); part_count];
    let mut open_before = vec![0_usize; part_count];
    for (first, then) in &part_edges {
        part_after[*first].push(*then);
        open_before[*then] += 1;
    }
    let mut ready: BinaryHeap<Reverse<(u64, usize)>> = (0..part_count)
        .filter(|part| open_before[*part] == 0)
        .map(|part| Reverse((part_rank[part], part)))
        .collect();
    let mut steps = Vec::with_capacity(part_count);
    while let Some(Reverse((_, part))) = ready.pop() {
        for then in &part_after[part] {
            parts[*then].blocked |= parts[part].blocked;
            open_before[*then] -= 1;
            if open_before[*then] == 0 {
                ready.push(Reverse((part_rank[*then], *then)));
            }
        }
        steps.push(std::mem::take(&mut parts[part]));
    }
    steps
}

/// Numbers the strongly connected parts (Tarjan 1972, without recursion) and tells each vertex's part.
fn strong_parts(after: &[Vec<usize>]) -> (Vec<usize>, usize) {
    const UNSEEN: usize = usize::MAX;
    let count = after.len();
    let (mut seen_at, mut low) = (vec![UNSEEN; count], vec![0; count]);
    let (mut part_of, mut part_count) = (vec![UNSEEN; count], 0);
    let (mut stack, mut clock) = (Vec::new(), 0);
    for start in 0..count {
        let mut calls = if seen_at[start] == UNSEEN { vec![(start, 0)] } else { Vec::new() };
        while let Some((vertex, next)) = calls.pop() {
            if next == 0 {
                (seen_at[vertex], low[vertex]) = (clock, clock);
                clock += 1;
                stack.push(vertex);
            } else {
                let child = after[vertex][next - 1];
                low[vertex] = low[vertex].min(low[child]);
            }
            let mut next = next;
            while let Some(child) = after[vertex].get(next) {
                next += 1;
                if seen_at[*child] == UNSEEN {
                    calls.push((vertex, next));
                    calls.push((*child, 0));
                    break;
                }
                if part_of[*child] == UNSEEN {
                    low[vertex] = low[vertex].min(seen_at[*child]);
                }
            }
            let returned = calls.last().is_none_or(|(_, state)| *state != 0);
            if returned && low[vertex] == seen_at[vertex] {
                while let Some(member) = stack.pop() {
                    part_of[member] = part_count;
                    if member == vertex {
                        break;
                    }
                }
                part_count += 1;
            }
        }
    }
    (part_of, part_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(steps: &[Step]) -> Vec<Vec<usize>> {
        steps.iter().map(|step| step.members.clone()).collect()
    }

    #[test]
    fn edges_decide_then_rank_and_circles_become_one_step() {
        let edges = BTreeSet::from([(2, 0), (0, 1), (1, 0), (1, 3)]);
        let steps = order(5, &edges, &[false; 5], &[1, 2, 9, 3, 4]);
        assert_eq!(members(&steps), [vec![4], vec![2], vec![0, 1], vec![3]]);
    }

    #[test]
    fn what_comes_after_something_blocked_is_blocked_and_nothing_else() {
        let edges = BTreeSet::from([(0, 1), (1, 2), (3, 2), (3, 4)]);
        let steps = order(5, &edges, &[false, true, false, false, false], &[0, 1, 2, 3, 4]);
        let blocked: Vec<_> = steps.iter().filter(|step| step.blocked).map(|step| step.members[0]).collect();
        assert_eq!(blocked, [1, 2]);
    }

    #[test]
    fn every_order_of_a_generated_graph_respects_its_edges() {
        let mut seed = 7_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        for _ in 0..500 {
            let count = 1 + random(12);
            let edges: BTreeSet<_> = (0..random(24)).map(|_| (random(count), random(count))).collect();
            let steps = order(count, &edges, &vec![false; count], &vec![0; count]);
            let mut place = vec![usize::MAX; count];
            for (at, step) in steps.iter().enumerate() {
                step.members.iter().for_each(|vertex| place[*vertex] = at);
            }
            let mut reach = vec![vec![false; count]; count];
            edges.iter().for_each(|(a, b)| reach[*a][*b] = true);
            for via in 0..count {
                for from in 0..count {
                    for to in 0..count {
                        reach[from][to] |= reach[from][via] && reach[via][to];
                    }
                }
            }
            assert!(!place.contains(&usize::MAX));
            for (a, b) in &edges {
                assert!(place[*a] <= place[*b], "{edges:?}");
                assert_eq!(place[*a] == place[*b], a == b || reach[*b][*a], "{edges:?}");
            }
        }
    }
}
