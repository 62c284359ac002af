//! Huffman codes of a deflate stream as tables that are indexed with the bits to come. Up to three symbols per look-up.

/// Bits that a look into the table of literals and lengths takes at most, and one into that of distances.
pub const WIDE: usize = 12;
pub const NARROW: usize = 10;
const LONGEST: usize = 15;

// An entry of the wide table: bits 0-23 hold up to three literals, or up to two and a length less 3; bits 24-25 the number
// of literals, bit 26 whether a length follows them, bit 27 whether it is something else; bits 28-31 the bits it takes.
pub const MATCH: u32 = 1 << 26;
/// Bits 0-7 are then a symbol less 256 (the end, or a length with more extra bits than fit) or `LONG`.
pub const OTHER: u32 = 1 << 27;
/// A code that is longer than the table is wide, or none.
pub const LONG: usize = 255;
const WIDE_MASK: usize = (1 << WIDE) - 1;

/// A canonical Huffman code.
pub struct Code {
    /// By length: number of codes, the first code, and where its symbol stands in `symbols`.
    counts: [u16; LONGEST + 1],
    first: [u16; LONGEST + 1],
    place: [u16; LONGEST + 2],
    /// Symbols in the order of their codes.
    symbols: [u16; 288],
}

impl Code {
    /// None where the lengths ask for more codes than there are.
    pub fn new(lengths: &[u8]) -> Option<Code> {
        let mut counts = [0u16; LONGEST + 1];
        lengths.iter().filter(|&&length| length > 0).for_each(|&length| counts[length as usize] += 1);
        let (mut first, mut place) = ([0u16; LONGEST + 1], [0u16; LONGEST + 2]);
        let mut code = 0u32;
        for length in 1..=LONGEST {
            code = (code + u32::from(counts[length - 1])) << 1;
            if code + u32::from(counts[length]) > 1 << length {
                return None;
            }
            first[length] = code as u16;
            place[length + 1] = place[length] + counts[length];
        }
        let (mut next, mut symbols) = (place, [0; 288]);
        for (symbol, &length) in lengths.iter().enumerate().filter(|(_, &length)| length > 0) {
            symbols[next[length as usize] as usize] = symbol as u16;
            next[length as usize] += 1;
        }
        Some(Code { counts, first, place, symbols })
    }

    /// Codes of `length` bits, as their bits come, and their symbols.
    pub fn of(&self, length: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let from = self.place[length] as usize;
        (0..self.counts[length]).map(move |k| {
            let code = (self.first[length] + k).reverse_bits() >> (16 - length);
            (code as usize, self.symbols[from + k as usize] as usize)
        })
    }

    /// The next symbol and the length of its code, bit by bit.
    #[cold]
    pub fn slow(&self, bits: u64) -> Option<(usize, u32)> {
        let mut code = 0;
        for length in 1..=LONGEST {
            code = (code << 1) | (bits >> (length - 1) & 1) as usize;
            let offset = code.wrapping_sub(self.first[length] as usize);
            if offset < self.counts[length] as usize {
                return Some((self.symbols[self.place[length] as usize + offset] as usize, length as u32));
            }
        }
        None
    }
}

/// Shortest match and number of extra bits of a symbol above 256.
pub fn length(symbol: usize) -> Option<(usize, usize)> {
    match symbol {
        257..=264 => Some((symbol - 254, 0)),
        265..=284 => {
            let extra = (symbol - 261) / 4;
            Some((3 + ((4 + (symbol - 261) % 4) << extra), extra))
        }
        285 => Some((258, 0)),
        _ => None,
    }
}

/// Shortest distance and number of extra bits.
pub fn distance(symbol: usize) -> Option<(usize, u32)> {
    match symbol {
        0..=3 => Some((symbol + 1, 0)),
        4..=29 => {
            let extra = symbol / 2 - 1;
            Some((1 + ((2 + symbol % 2) << extra), extra as u32))
        }
        _ => None,
    }
}

/// What the bits of a block mean.
pub struct Tables {
    pub wide: [u32; 1 << WIDE],
    /// Bits 0-14 the shortest distance less 1, bits 16-19 extra bits, bits 28-31 bits of the code; 0: see `distances`.
    pub narrow: [u32; 1 << NARROW],
    pub literals: Code,
    pub distances: Code,
    spare: Spare,
}

