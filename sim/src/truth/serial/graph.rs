//! A graph in which every edge says why.

use std::collections::{BTreeMap, VecDeque};

/// From each node to others.
pub(super) struct Graph<N, W> {
    nodes: BTreeMap<N, BTreeMap<N, W>>,
}

impl<N, W> Default for Graph<N, W> {
    fn default() -> Self {
        Graph { nodes: BTreeMap::new() }
    }
}

/// How far a depth-first search is with a node.
struct Visit {
    order: usize,
    /// The first node that is reached from here and whose component is not complete.
    low: usize,
    open: bool,
}

impl<N: Copy + Ord, W: Copy> Graph<N, W> {
    /// An edge; the first of several reasons counts. One from a node to itself is the node alone.
    pub(super) fn add(&mut self, from: N, to: N, why: W) {
        self.nodes.entry(to).or_default();
        let edges = self.nodes.entry(from).or_default();
        if from != to {
            edges.entry(to).or_insert(why);
        }
    }

    pub(super) fn nodes(&self) -> u64 {
        self.nodes.len() as u64
    }

    pub(super) fn edges(&self) -> u64 {
        self.nodes.values().map(|edges| edges.len() as u64).sum()
    }

    /// The edges of a shortest cycle of the first component that has one.
    pub(super) fn shortest_cycle(&self) -> Option<Vec<(N, W, N)>> {
        let component = self.components().into_iter().find(|nodes| nodes.len() > 1)?;
        component.iter().filter_map(|node| self.cycle_through(*node)).min_by_key(Vec::len)
    }

    /// The strongly connected components (Tarjan's algorithm, without recursion: a history may be long).
    fn components(&self) -> Vec<Vec<N>> {
        let mut visits: BTreeMap<N, Visit> = BTreeMap::new();
        let (mut components, mut open) = (Vec::new(), Vec::new());
        for start in self.nodes.keys() {
            if visits.contains_key(start) {
                continue;
            }
            let mut path = vec![self.enter(*start, &mut visits, &mut open)];
            while let Some((node, edges)) = path.last_mut() {
                let node = *node;
                if let Some(to) = edges.next() {
                    match visits.get(to) {
                        None => path.push(self.enter(*to, &mut visits, &mut open)),
                        Some(&Visit { order, open: true, .. }) => lower(&mut visits, node, order),
                        Some(_) => {}
                    }
                    continue;
                }
                path.pop();
                let Visit { order, low, .. } = visits[&node];
                if let Some((parent, _)) = path.last() {
                    lower(&mut visits, *parent, low);
                }
                if low == order {
                    let first = open.iter().rposition(|other| *other == node).unwrap_or(0);
                    let component = open.split_off(first);
                    for node in &component {
                        visits.entry(*node).and_modify(|visit| visit.open = false);
                    }
                    components.push(component);
                }
            }
        }
        components
    }

    fn enter<'a>(
        &'a self,
        node: N,
        visits: &mut BTreeMap<N, Visit>,
        open: &mut Vec<N>,
    ) -> (N, impl Iterator<Item = &'a N> + use<'a, N, W>) {
        let order = visits.len();
        visits.insert(node, Visit { order, low: order, open: true });
        open.push(node);
        (node, self.nodes[&node].keys())
    }

    /// The shortest way from a node back to it.
    fn cycle_through(&self, start: N) -> Option<Vec<(N, W, N)>> {
        let (mut came, mut queue) = (BTreeMap::new(), VecDeque::from([start]));
        while let Some(from) = queue.pop_front() {
            for (to, why) in &self.nodes[&from] {
                if came.contains_key(to) {
                    continue;
                }
                came.insert(*to, (from, *why, *to));
                if *to != start {
                    queue.push_back(*to);
                    continue;
                }
                let mut cycle = vec![came[&start]];
                while cycle[cycle.len() - 1].0 != start {
                    cycle.push(came[&cycle[cycle.len() - 1].0]);
                }
                cycle.reverse();
                return Some(cycle);
            }
        }
        None
    }
}

fn lower<N: Ord>(visits: &mut BTreeMap<N, Visit>, node: N, to: usize) {
    visits.entry(node).and_modify(|visit| visit.low = visit.low.min(to));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(edges: &[(u8, u8)]) -> Graph<u8, ()> {
        let mut graph = Graph::default();
        edges.iter().for_each(|(from, to)| graph.add(*from, *to, ()));
        graph
    }

    fn nodes(cycle: Option<Vec<(u8, (), u8)>>) -> Vec<u8> {
        cycle.unwrap_or_default().into_iter().map(|(from, ..)| from).collect()
    }

    #[test]
    fn a_shortest_cycle_is_found_behind_and_beside_what_has_none() {
        let tree = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (5, 3)];
        assert_eq!(nodes(graph(&tree).shortest_cycle()), [0_u8; 0]);
        let mut edges = tree.to_vec();
        edges.extend([(4, 6), (6, 7), (7, 4), (7, 8), (8, 7), (8, 4)]);
        assert_eq!(nodes(graph(&edges).shortest_cycle()), [7, 8]);
        assert_eq!(graph(&edges).edges(), 12);
        assert_eq!(nodes(graph(&[(1, 1), (1, 2)]).shortest_cycle()), [0_u8; 0]);
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let mut graph = Graph::default();
        (0..200_000_u32).for_each(|node| graph.add(node, node + 1, ()));
        assert!(graph.shortest_cycle().is_none());
    }

    proptest! {
        #[test]
        fn there_is_a_cycle_where_a_node_reaches_itself(edges in prop::collection::vec((0..12_u8, 0..12_u8), 0..24)) {
            let mut reach = [[false; 12]; 12];
            edges.iter().filter(|(from, to)| from != to).for_each(|(from, to)| reach[*from as usize][*to as usize] = true);
            for by in 0..12 {
                for from in 0..12 {
                    for to in 0..12 {
                        reach[from][to] |= reach[from][by] && reach[by][to];
                    }
                }
            }
            let cycle = graph(&edges).shortest_cycle();
            prop_assert_eq!(cycle.is_some(), (0..12).any(|node| reach[node][node]));
            let cycle = cycle.unwrap_or_default();
            for (at, (from, (), to)) in cycle.iter().enumerate() {
                prop_assert!(edges.contains(&(*from, *to)));
                prop_assert_eq!(*to, cycle[(at + 1) % cycle.len()].0);
            }
        }
    }
}
