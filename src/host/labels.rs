//! Label maps as plain ids: counting them and sending them through a table.

use crate::error::{Error, Result};

/// Every value a 16-bit label file can hold.
const RAW_IDS: usize = 65536;

/// Ids of a label map, as wide as the file stores them.
#[derive(Clone, Debug, PartialEq)]
pub enum Ids {
    U8(Vec<u8>),
    U16(Vec<u16>),
}

/// Pixels of each id. Label maps are made of long runs: eight equal pixels are counted at once.
pub fn count(ids: &[u8]) -> [u64; 256] {
    let mut counts = [0; 256];
    let mut blocks = ids.chunks_exact(8);
    for block in &mut blocks {
        let eight = <[u8; 8]>::try_from(block).unwrap_or_default(); // always eight
        if u64::from_ne_bytes(eight) == u64::from_ne_bytes([eight[0]; 8]) {
            counts[block[0] as usize] += 8;
        } else {
            block.iter().for_each(|&id| counts[id as usize] += 1);
        }
    }
    blocks.remainder().iter().for_each(|&id| counts[id as usize] += 1);
    counts
}

impl Ids {
    pub fn len(&self) -> usize {
        match self {
            Ids::U8(ids) => ids.len(),
            Ids::U16(ids) => ids.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids that occur, ascending, with their numbers of pixels.
    pub fn histogram(&self) -> Vec<(u16, u64)> {
        let counts: Vec<u64> = match self {
            Ids::U8(ids) => count(ids).to_vec(),
            Ids::U16(ids) => {
                let mut counts = vec![0u64; RAW_IDS];
                ids.iter().for_each(|&id| counts[id as usize] += 1);
                counts
            }
        };
        counts.iter().enumerate().filter(|(_, &n)| n > 0).map(|(id, &n)| (id as u16, n)).collect()
    }
}

/// Raw id -> train id; raw ids that are not listed become `ignore`.
pub struct IdTable {
    values: Vec<u8>,
}

impl IdTable {
    pub fn new(pairs: &[(u32, u8)], ignore: u8) -> Result<Self> {
        let mut values = vec![ignore; RAW_IDS];
        for &(raw, train) in pairs {
            let slot = values
                .get_mut(raw as usize)
                .ok_or_else(|| Error::value(format!("id table: raw ids must lie in 0..65535, got {raw}")))?;
            *slot = train;
        }
        Ok(Self { values })
    }

    pub fn apply(&self, ids: &Ids) -> Vec<u8> {
        match ids {
            Ids::U8(ids) => ids.iter().map(|&id| self.values[id as usize]).collect(),
            Ids::U16(ids) => ids.iter().map(|&id| self.values[id as usize]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_a_plain_loop() {
        for n in [0usize, 1, 3, 4, 1003] {
            let ids: Vec<u8> = (0..n).map(|i| (i * i % 251) as u8).collect();
            let mut slow = [0u64; 256];
            ids.iter().for_each(|&id| slow[id as usize] += 1);
            assert_eq!(count(&ids), slow);
        }
    }

    #[test]
    fn the_table_sends_unlisted_ids_to_ignore() {
        let table = IdTable::new(&[(7, 0), (300, 4)], 255).expect("valid table");
        assert_eq!(table.apply(&Ids::U8(vec![7, 8, 0])), [0, 255, 255]);
        assert_eq!(table.apply(&Ids::U16(vec![300, 7, 65535])), [4, 0, 255]);
        assert!(IdTable::new(&[(70000, 0)], 255).is_err());
    }

    #[test]
    fn histogram_lists_what_occurs() {
        assert_eq!(Ids::U8(vec![3, 255, 3]).histogram(), [(3, 2), (255, 1)]);
        assert_eq!(Ids::U16(vec![300, 300]).histogram(), [(300, 2)]);
    }
}