/// Room for what an entry is put together of, in the order of their bits: literals, and entries that may come last.
#[derive(Default)]
struct Spare {
    literals: Vec<(u16, u32)>,
    last: Vec<(u16, u32)>,
}

impl Tables {
    pub fn new() -> Option<Box<Tables>> {
        let none = || Code::new(&[]);
        let (wide, narrow) = ([0; 1 << WIDE], [0; 1 << NARROW]);
        Some(Box::new(Tables { wide, narrow, literals: none()?, distances: none()?, spare: Spare::default() }))
    }

    pub fn fill(&mut self, literals: &[u8], distances: &[u8]) -> Option<()> {
        self.literals = Code::new(literals)?;
        self.distances = Code::new(distances)?;
        self.fill_wide();
        self.narrow[0] = 0;
        for bits in 1..=NARROW {
            self.narrow.copy_within(..1 << (bits - 1), 1 << (bits - 1));
            for (code, symbol) in self.distances.of(bits) {
                self.narrow[code] =
                    distance(symbol).map_or(0, |(base, extra)| (bits as u32) << 28 | extra << 16 | (base - 1) as u32);
            }
        }
        Some(())
    }

    /// The table for n bits is the one for n - 1 bits twice, and on top all that takes n bits: one symbol, two, three.
    fn fill_wide(&mut self) {
        let (literals, last) = self.spare.sort(&self.literals);
        let (literals, last) = (
            |bits: usize| &self.spare.literals[literals[bits]..literals[bits + 1]],
            |bits: usize| &self.spare.last[last[bits]..last[bits + 1]],
        );
        let shortest = (1..=WIDE).find(|&bits| !literals(bits).is_empty()).unwrap_or(WIDE);
        let table = &mut self.wide;
        table[0] = OTHER | LONG as u32;
        for bits in 1..=WIDE {
            table.copy_within(..1 << (bits - 1), 1 << (bits - 1));
            let taken = (bits as u32) << 28;
            for (code, symbol) in self.literals.of(bits).filter(|&(_, symbol)| symbol > 255) {
                table[code] = taken | OTHER | (symbol as u32 - 256);
            }
            last(bits).iter().for_each(|&(code, entry)| table[code as usize & WIDE_MASK] = taken | entry);
            for one in shortest..bits {
                for &(a, first) in literals(one) {
                    for &(b, entry) in last(bits - one) {
                        table[(a as usize | (b as usize) << one) & WIDE_MASK] = taken | join(entry, first, 1);
                    }
                }
                for two in shortest..bits - one {
                    let (last, place) = (last(bits - one - two), one + two);
                    if last.is_empty() {
                        continue;
                    }
                    for &(a, first) in literals(one) {
                        for &(b, second) in literals(two) {
                            let (code, both) = (a as usize | (b as usize) << one, first | second << 8);
                            for &(c, entry) in last {
                                table[(code | (c as usize) << place) & WIDE_MASK] = taken | join(entry, both, 2);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Puts `count` literals in front of an entry.
fn join(entry: u32, literals: u32, count: u32) -> u32 {
    ((entry & 0xff00_0000) + (count << 24)) | (entry & 0xff) << (8 * count) | literals
}

type Starts = [usize; WIDE + 2];

impl Spare {
    /// Sorts by the number of bits: literals, and all that may end an entry. Where each number begins.
    fn sort(&mut self, code: &Code) -> (Starts, Starts) {
        let mut starts = (Starts::default(), Starts::default());
        self.literals.clear();
        self.last.clear();
        for bits in 1..=WIDE {
            (starts.0[bits], starts.1[bits]) = (self.literals.len(), self.last.len());
            for (code, symbol) in code.of(bits).filter(|&(_, symbol)| symbol < 256) {
                self.literals.push((code as u16, symbol as u32));
                self.last.push((code as u16, 1 << 24 | symbol as u32));
            }
            for extra in 0..bits.min(6) {
                for (code, symbol) in code.of(bits - extra) {
                    if let Some((base, _)) = length(symbol).filter(|&(_, more)| more == extra) {
                        let entry = |k: usize| ((code | k << (bits - extra)) as u16, MATCH | (base - 3 + k) as u32);
                        self.last.extend((0..1 << extra).map(entry));
                    }
                }
            }
            (starts.0[bits + 1], starts.1[bits + 1]) = (self.literals.len(), self.last.len());
        }
        starts
    }
}
