//! Which pieces of a guest's memory shall be one huge page again. Decides by what is known of their pages, and looks at
//! nothing.

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// It holds something, of this process alone.
    Own,
    /// It takes no memory: nobody touched it, or it is the kernel's one page of zeros. In a huge page it would take some.
    Empty,
    /// It must stay as it is: it is swapped out, and would have to be read again, or it is shared with others (KSM), and
    /// would be no more.
    Foreign,
}

/// A piece of memory as long as a huge page and aligned like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its address.
    pub start: u64,
    /// How many of its pages hold something.
    pub own: usize,
    /// How many take no memory.
    pub empty: usize,
}

impl Piece {
    /// The piece at `start` with these pages; `None` for one that is better left alone.
    pub fn of(start: u64, pages: impl IntoIterator<Item = Page>) -> Option<Self> {
        let (mut own, mut empty) = (0, 0);
        for page in pages {
            match page {
                Page::Own => own += 1,
                Page::Empty => empty += 1,
                Page::Foreign => return None,
            }
        }
        (own > 0).then_some(Self { start, own, empty })
    }
}

/// The pieces of `pieces` that become huge pages, the fullest first, for as long as no more than `budget` pages are added
/// to what the process takes.
pub(super) fn choose(mut pieces: Vec<Piece>, budget: usize) -> Vec<Piece> {
    pieces.sort_by_key(|piece| (piece.empty, piece.start));
    let mut added = 0_usize;
    pieces
        .into_iter()
        .take_while(|piece| {
            added = added.saturating_add(piece.empty);
            added <= budget
        })
        .collect()
}

/// Pieces that lie side by side as one range, no longer than `longest`: address and length.
pub(super) fn ranges(chosen: &[Piece], length: u64, longest: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for piece in chosen {
        match ranges.last_mut() {
            Some((start, bytes))
                if *start + *bytes == piece.start && *bytes + length <= longest =>
            {
                *bytes += length;
            }
            Some(_) | None => ranges.push((piece.start, length)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: usize = 8;

    fn page() -> impl Strategy<Value = Page> {
        prop_oneof![
            8 => Just(Page::Own),
            4 => Just(Page::Empty),
            1 => Just(Page::Foreign),
        ]
    }

    /// Pieces with all their pages, in the order of their addresses.
    fn memory() -> impl Strategy<Value = Vec<Vec<Page>>> {
        prop::collection::vec(prop::collection::vec(page(), PAGES), 0..40)
    }

    fn pieces(memory: &[Vec<Page>]) -> Vec<Piece> {
        (0_u64..)
            .zip(memory)
            .filter_map(|(number, pages)| Piece::of(number, pages.iter().copied()))
            .collect()
    }

    proptest! {
        #[test]
        fn pieces_with_a_page_that_is_foreign_or_without_any_that_holds_something_are_left_alone(memory in memory()) {
            for piece in pieces(&memory) {
                let pages = &memory[usize::try_from(piece.start).unwrap()];
                prop_assert!(!pages.contains(&Page::Foreign));
                prop_assert!(pages.contains(&Page::Own));
                prop_assert_eq!(piece.own + piece.empty, PAGES);
            }
        }

        #[test]
        fn the_fullest_pieces_are_chosen_until_the_next_one_would_add_too_much(
            memory in memory(), budget in 0_usize..100,
        ) {
            let all = pieces(&memory);
            let chosen = choose(all.clone(), budget);
            let added: usize = chosen.iter().map(|piece| piece.empty).sum();
            prop_assert!(added <= budget);
            let mut left: Vec<_> = all.into_iter().filter(|piece| !chosen.contains(piece)).collect();
            left.sort_by_key(|piece| piece.empty);
            if let Some(next) = left.first() {
                prop_assert!(added + next.empty > budget);
                prop_assert!(chosen.iter().all(|piece| piece.own >= next.own));
            }
            prop_assert!(chosen.windows(2).all(|two| two[0].own >= two[1].own));
        }

        #[test]
        fn ranges_hold_each_chosen_piece_once_and_nothing_else(memory in memory(), longest in 1_u64..5) {
            let chosen = choose(pieces(&memory), usize::MAX);
            let ranges = ranges(&chosen, 1, longest);
            let held: Vec<u64> = ranges.iter().flat_map(|(start, length)| *start..start + length).collect();
            let starts: Vec<u64> = chosen.iter().map(|piece| piece.start).collect();
            prop_assert_eq!(held, starts);
            prop_assert!(ranges.iter().all(|(_, length)| *length <= longest));
        }
    }
}
