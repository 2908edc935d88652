// SPDX-License-Identifier: Apache-2.0

//! Images: whole ones open as what they were, damaged ones do no harm.

mod common;

use common::*;
use vexfs_ann::hnsw::params::visited_words;
use vexfs_ann::hnsw::*;

const QUERY: Query = Query {
    ef: 40,
    rerank: 20,
    allowed: None,
};

fn open(
    params: Params,
    nodes: &[u32],
    uppers: &[u32],
    image: Image,
    rows: usize,
) -> Result<Index<Memory>, Report> {
    let layout = params.layout().unwrap();
    let memory = Memory::from_words(layout, nodes, uppers, rows);
    let words = memory.nodes() as usize;
    let upper_words = memory.uppers() as usize;
    Index::open(
        params,
        memory,
        image,
        &mut CheckMemory {
            counts: &mut vec![0; words],
            upper_counts: &mut vec![0; upper_words],
            queue: &mut vec![0; words],
            visited: &mut vec![0; visited_words(words as u32)],
        },
    )
}

/// An index with live, deleted and free slots.
fn used_index(rows: &[Point]) -> Index<Memory> {
    let n = rows.len() as u32;
    let index = index(PARAMS, n, rows.len());
    let mut scratch = Scratch::new(n, 512);
    for row in 0..rows.len() {
        insert(&index, &mut scratch, rows, row);
    }
    for row in (0..rows.len()).step_by(4) {
        delete(&index, &mut scratch, rows, row);
    }
    index
}

#[test]
fn an_image_opens_as_the_same_index() {
    let rows = points(600, 1);
    let index = used_index(&rows);
    let (nodes, uppers) = index.store().words();
    let copy = open(PARAMS, &nodes, &uppers, index.image(), rows.len()).unwrap();
    assert_eq!(copy.digest(), index.digest());
    assert_eq!(copy.counts().live, index.counts().live);
    let mut scratch = Scratch::new(600, 512);
    for row in (0..rows.len()).step_by(7) {
        let one = search(&copy, &mut scratch, &rows, &rows[row], 10, QUERY, |_| true);
        let other = search(&index, &mut scratch, &rows, &rows[row], 10, QUERY, |_| true);
        assert_eq!(one, other);
    }
    // It goes on: slots are used again, rows have their places.
    sweep(&copy, &rows);
    for row in 0..rows.len() {
        if row % 4 == 0 {
            insert(&copy, &mut scratch, &rows, row);
        } else {
            delete(&copy, &mut scratch, &rows, row);
        }
    }
    sweep(&copy, &rows);
    assert_eq!(assert_sound(&copy).live, 150);
}

#[test]
fn an_empty_image_opens() {
    let rows = points(50, 1);
    let empty = index(PARAMS, 50, 50);
    let (nodes, uppers) = empty.store().words();
    let copy = open(PARAMS, &nodes, &uppers, empty.image(), 50).unwrap();
    let mut scratch = Scratch::new(50, 512);
    insert(&copy, &mut scratch, &rows, 7);
    assert_eq!(assert_sound(&copy).live, 1);
}

