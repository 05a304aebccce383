//! Which ranks fail together, and who keeps whose copy.
//!
//! A node is what fails as one. Nodes are numbered by first appearance in rank order, interleaved
//! over the switches where those are known, and grouped consecutively; the partner of a node is the
//! next one in its group's ring.

use serde::{Deserialize, Serialize};

use crate::collective::gather;
use crate::{Collective, Config, Error};

/// Number of a node.
pub type NodeId = u32;

/// One rank's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Host name, or `node<k>` when simulated.
    pub node: String,
    /// Switch or power domain, if known.
    pub switch: Option<String>,
}

/// The nodes of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Names of the nodes.
    pub names: Vec<String>,
    /// The node of each rank.
    pub node_of: Vec<NodeId>,
    /// The node that keeps the copies of each node; the node itself where there is no other.
    pub partner_of: Vec<NodeId>,
}

impl Topology {
    /// Asks all ranks where they are.
    ///
    /// # Errors
    /// When a rank is gone.
    pub fn discover(config: &Config, all: &dyn Collective) -> Result<Self, Error> {
        let place = if config.test_mode {
            Place {
                node: format!("node{}", all.rank() / config.node_size),
                switch: None,
            }
        } else {
            let host = hostname::get().map_err(Error::io("read", "host name"))?;
            Place {
                node: host.to_string_lossy().into_owned(),
                switch: switch(),
            }
        };
        let places = gather(all, "topology", &place)?;
        Ok(Self::of(&places, config.group_size))
    }

    /// From the places of all ranks.
    pub fn of(places: &[Place], group_size: u32) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut switches: Vec<Option<String>> = Vec::new();
        let mut node_of = Vec::new();
        for place in places {
            let at = names
                .iter()
                .position(|n| *n == place.node)
                .unwrap_or_else(|| {
                    names.push(place.node.clone());
                    switches.push(place.switch.clone());
                    names.len() - 1
                });
            node_of.push(at as NodeId);
        }
        let ring = interleaved(&switches);
        let mut partner_of: Vec<NodeId> = (0..names.len() as NodeId).collect();
        let group = (group_size.max(1) as usize).min(ring.len().max(1));
        // A last group of one node joins the one before it, so that it has somebody.
        let mut start = 0;
        while start < ring.len() {
            let mut end = (start + group).min(ring.len());
            if ring.len() - end == 1 || group == 1 {
                end = ring.len();
            }
            let members = &ring[start..end];
            for (i, &node) in members.iter().enumerate() {
                partner_of[node] = members[(i + 1) % members.len()] as NodeId;
            }
            start = end;
        }
        Self {
            names,
            node_of,
            partner_of,
        }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> u32 {
        self.names.len() as u32
    }

    /// The lowest rank of a node.
    pub fn leader(&self, node: NodeId) -> u32 {
        self.node_of.iter().position(|&n| n == node).unwrap_or(0) as u32
    }
}

/// Node numbers, taken in turn from each switch.
fn interleaved(switches: &[Option<String>]) -> Vec<usize> {
    let mut by_switch: Vec<(&Option<String>, Vec<usize>)> = Vec::new();
    for (node, switch) in switches.iter().enumerate() {
        match by_switch.iter_mut().find(|(s, _)| *s == switch) {
            Some((_, nodes)) => nodes.push(node),
            None => by_switch.push((switch, vec![node])),
        }
    }
    let longest = by_switch.iter().map(|(_, n)| n.len()).max().unwrap_or(0);
    (0..longest)
        .flat_map(|i| by_switch.iter().filter_map(move |(_, n)| n.get(i).copied()))
        .collect()
}

/// The leaf switch from `SLURM_TOPOLOGY_ADDR` (`spine.leaf1.n1`).
fn switch() -> Option<String> {
    let address = std::env::var("SLURM_TOPOLOGY_ADDR").ok()?;
    address
        .rsplit_once('.')
        .map(|(switch, _)| switch.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places(nodes: &[(u32, u32)]) -> Vec<Place> {
        nodes
            .iter()
            .map(|(n, s)| Place {
                node: format!("n{n}"),
                switch: (*s > 0).then(|| format!("s{s}")),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn partners_are_others_and_the_load_is_even(nodes in 2u32..40, per in 1u32..4, group in 1u32..9) {
            let all: Vec<_> = (0..nodes * per).map(|r| (r / per, 0)).collect();
            let t = Topology::of(&places(&all), group);
            let mut load = vec![0; nodes as usize];
            for (n, &p) in t.partner_of.iter().enumerate() {
                prop_assert_ne!(n as u32, p);
                load[p as usize] += 1;
            }
            prop_assert!(load.iter().all(|&l| l == 1));
        }
    }

    #[test]
    fn partners_sit_on_another_switch() {
        let t = Topology::of(&places(&[(1, 1), (2, 1), (3, 2), (4, 2)]), 4);
        assert_eq!(t.partner_of, [2, 3, 1, 0]);
    }

    #[test]
    fn one_node_has_nobody() {
        let t = Topology::of(&places(&[(1, 0), (1, 0)]), 4);
        assert_eq!((t.partner_of, t.node_of), (vec![0], vec![0, 0]));
    }
}
