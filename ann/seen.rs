// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Rows that a search has met, where they may be in several lists.

/// Rows that came by already.
pub(crate) struct Seen<'a> {
    visited: &'a mut [u64],
    touched: &'a mut [u32],
    used: usize,
}

impl<'a> Seen<'a> {
    /// None yet. `visited` is all 0, and will be in the end; `touched` is where the words are noted that are not.
    pub(crate) fn new(visited: &'a mut [u64], touched: &'a mut [u32]) -> Self {
        Seen {
            visited,
            touched,
            used: 0,
        }
    }

    /// Marks a row; says whether it was not marked before. One for which there is no bit counts as marked.
    pub(crate) fn insert(&mut self, row: u64) -> bool {
        let at = row / 64;
        let Some(word) = self.visited.get_mut(at as usize) else {
            return false;
        };
        if *word == 0 {
            if let Some(place) = self.touched.get_mut(self.used) {
                *place = at as u32;
            }
            self.used = self.used.saturating_add(1);
        }
        let bit = 1 << (row % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        match self.touched.get(..self.used) {
            Some(touched) => {
                for &at in touched {
                    if let Some(word) = self.visited.get_mut(at as usize) {
                        *word = 0;
                    }
                }
            }
            None => self.visited.fill(0),
        }
        self.used = 0;
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}