/// Whatever an image holds, opening it ends; and an index that opens can be used.
#[test]
fn damaged_images_are_refused_or_harmless() {
    let rows = points(200, 2);
    let index = used_index(&rows);
    let (nodes, uppers) = index.store().words();
    let image = index.image();
    let words = index.layout().node_words();
    let mut rng = Rng(3);
    let (mut refused, mut opened) = (0, 0);
    for round in 0..if cfg!(miri) { 20 } else { 3000 } {
        let (mut nodes, mut uppers, mut image) = (nodes.clone(), uppers.clone(), image);
        for _ in 0..1 + rng.below(3) {
            let random = match rng.below(5) {
                0 => rng.next() as u32,
                1 => rng.below(250) as u32,
                2 => NOWHERE,
                3 => 0,
                _ => 1 << rng.below(32),
            };
            match rng.below(8) {
                0 => image.entry = (rng.below(20) as u64) << 32 | random as u64,
                1 => image.used = random,
                2 => image.used_uppers = random,
                3 => {
                    let at = rng.below(uppers.len());
                    uppers[at] = random;
                }
                4 => {
                    let at = rng.below(nodes.len());
                    nodes[at] ^= 1 << rng.below(32);
                }
                // Not in the code, where anything goes.
                _ => {
                    let at = rng.below(200) * words + DIM + rng.below(words - DIM);
                    nodes[at] = random;
                }
            }
        }
        match open(PARAMS, &nodes, &uppers, image, rows.len()) {
            Err(report) => {
                refused += 1;
                assert!(report.faults > 0 && report.first_fault.is_some());
            }
            Ok(copy) => {
                opened += 1;
                let report = check(&copy);
                assert_eq!(report.first_fault, None, "round {round}: {report:?}");
                let mut scratch = Scratch::new(200, 512);
                let far = rows[rng.below(200)].map(|x| x & 0xfff);
                let mut numeric = Tolerant(Points::new(&rows, far));
                for row in 0..30 {
                    let mut work = scratch.lend();
                    let _ = copy.insert(&mut work, &mut numeric, row);
                    let _ = copy.delete(&mut work, &mut numeric, row + 30);
                }
                let report = check(&copy);
                assert_eq!(report.first_fault, None, "round {round}: {report:?}");
            }
        }
    }
    println!("{refused} refused, {opened} opened");
    assert!(refused > 500 || cfg!(miri));
    assert!(opened > 100 || cfg!(miri));
}

#[test]
fn images_of_noise_are_refused() {
    let layout = PARAMS.layout().unwrap();
    let mut rng = Rng(5);
    for _ in 0..300 {
        let small = rng.below(2) == 0;
        let mut word = || {
            if small {
                rng.below(40) as u32
            } else {
                rng.next() as u32
            }
        };
        let nodes: Vec<u32> = (0..20 * layout.node_words()).map(|_| word()).collect();
        let uppers: Vec<u32> = (0..20 * layout.upper_words()).map(|_| word()).collect();
        let image = Image {
            entry: word() as u64,
            used: 20,
            used_uppers: 20,
            spread: [word(); OCTAVES],
        };
        assert!(open(PARAMS, &nodes, &uppers, image, 50).is_err());
    }
}

/// Points whose codes may be any words.
struct Tolerant<'a>(Points<'a>);

impl Numeric for Tolerant<'_> {
    type Error = Failure;

    fn encode(&mut self, code: &mut [u32]) -> Result<(), Failure> {
        self.0.encode(code)
    }

    fn score(
        &mut self,
        nodes: &[&[std::sync::atomic::AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), Failure> {
        for (node, out) in nodes.iter().zip(out) {
            *out = far(&self.0.query, node);
        }
        Ok(())
    }

    fn between(
        &mut self,
        from: &[std::sync::atomic::AtomicU32],
        nodes: &[&[std::sync::atomic::AtomicU32]],
        out: &mut [u32],
    ) -> Result<(), Failure> {
        let from: Point = std::array::from_fn(|i| word(from, i));
        for (node, out) in nodes.iter().zip(out) {
            *out = far(&from, node);
        }
        Ok(())
    }

    fn exact(&mut self, rows: &[u64], out: &mut [u32]) -> Result<(), Failure> {
        self.0.exact(rows, out)
    }

    fn prefetch(&self, _: &[std::sync::atomic::AtomicU32]) {}
}

fn word(node: &[std::sync::atomic::AtomicU32], i: usize) -> u32 {
    node[i].load(std::sync::atomic::Ordering::Relaxed)
}

fn far(a: &Point, node: &[std::sync::atomic::AtomicU32]) -> u32 {
    (0..DIM).fold(0, |sum: u32, i| {
        let d = a[i].abs_diff(word(node, i));
        sum.saturating_add(d.saturating_mul(d))
    })
}
