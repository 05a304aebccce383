//! Groups as lists of world ranks, and the set operations of MPI-4.1, section 7.3.
//!
//! Lower half. A group of the program never reaches the real MPI: everything about it can be computed
//! from the list. A real group is made for the length of one call where a real procedure wants one.

use std::sync::Arc;

/// `MPI_IDENT`, `MPI_CONGRUENT`, `MPI_SIMILAR`, `MPI_UNEQUAL` without their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Same members in the same order.
    Ident,
    /// Same members in another order.
    Similar,
    /// Different members.
    Unequal,
}

/// World ranks of the members, in group order.
pub type Members = Arc<[u32]>;

/// Members of `a`, then those of `b` that are not in `a`.
pub fn union(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut out = a.to_vec();
    out.extend(b.iter().filter(|r| !a.contains(r)));
    out
}

/// Members of `a` that are also in `b`, in the order of `a`.
pub fn intersection(a: &[u32], b: &[u32]) -> Vec<u32> {
    a.iter().copied().filter(|r| b.contains(r)).collect()
}

/// Members of `a` that are not in `b`, in the order of `a`.
pub fn difference(a: &[u32], b: &[u32]) -> Vec<u32> {
    a.iter().copied().filter(|r| !b.contains(r)).collect()
}

/// The members at `ranks`; `None` if a rank is out of range or named twice.
pub fn incl(a: &[u32], ranks: &[i32]) -> Option<Vec<u32>> {
    let mut seen = vec![false; a.len()];
    let mut out = Vec::with_capacity(ranks.len());
    for &r in ranks {
        let i = usize::try_from(r).ok()?;
        let member = *a.get(i)?;
        if std::mem::replace(seen.get_mut(i)?, true) {
            return None;
        }
        out.push(member);
    }
    Some(out)
}

/// The members not at `ranks`; `None` if a rank is out of range or named twice.
pub fn excl(a: &[u32], ranks: &[i32]) -> Option<Vec<u32>> {
    let mut gone = vec![false; a.len()];
    for &r in ranks {
        let i = usize::try_from(r).ok()?;
        if std::mem::replace(gone.get_mut(i)?, true) {
            return None;
        }
    }
    Some(
        a.iter()
            .zip(&gone)
            .filter(|(_, g)| !**g)
            .map(|(m, _)| *m)
            .collect(),
    )
}

/// The ranks named by `(first, last, stride)` triplets, in order; `None` if a triplet is malformed.
pub fn expand_ranges(ranges: &[[i32; 3]]) -> Option<Vec<i32>> {
    let mut out = Vec::new();
    for &[first, last, stride] in ranges {
        if stride == 0 || (stride > 0 && first > last) || (stride < 0 && first < last) {
            return None;
        }
        let steps = (i64::from(last) - i64::from(first)) / i64::from(stride);
        for k in 0..=steps {
            out.push(i32::try_from(i64::from(first) + k * i64::from(stride)).ok()?);
        }
    }
    Some(out)
}

/// How two groups compare.
pub fn compare(a: &[u32], b: &[u32]) -> Comparison {
    if a == b {
        return Comparison::Ident;
    }
    if a.len() != b.len() {
        return Comparison::Unequal;
    }
    let (mut x, mut y) = (a.to_vec(), b.to_vec());
    x.sort_unstable();
    y.sort_unstable();
    if x == y {
        Comparison::Similar
    } else {
        Comparison::Unequal
    }
}

/// Rank of world rank `world` in the group.
pub fn rank_of(members: &[u32], world: u32) -> Option<i32> {
    // The world group and its like are the common case.
    if members.get(world as usize) == Some(&world) {
        return Some(world as i32);
    }
    members.iter().position(|&m| m == world).map(|p| p as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_operations_keep_the_order_of_the_first() {
        let a = [4, 2, 0];
        let b = [2, 3, 4];
        assert_eq!(union(&a, &b), [4, 2, 0, 3]);
        assert_eq!(intersection(&a, &b), [4, 2]);
        assert_eq!(difference(&a, &b), [0]);
        assert_eq!(incl(&a, &[2, 0]), Some(vec![0, 4]));
        assert_eq!(incl(&a, &[3]), None);
        assert_eq!(incl(&a, &[1, 1]), None);
        assert_eq!(excl(&a, &[1]), Some(vec![4, 0]));
        assert_eq!(excl(&a, &[-1]), None);
    }

    #[test]
    fn ranges_follow_the_standards_examples() {
        assert_eq!(
            expand_ranges(&[[6, 7, 1], [1, 6, 2], [0, 9, 4]]),
            Some(vec![6, 7, 1, 3, 5, 0, 4, 8])
        );
        assert_eq!(expand_ranges(&[[3, 1, -1]]), Some(vec![3, 2, 1]));
        assert_eq!(expand_ranges(&[[0, 3, 0]]), None);
        assert_eq!(expand_ranges(&[[3, 0, 1]]), None);
    }

    #[test]
    fn comparison() {
        assert_eq!(compare(&[1, 2], &[1, 2]), Comparison::Ident);
        assert_eq!(compare(&[1, 2], &[2, 1]), Comparison::Similar);
        assert_eq!(compare(&[1, 2], &[1, 3]), Comparison::Unequal);
        assert_eq!(rank_of(&[5, 1, 7], 1), Some(1));
        assert_eq!(rank_of(&[5, 1, 7], 7), Some(2));
        assert_eq!(rank_of(&[5, 1, 7], 0), None);
    }
}
