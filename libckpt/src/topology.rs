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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
            let node = host.to_string_lossy().into_owned();
            Place {
                switch: switch(&node),
                node,
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

/// The leaf switch of this node: from `SLURM_TOPOLOGY_ADDR` (`spine.leaf1.n1`), if that is about this node
/// (below mpirun it may be that of the batch script's), else from Slurm's `topology.conf`.
fn switch(host: &str) -> Option<String> {
    let short = host.split('.').next().unwrap_or(host);
    let address = std::env::var("SLURM_TOPOLOGY_ADDR").ok();
    if let Some(switch) = address.as_deref().and_then(|a| switch_in_address(a, short)) {
        return Some(switch);
    }
    std::env::var_os("SLURM_JOB_ID")?;
    let configuration = std::env::var_os("SLURM_CONF")
        .map_or_else(|| "/etc/slurm/slurm.conf".into(), std::path::PathBuf::from);
    let text = std::fs::read_to_string(configuration.with_file_name("topology.conf")).ok()?;
    switch_in_file(&text, short)
}

/// The switch in `spine.leaf1.n1`, if that is `node`'s.
fn switch_in_address(address: &str, node: &str) -> Option<String> {
    let (switch, name) = address.rsplit_once('.')?;
    (name == node && !switch.is_empty()).then(|| switch.to_owned())
}

/// The switch whose `Nodes=` in a `topology.conf` hold `node`.
fn switch_in_file(text: &str, node: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or("");
        let value = |key: &str| {
            line.split_whitespace().find_map(|word| {
                let (name, value) = word.split_once('=')?;
                name.eq_ignore_ascii_case(key).then_some(value)
            })
        };
        let switch = value("SwitchName")?;
        holds(value("Nodes")?, node).then(|| switch.to_owned())
    })
}

/// Whether a list of hosts as Slurm writes it (`n[1-3,07],login`) holds `node`.
fn holds(list: &str, node: &str) -> bool {
    let mut rest = list;
    while !rest.is_empty() {
        // A comma inside brackets separates numbers.
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            c == ',' && depth == 0
        });
        let entry = &rest[..end.unwrap_or(rest.len())];
        if entry == node || in_range(entry, node) {
            return true;
        }
        rest = end.map_or("", |end| &rest[end + 1..]);
    }
    false
}

/// Whether `prefix[1-3,07]suffix` holds `node`.
fn in_range(entry: &str, node: &str) -> bool {
    let parts = || {
        let (prefix, rest) = entry.split_once('[')?;
        let (numbers, suffix) = rest.split_once(']')?;
        let digits = node.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let number: u64 = digits.parse().ok()?;
        Some(numbers.split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let bounds = first.parse::<u64>().ok().zip(last.parse::<u64>().ok());
            // Numbers with leading zeros have all the same width.
            let padded = first.starts_with('0') || digits.starts_with('0');
            bounds.is_some_and(|(a, b)| (a..=b).contains(&number))
                && (!padded || first.len() == digits.len())
        }))
    };
    parts().unwrap_or(false)
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
    fn switches_as_slurm_writes_them() {
        assert_eq!(
            switch_in_address("spine.leaf1.n1", "n1").as_deref(),
            Some("spine.leaf1")
        );
        assert_eq!(switch_in_address("spine.leaf1.n1", "n2"), None);
        let file = "# the tree\nSwitchName=leaf1 Nodes=n[1-2]\nSwitchName=leaf2 Nodes=n[3,10-12],gpu\nSwitchName=spine Switches=leaf[1-2]\n";
        let of = |node| switch_in_file(file, node);
        assert_eq!(of("n2").as_deref(), Some("leaf1"));
        assert_eq!(of("n3").as_deref(), Some("leaf2"));
        assert_eq!(of("n11").as_deref(), Some("leaf2"));
        assert_eq!(of("gpu").as_deref(), Some("leaf2"));
        assert_eq!((of("n4"), of("n"), of("x1")), (None, None, None));
        assert!(holds("node[001-099]-ib", "node042-ib"));
        assert!(!holds("node[001-099]-ib", "node42-ib"));
    }

    #[test]
    fn one_node_has_nobody() {
        let t = Topology::of(&places(&[(1, 0), (1, 0)]), 4);
        assert_eq!((t.partner_of, t.node_of), (vec![0], vec![0, 0]));
    }
}
