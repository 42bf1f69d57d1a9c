//! Cutting a range into pieces that fit.

use std::ops::Range;

/// No token of a chunk is longer on average: what has more bytes for each token of the budget is cut without
/// counting, so that a text of any size is cut in time proportional to its length.
const MOST_BYTES_PER_TOKEN: usize = 32;
/// Words are looked at in runs of about this many bytes.
const WORD_RUN_BYTES: usize = 48;

/// Where a text may be cut, the best places first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Paragraph,
    Line,
    Sentence,
    Word,
    Character,
}

impl Level {
    fn finer(self) -> Self {
        match self {
            Self::Paragraph => Self::Line,
            Self::Line => Self::Sentence,
            Self::Sentence => Self::Word,
            Self::Word | Self::Character => Self::Character,
        }
    }
}

pub(super) struct Splitter<'a> {
    pub(super) text: &'a str,
    /// Tokens of a piece, overlap not included.
    pub(super) max: usize,
    pub(super) overlap: usize,
    pub(super) count: &'a dyn Fn(&str) -> usize,
}

impl Splitter<'_> {
    /// Tokens of a range, where they fit a chunk.
    pub(super) fn tokens(&self, range: Range<usize>) -> Option<usize> {
        if range.len() > self.max.saturating_mul(MOST_BYTES_PER_TOKEN) {
            return None;
        }
        let tokens = (self.count)(&self.text[range]);
        (tokens <= self.max).then_some(tokens)
    }

    /// Pieces of a range that fit, without white space around them, in order. Together they hold all of the
    /// range but white space.
    pub(super) fn split(&self, range: Range<usize>, level: Level) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        self.split_into(range, level, &mut pieces);
        if self.overlap == 0 {
            return pieces;
        }
        let mut overlapping: Vec<Range<usize>> = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.iter().enumerate() {
            let start = match index.checked_sub(1) {
                Some(before) => self.overlap_start(&pieces[before], piece.start),
                None => piece.start,
            };
            overlapping.push(start..piece.end);
        }
        overlapping
    }

    /// Where the last words of a piece begin that the next one repeats.
    fn overlap_start(&self, before: &Range<usize>, end: usize) -> usize {
        let mut start = end;
        let words: Vec<Range<usize>> = cuts(self.text, before.clone(), Level::Word).collect();
        for word in words.into_iter().rev() {
            if (self.count)(&self.text[word.start..end]) > self.overlap {
                break;
            }
            start = word.start;
        }
        start
    }

    fn split_into(&self, range: Range<usize>, level: Level, out: &mut Vec<Range<usize>>) {
        let range = trimmed(self.text, range);
        if range.is_empty() {
            return;
        }
        if self.tokens(range.clone()).is_some() {
            out.push(range);
            return;
        }
        if level == Level::Character {
            return self.halve(range, out);
        }
        let mut open: Option<(Range<usize>, usize)> = None;
        for piece in cuts(self.text, range, level) {
            let fits = self.tokens(piece.clone());
            match (&mut open, fits) {
                (Some((range, tokens)), Some(more)) if *tokens + more <= self.max => {
                    range.end = piece.end;
                    *tokens += more;
                }
                (_, Some(tokens)) => self.close(open.replace((piece, tokens)), level, out),
                (_, None) => {
                    self.close(open.take(), level, out);
                    self.split_into(piece, level.finer(), out);
                }
            }
        }
        self.close(open, level, out);
    }

    /// Tokens of pieces add up to those of the whole for most tokenisers; where they do not, the whole is cut
    /// once more.
    fn close(&self, open: Option<(Range<usize>, usize)>, level: Level, out: &mut Vec<Range<usize>>) {
        let Some((range, _)) = open else { return };
        let range = trimmed(self.text, range);
        if range.is_empty() {
            return;
        }
        match self.tokens(range.clone()) {
            Some(_) => out.push(range),
            None => self.split_into(range, level.finer(), out),
        }
    }

    /// Cuts in the middle until everything fits or is one character.
    fn halve(&self, range: Range<usize>, out: &mut Vec<Range<usize>>) {
        let mut waiting = vec![range];
        while let Some(range) = waiting.pop() {
            let range = trimmed(self.text, range);
            if range.is_empty() {
                continue;
            }
            let mut middle = range.start + range.len() / 2;
            while !self.text.is_char_boundary(middle) {
                middle += 1;
            }
            let indivisible = middle >= range.end || middle == range.start;
            if indivisible || self.tokens(range.clone()).is_some() {
                out.push(range);
            } else {
                waiting.push(middle..range.end);
                waiting.push(range.start..middle);
            }
        }
    }
}

pub(super) fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + part.len() - part.trim_start().len();
    let end = range.end - (part.len() - part.trim_end().len());
    start..end.max(start)
}

/// Consecutive pieces of a range that end where this level may cut.
fn cuts(text: &str, range: Range<usize>, level: Level) -> impl Iterator<Item = Range<usize>> {
    let (mut start, end) = (range.start, range.end);
    std::iter::from_fn(move || {
        (start < end).then(|| {
            let length = first_piece(&text[start..end], level);
            let piece = start..start + length;
            start += length;
            piece
        })
    })
}

/// Bytes of a text up to and with the white space after the first piece.
fn first_piece(text: &str, level: Level) -> usize {
    let mut ends_sentence = false;
    let mut line_is_empty = false;
    for (at, char) in text.char_indices() {
        let next = at + char.len_utf8();
        let end = match level {
            Level::Paragraph => char == '\n' && std::mem::replace(&mut line_is_empty, true),
            Level::Line => char == '\n',
            Level::Sentence => {
                // Letters of scripts without spaces go on after the mark at once.
                matches!(char, '。' | '！' | '？') || (char.is_whitespace() && ends_sentence)
            }
            Level::Word => char.is_whitespace() && next >= WORD_RUN_BYTES,
            Level::Character => true,
        };
        if char != '\n' && !char.is_whitespace() {
            line_is_empty = false;
        }
        // A closing quote or bracket after the mark still belongs to the sentence.
        ends_sentence = matches!(char, '.' | '!' | '?' | '…' | '؟' | '۔')
            || (ends_sentence && matches!(char, '"' | '\'' | ')' | ']' | '”' | '’' | '»'));
        if end {
            let rest = &text[next..];
            return next + rest.len() - rest.trim_start().len();
        }
    }
    text.len()
}
