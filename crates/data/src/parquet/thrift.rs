//! Just enough of Thrift's compact protocol
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>) to see whether a
//! structure is whole: every length and count in it is held against the bytes that are left.

/// A structure's fields, by id. Texts, lists and maps are checked and passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Structure(Vec<(i64, Field)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Integer(i64),
    Structure(Structure),
    Other,
}

impl Structure {
    pub(super) fn integer(&self, id: i64) -> Option<i64> {
        self.0.iter().find(|(found, _)| *found == id).and_then(|(_, field)| match field {
            Field::Integer(value) => Some(*value),
            Field::Structure(_) | Field::Other => None,
        })
    }

    pub(super) fn structure(&self, id: i64) -> Option<&Self> {
        self.0.iter().find(|(found, _)| *found == id).and_then(|(_, field)| match field {
            Field::Structure(inner) => Some(inner),
            Field::Integer(_) | Field::Other => None,
        })
    }
}

/// The structure that `bytes` begin with, and how many of them it takes.
pub(super) fn structure(bytes: &[u8]) -> Result<(Structure, usize), &'static str> {
    let mut reader = Reader { left: bytes };
    let found = reader.structure(0)?;
    Ok((found, bytes.len() - reader.left.len()))
}

const MOST_NESTED: u32 = 64;
const CUT: &str = "it ends in the middle of a structure";

struct Reader<'a> {
    left: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, left) = self.left.split_first().ok_or(CUT)?;
        self.left = left;
        Ok(*first)
    }

    fn skip(&mut self, count: u64) -> Result<(), &'static str> {
        let count = usize::try_from(count).map_err(|_| CUT)?;
        self.left = self.left.get(count..).ok_or(CUT)?;
        Ok(())
    }

    fn unsigned(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number has too many digits")
    }

    fn signed(&mut self) -> Result<i64, &'static str> {
        let zigzag = self.unsigned()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn structure(&mut self, depth: u32) -> Result<Structure, &'static str> {
        let mut fields = Vec::new();
        let mut id = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Structure(fields));
            }
            id = match head >> 4 {
                0 => self.signed()?,
                step => id.saturating_add(i64::from(step)),
            };
            fields.push((id, self.value(head & 0xf, true, depth)?));
        }
    }

    /// `in_field`: a field's type holds its boolean, elsewhere a byte does.
    fn value(&mut self, kind: u8, in_field: bool, depth: u32) -> Result<Field, &'static str> {
        if depth > MOST_NESTED {
            return Err("it is nested too deeply");
        }
        match kind {
            1 | 2 if in_field => {}
            1..=3 => self.skip(1)?,
            4..=6 => return self.signed().map(Field::Integer),
            7 => self.skip(8)?,
            8 => {
                let length = self.unsigned()?;
                self.skip(length)?;
            }
            9 | 10 => self.list(depth)?,
            11 => self.map(depth)?,
            12 => return self.structure(depth + 1).map(Field::Structure),
            13 => self.skip(16)?,
            _ => return Err("a field has no known type"),
        }
        Ok(Field::Other)
    }

    /// An element takes a byte at least, so more of them than bytes are left cannot be.
    fn counted(&self, count: u64) -> Result<u64, &'static str> {
        if count > self.left.len() as u64 { Err("a list is longer than the file") } else { Ok(count) }
    }

    fn list(&mut self, depth: u32) -> Result<(), &'static str> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.unsigned()?,
            short => u64::from(short),
        };
        for _ in 0..self.counted(count)? {
            self.value(head & 0xf, false, depth + 1)?;
        }
        Ok(())
    }

    fn map(&mut self, depth: u32) -> Result<(), &'static str> {
        let count = self.unsigned()?;
        if count == 0 {
            return Ok(());
        }
        let kinds = self.byte()?;
        for _ in 0..self.counted(count)? {
            self.value(kinds >> 4, false, depth + 1)?;
            self.value(kinds & 0xf, false, depth + 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{1: 150 (i32), 5: {1: -1 (i64)}, 6: true, 7: [1, 2] (bytes), 8: "ab"}`.
    const WHOLE: [u8; 17] =
        [0x15, 0xac, 0x02, 0x4c, 0x16, 0x01, 0x00, 0x11, 0x19, 0x23, 1, 2, 0x18, 2, b'a', b'b', 0];

    #[test]
    fn fields_are_found_and_the_end_is_known() {
        let mut bytes = WHOLE.to_vec();
        bytes.extend([9, 9]);
        let (found, used) = structure(&bytes).unwrap();
        assert_eq!(used, WHOLE.len());
        assert_eq!(found.integer(1), Some(150));
        assert_eq!(found.structure(5).unwrap().integer(1), Some(-1));
        assert_eq!((found.integer(5), found.structure(1).is_none(), found.integer(8)), (None, true, None));
    }

    #[test]
    fn what_is_cut_or_promises_too_much_is_refused() {
        for length in 0..WHOLE.len() {
            assert!(structure(&WHOLE[..length]).is_err(), "{length}");
        }
        // A list of 2^31 structures, a text of 2^62 bytes, structures without an end.
        assert!(structure(&[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0]).is_err());
        assert!(structure(&[0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0]).is_err());
        assert!(structure(&[0x1c; 100_000]).is_err());
        assert!(structure(&[0xff; 40]).is_err());
    }
}
