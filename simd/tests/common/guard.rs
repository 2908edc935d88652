// SPDX-License-Identifier: Apache-2.0

//! Memory between two pages that nobody may touch: an access beyond either end is a fault.

use std::sync::atomic::AtomicU32;

/// Canary bytes on each side of a buffer that does not fill its arena.
const CANARY: usize = 64;

/// Where in its arena a buffer lies.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// Behind the first guard page.
    Start,
    /// Before the last guard page.
    End,
    /// So many bytes behind a multiple of 64, between canaries.
    Inside(usize),
}

/// Room for one buffer at a time.
pub struct Arena {
    base: *mut u8,
    size: usize,
    at: usize,
    len: usize,
}

impl Arena {
    /// Room for buffers up to `size` bytes, a multiple of the page size less 128.
    pub fn new(size: usize) -> Arena {
        let size = (size + 2 * CANARY).next_multiple_of(PAGE);
        let mut arena = Arena {
            base: map(size),
            size,
            at: 0,
            len: 0,
        };
        arena.bytes(0, Side::Start);
        arena
    }

    /// A buffer of `len` bytes and canaries around it.
    pub fn bytes(&mut self, len: usize, side: Side) -> &mut [u8] {
        assert!(len + 2 * CANARY <= self.size);
        self.at = match side {
            Side::Start => 0,
            Side::End => self.size - len,
            Side::Inside(shift) => CANARY.min(self.size - len - CANARY) + shift % 64,
        };
        self.len = len;
        // SAFETY: the arena has `size` bytes, and the borrow of it keeps all else away.
        let all = unsafe { std::slice::from_raw_parts_mut(self.base, self.size) };
        let (before, rest) = all.split_at_mut(self.at);
        let (buffer, after) = rest.split_at_mut(len);
        let from = before.len().saturating_sub(CANARY);
        before[from..].fill(0xa5);
        let to = after.len().min(CANARY);
        after[..to].fill(0xa5);
        buffer
    }

    /// As [`Arena::bytes`], for `len` words at their alignment. They hold whatever was there.
    pub fn words<T: Word>(&mut self, len: usize, side: Side) -> &mut [T] {
        let size = size_of::<T>();
        let side = match side {
            Side::Inside(shift) => Side::Inside(shift / size * size),
            side => side,
        };
        let bytes = self.bytes(len * size, side);
        // SAFETY: any bits are a word; the buffer is as long and aligned: the arena is, and its size
        // and the shift are multiples of the word's.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
    }

    /// A copy of `from`.
    pub fn put(&mut self, from: &[u8], side: Side) -> &[u8] {
        let buffer = self.bytes(from.len(), side);
        buffer.copy_from_slice(from);
        buffer
    }

    /// A copy of `from`, at the alignment of its words.
    pub fn put_words<T: Word>(&mut self, from: &[T], side: Side) -> &[T] {
        let buffer = self.words(from.len(), side);
        buffer.copy_from_slice(from);
        buffer
    }

    /// A copy of `from` that several threads could read and write.
    pub fn atoms(&mut self, from: &[u32], side: Side) -> &[AtomicU32] {
        let words = self.words(from.len(), side);
        words.copy_from_slice(from);
        // SAFETY: an atomic word has the layout of a plain one, and all of this borrow are atomic.
        unsafe { std::slice::from_raw_parts(words.as_mut_ptr().cast_const().cast(), words.len()) }
    }

    /// Whether the canaries around the latest buffer are untouched.
    pub fn is_intact(&self) -> bool {
        // SAFETY: the arena has `size` bytes, and no buffer is borrowed.
        let all = unsafe { std::slice::from_raw_parts(self.base, self.size) };
        let before = &all[self.at.saturating_sub(CANARY)..self.at];
        let end = self.at + self.len;
        let after = &all[end..self.size.min(end + CANARY)];
        before.iter().chain(after).all(|&byte| byte == 0xa5)
    }
}

/// Integers that may have any bits.
pub trait Word: Copy {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// A multiple of the page size of every processor these tests run on.
const PAGE: usize = 65536;

/// `size` bytes, a multiple of [`PAGE`], between two that nobody may touch. They are never given back.
fn map(size: usize) -> *mut u8 {
    extern "C" {
        fn mmap(at: *mut u8, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> *mut u8;
        fn mprotect(at: *mut u8, len: usize, prot: i32) -> i32;
    }
    /// PROT_READ | PROT_WRITE, and MAP_PRIVATE | MAP_ANONYMOUS.
    const ACCESS: (i32, i32) = (3, 0x22);
    // SAFETY: a new private mapping, of which nobody knows, and a part of it.
    unsafe {
        let base = mmap(std::ptr::null_mut(), size + 2 * PAGE, 0, ACCESS.1, -1, 0);
        assert_ne!(base as isize, -1, "no memory");
        let base = base.add(PAGE);
        assert_eq!(mprotect(base, size, ACCESS.0), 0);
        base
    }
}
