//! Which positions of rows of tokens lie in responses.

use crate::cache::TokenRow;

/// What responses lie between, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responses {
    /// What stands before one, at least a token.
    pub begin: Vec<u32>,
    /// What ends one and belongs to it; `None`: the end of its document.
    pub end: Option<Vec<u32>>,
}

impl Responses {
    /// Whether what each position predicts belongs to a response: `[positions]`.
    ///
    /// The last token before a response predicts its first one, and the last of its end predicts what is none of it any more.
    /// Nothing reaches from one document into another.
    pub fn of(&self, row: &TokenRow) -> Vec<bool> {
        let mut learned = Vec::with_capacity(row.tokens.len());
        let ends = row.documents.iter().skip(1).map(|start| *start as usize).chain([row.tokens.len()]);
        for (start, end) in row.documents.iter().map(|start| *start as usize).zip(ends) {
            let document = &row.tokens[start..end];
            // Where the response at hand begins; `None` outside of one.
            let mut inside = None;
            for at in 1..=document.len() {
                let ends =
                    |begun: usize| self.end.as_ref().is_some_and(|end| document[begun..at].ends_with(end));
                inside = match inside {
                    Some(begun) if ends(begun) => None,
                    None if document[..at].ends_with(&self.begin) => Some(at),
                    inside => inside,
                };
                learned.push(inside.is_some());
            }
        }
        learned
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks(begin: &[u32], end: Option<&[u32]>, tokens: &[u32], documents: &[u32]) -> String {
        let responses = Responses { begin: begin.to_vec(), end: end.map(<[u32]>::to_vec) };
        let row = TokenRow { tokens: tokens.to_vec(), documents: documents.to_vec() };
        responses.of(&row).into_iter().map(|learned| if learned { '+' } else { '.' }).collect()
    }

    #[test]
    fn responses_are_learned_with_their_ends() {
        // 7 8 is what begins one and 9 what ends one.
        let row = [1, 7, 8, 2, 3, 9, 4, 7, 8, 9, 7, 5];
        assert_eq!(marks(&[7, 8], Some(&[9]), &row, &[0]), "..+++...+...");
        assert_eq!(marks(&[7, 8], None, &row, &[0]), "..++++++++++");
        // In another document it begins anew, and what stands in two of them begins nothing.
        assert_eq!(marks(&[7, 8], None, &row, &[0, 4]), "..++....++++");
        assert_eq!(marks(&[7, 8], None, &row, &[0, 2, 8]), "............");
        // An end that overlaps what begins a response does not end it.
        assert_eq!(marks(&[7, 8], Some(&[8, 2]), &[7, 8, 2, 8, 2, 3], &[0]), ".+++..");
        assert_eq!(marks(&[1], Some(&[1]), &[1, 1, 1, 1], &[0]), "+.+.");
        assert_eq!(marks(&[6], None, &[], &[]), "");
    }

    proptest! {
        /// Against the definition: a position is learned from if the last whole beginning before what it predicts has no end behind it.
        #[test]
        fn positions_are_those_behind_a_beginning_without_an_end(
            tokens in prop::collection::vec(0u32..3, 1..40),
            begin in prop::collection::vec(0u32..3, 1..3),
            end in prop::option::of(prop::collection::vec(0u32..3, 1..3)),
        ) {
            let row = TokenRow { tokens: tokens.clone(), documents: vec![0] };
            let found = Responses { begin: begin.clone(), end: end.clone() }.of(&row);
            // Spans, one after the other, each searched for behind the one before.
            let mut expected = vec![false; tokens.len()];
            let find = |what: &[u32], from: usize| {
                (from..=tokens.len().saturating_sub(what.len())).find(|at| tokens[*at..].starts_with(what)).map(|at| at + what.len())
            };
            // What begins a response may overlap the end before it.
            let mut from = 0;
            let mut least = 0;
            while let Some(begun) = (from..tokens.len()).find_map(|at| find(&begin, at).filter(|e| *e > least)) {
                let ended = end.as_ref().and_then(|end| find(end, begun)).unwrap_or(tokens.len() + 1);
                (begun..ended.min(tokens.len() + 1)).for_each(|after| expected[after - 1] = true);
                if ended > tokens.len() {
                    break;
                }
                least = ended;
                from = 0;
            }
            prop_assert_eq!(found, expected);
        }
    }
}
